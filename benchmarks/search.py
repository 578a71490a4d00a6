"""What exact search costs on this machine: against faiss's flat index and the bare products, and how it grows with the gallery."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import Row, cost
from skumatch.retrieval.rank import FIRST_K
from skumatch.retrieval.search import Backend, Index, Vectors, top_k

ROUNDS, TILE, PAUSE = 6, 32_768, 0.2  # a pause in seconds, until the threads of the last way sleep


class Race(NamedTuple):
    """Seconds of each round of our search, of faiss's flat index, and of the products alone."""

    ours: tuple[float, ...]
    flat: tuple[float, ...]
    products: tuple[float, ...]

    def against(self, other: tuple[float, ...]) -> float:
        """The other's time over ours, the median of the rounds."""
        return median(theirs / ours for theirs, ours in zip(other, self.ours, strict=True))


def bench_search(sizes: Sequence[int], dim: int, queries: int, backend: Backend) -> Iterator[Row]:
    """For each gallery size the speed against its peer and its ceiling, and the memory beyond the vectors.

    Then how both grow.
    """
    races, beyond = [], []
    for size in sizes:
        found: Race = cost(race, size, dim, queries, backend).result
        races.append(found)
        ours, flat, products = (1000 * median(seconds) / queries for seconds in found)
        parts = f"{ours:.2f} ms a query; faiss {flat:.2f}, products alone {products:.2f}"
        yield Row(
            f"faiss IndexFlatIP / exact search, {size:,} images",
            found.against(found.flat),
            0.95,
            "x",
            parts,
            "more",
        )
        yield Row(
            f"share of the GEMM ceiling, {size:,} images",
            100 * found.against(found.products),
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
    times = sizes[-1] / sizes[0]
    grown = median(races[-1].ours) / median(races[0].ours) / times
    yield Row(f"time for {times:.3g} x the images / {times:.3g} x the time", grown, 1.15, "x")
    yield Row(
        f"more memory beyond the vectors for {times:.3g} x the images", beyond[-1] - beyond[0], 64, "MiB"
    )


def race(size: int, dim: int, queries: int, backend: Backend) -> Race:
    """The same search three ways, in turns and each first in turn, so that other load meets all alike."""
    gallery, asked = made(size, dim, 0), made(queries, dim, 1)
    ours, flat = Index(gallery, backend), _flat(gallery)
    ways: tuple[Callable[[], Any], ...] = (
        lambda: ours.nearest(asked, FIRST_K, scored=False),  # as lists are made
        lambda: flat.search(asked, FIRST_K),
        lambda: _products(gallery, asked),
    )
    seconds = [[0.0] * len(ways) for _ in range(ROUNDS)]
    for number in range(-1, ROUNDS):  # the first one warms up
        for place in range(len(ways)):
            way = (place + number) % len(ways)
            seconds[number][way] = _seconds(ways[way])
    return Race(*(tuple(column) for column in zip(*seconds, strict=True)))


def search(size: int, dim: int, queries: int, backend: Backend) -> int:
    """Our search alone, in a process of its own; returns how many answers there were."""
    return top_k(made(size, dim, 0), made(queries, dim, 1), FIRST_K, backend)[1].size


def made(rows: int, dim: int, seed: int) -> Vectors:
    """Unit vectors in any direction, without a second copy."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    vectors /= np.sqrt(np.vecdot(vectors, vectors))[:, None]
    return vectors


def _flat(gallery: Vectors) -> Any:
    import faiss

    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return index


def _products(gallery: Vectors, queries: Vectors) -> None:
    """All inner products, and nothing kept of them: no exact search can be faster."""
    tile = np.empty((len(queries), TILE), np.float32)
    for start in range(0, len(gallery), TILE):
        part = gallery[start : start + TILE]
        np.matmul(queries, part.T, out=tile[:, : len(part)])


def _seconds(call: Callable[[], Any]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
