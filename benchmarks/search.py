"""Cost of exact search, against faiss's flat index and bare products, and its growth with the gallery."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import Row, cost
from skumatch.retrieval.rank import FIRST_K
from skumatch.retrieval.search import Backend, SearchIndex, Vectors, top_k

ROUNDS, TILE = 6, 32_768
PAUSE = 0.2  # seconds before each call, until the threads of the call before are idle


class SearchRace(NamedTuple):
    """Seconds of all queries in each round.

    Attributes:
        ours: skumatch's search.
        flat: faiss's flat index.
        products: the inner products alone.
    """

    ours: tuple[float, ...]
    flat: tuple[float, ...]
    products: tuple[float, ...]

    def against(self, other: tuple[float, ...]) -> float:
        """Return the other way's time over that of skumatch's search: the median over the rounds."""
        return median(other_s / ours_s for other_s, ours_s in zip(other, self.ours, strict=True))


def bench_search(sizes: Sequence[int], dim: int, queries: int, backend: Backend) -> Iterator[Row]:
    """Measure the speed against peer and ceiling and the memory beyond the vectors, and how both grow.

    Args:
        sizes: numbers of gallery images, small to large.
        dim: length of a vector.
        queries: number of queries.
        backend: of skumatch's search.
    """
    races, beyond = [], []  # beyond: MiB beyond the vectors
    for size in sizes:
        times: SearchRace = cost(race, size, dim, queries, backend).result
        races.append(times)
        ours_ms, flat_ms, products_ms = (1000 * median(seconds) / queries for seconds in times)
        parts = f"{ours_ms:.2f} ms a query; faiss {flat_ms:.2f}, products alone {products_ms:.2f}"
        yield Row(
            f"faiss IndexFlatIP / exact search, {size:,} images",
            times.against(times.flat),
            0.95,
            "x",
            parts,
            "more",
        )
        yield Row(
            f"share of the GEMM ceiling, {size:,} images",
            100 * times.against(times.products),
            70,
            "%",
            "",
            "more",
        )
        beyond.append(cost(search, size, dim, queries, backend).peak_mib - size * dim * 4 / 2**20)
        yield Row(
            f"memory beyond the vectors, {size:,} images",
            beyond[-1],
            1024,
            "MiB",
            f"{queries:,} queries, k {FIRST_K}",
        )
    factor = sizes[-1] / sizes[0]
    time_growth = median(races[-1].ours) / median(races[0].ours) / factor
    yield Row(f"time for {factor:.3g} x the images / {factor:.3g} x the time", time_growth, 1.15, "x")
    yield Row(
        f"more memory beyond the vectors for {factor:.3g} x the images", beyond[-1] - beyond[0], 64, "MiB"
    )


def race(size: int, dim: int, queries: int, backend: Backend) -> SearchRace:
    """Time the same search three ways, in alternation.

    Each round starts with another way, so that other load on the machine affects all alike.

    Args:
        size: number of gallery images.
        dim: length of a vector.
        queries: number of queries.
        backend: of skumatch's search.
    """
    gallery, query_vectors = made(size, dim, 0), made(queries, dim, 1)
    index, flat = SearchIndex(gallery, backend), _flat(gallery)
    ways: tuple[Callable[[], Any], ...] = (
        lambda: index.nearest(query_vectors, FIRST_K, scored=False),  # as lists of matches are made
        lambda: flat.search(query_vectors, FIRST_K),
        lambda: _products(gallery, query_vectors),
    )
    seconds = [[0.0] * len(ways) for _ in range(ROUNDS)]
    for number in range(-1, ROUNDS):  # round -1 warms up; its time is overwritten by the last round's
        for place in range(len(ways)):
            way = (place + number) % len(ways)
            seconds[number][way] = _seconds(ways[way])
    return SearchRace(*(tuple(column) for column in zip(*seconds, strict=True)))


def search(size: int, dim: int, queries: int, backend: Backend) -> int:
    """Run skumatch's search alone, so that the memory of its process can be measured.

    Args:
        size: number of gallery images.
        dim: length of a vector.
        queries: number of queries.
        backend: of the search.

    Returns:
        The number of answers.
    """
    return top_k(made(size, dim, 0), made(queries, dim, 1), FIRST_K, backend)[1].size


def made(rows: int, dim: int, seed: int) -> Vectors:
    """Draw unit vectors [rows, dim] in uniformly random directions, without a second copy in memory.

    Args:
        rows: number of vectors.
        dim: length of a vector.
        seed: of the draws.
    """
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    vectors /= np.sqrt(np.vecdot(vectors, vectors))[:, None]
    return vectors


def _flat(gallery: Vectors) -> Any:
    import faiss

    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return index


def _products(gallery: Vectors, queries: Vectors) -> None:
    """Compute all inner products and keep none of them; no exact search can be faster."""
    tile = np.empty((len(queries), TILE), np.float32)
    for start in range(0, len(gallery), TILE):
        part = gallery[start : start + TILE]
        np.matmul(queries, part.T, out=tile[:, : len(part)])


def _seconds(call: Callable[[], Any]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
