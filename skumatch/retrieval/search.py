"""Exact nearest neighbours by inner product, with the same answer from every backend.

A backend (faiss, torch) only proposes candidates in float32. Their similarities are then computed again, each
as one dot product in float64, so identical vectors tie exactly and ties go to the lower gallery index.
Candidates are added until float32's rounding can't hide a better one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from skumatch.errors import DataError
from skumatch.retrieval.backends import Backend, Indices, Vectors, proposer

__all__ = ["Backend", "Index", "Indices", "Nearest", "Vectors", "nearest_products", "top_k"]
Nearest = list[tuple[int, float]]  # gallery row and cosine of each product, best first

SPARE = 16  # candidates proposed beyond k in the first round
ROUNDING = (
    1e-5  # bound of float32's error in an inner product of unit vectors, with room for any order of summation
)
BLOCK, CELLS = 2048, 2**21  # queries and neighbours listed at a time: 16 MiB of indices
TILE = 256, 32768  # queries x gallery images counted at a time
FIRST_ROWS = 32  # looked at first for the nearest products; more only where they hold too few of them
RESCORE_BYTES = 2**18  # of one side, in float64: stays in a core's cache


def top_k(
    gallery: Vectors, queries: Vectors, k: int, backend: Backend = "faiss", device: str = "cpu"
) -> tuple[Vectors, Indices]:
    """The k gallery rows of largest inner product with each query, best first; ties go to the lower index.

    gallery [n, d], queries [m, d]; returns similarities float32 [m, min(k, n)] and indices int64 of the same
    shape. `device` is torch's. Raises DataError for an empty gallery or vectors that are no numbers,
    ParameterError if the backend is not installed.
    """
    return Index(gallery, backend, device).nearest(queries, k)


class Index:
    """A gallery [n, d] to be searched exactly, many times. Raises as `top_k` does."""

    def __init__(self, gallery: Vectors, backend: Backend = "faiss", device: str = "cpu") -> None:
        assert gallery.ndim == 2
        if len(gallery) == 0:
            raise DataError(
                "The gallery is empty, so nothing can be found in it; add images of the SKUs to match."
            )
        self.gallery, lengths = _checked(gallery, "gallery")
        self.longest = float(lengths.max())
        self._propose, self.threads = proposer(self.gallery, backend, device)

    def __len__(self) -> int:
        return len(self.gallery)

    def nearest(self, queries: Vectors, k: int, scored: bool = True) -> tuple[Vectors, Indices]:
        """Similarities and indices [m, min(k, n)] of the k best rows, as `top_k`.

        With `scored` false the order is as exact, but similarities that it didn't need stay the backend's,
        rounded as it does.
        """
        assert k >= 1 and queries.ndim == 2 and queries.shape[1] == self.gallery.shape[1]
        queries, lengths = _checked(queries, "query set")
        k, slack = min(k, len(self)), ROUNDING * self.longest * lengths
        similarities, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        work = pieces(np.arange(len(queries)), k + SPARE)
        while work:
            part, proposed = work.pop()
            proposed = min(proposed, len(self))
            rough, candidates = self._propose(queries[part], proposed)
            keys, order = self._order(
                queries[part], rough, candidates, _unsure(rough, k, slack[part, None], scored)
            )
            # whatever was not proposed is at most the worst proposal plus rounding: settled if the k-th best
            # is above that
            settled = (proposed == len(self)) | (keys[:, k - 1] > rough[:, -1] + 2 * slack[part])
            similarities[part[settled]], indices[part[settled]] = keys[settled, :k], order[settled, :k]
            work += pieces(part[~settled], proposed * 4)
        return similarities, indices

    def score(self, queries: Vectors, rows: Indices) -> Vectors:
        """Exact similarities [m, w] of queries [m, d] and gallery rows [m, w]."""
        return self._exact(queries, np.repeat(np.arange(len(queries)), rows.shape[1]), rows.ravel()).reshape(
            rows.shape
        )

    def before(self, queries: Vectors, similarities: Vectors, rows: Indices) -> Indices:
        """How many rows stand before row `rows` [m] of the given similarity in the whole list of each query [m, d]."""
        counts = np.zeros(len(queries), np.int64)
        for start in range(0, len(queries), TILE[0]):
            part = slice(start, start + TILE[0])
            for first in range(0, len(self), TILE[1]):
                counts[part] += self._before(queries[part], similarities[part], rows[part], first)
        return counts

    def _before(self, queries: Vectors, similarities: Vectors, rows: Indices, first: int) -> Indices:
        over = queries @ self.gallery[first : first + TILE[1]].T - similarities[:, None]
        slack = ROUNDING * self.longest * np.linalg.norm(queries, axis=1)[:, None]
        sure, (asked, near) = over > slack, np.nonzero(np.abs(over) <= slack)
        near, wanted = near + first, similarities[asked]
        exact = self._exact(queries, asked, near)
        ahead = (exact > wanted) | ((exact == wanted) & (near < rows[asked]))
        counts: Indices = sure.sum(axis=1) + np.bincount(asked[ahead], minlength=len(queries))
        return counts

    def _order(
        self, queries: Vectors, rough: Vectors, candidates: Indices, unsure: NDArray[np.bool_]
    ) -> tuple[Vectors, Indices]:
        """Candidates' similarities, the unsure ones computed again, and indices, sorted by (-similarity, index)."""
        keys, (asked, columns) = rough.copy(), np.nonzero(unsure)
        keys[asked, columns] = self._exact(queries, asked, candidates[asked, columns])
        order = np.lexsort((candidates, -keys), axis=1)
        return np.take_along_axis(keys, order, axis=1), np.take_along_axis(candidates, order, axis=1)

    def _exact(self, queries: Vectors, asked: Indices, rows: Indices) -> Vectors:
        """Similarities [c] of the pairs (query `asked`, gallery row `rows`), a few at a time."""
        exact, block = np.empty(len(rows), np.float32), max(1, RESCORE_BYTES // (8 * self.gallery.shape[1]))

        def score(start: int) -> None:
            part = slice(start, start + block)
            exact[part] = dot(self.gallery[rows[part]], queries[asked[part]])

        spread(score, range(0, len(rows), block), self.threads)
        return exact


def _unsure(rough: Vectors, k: int, slack: NDArray[np.float64], scored: bool) -> NDArray[np.bool_]:
    """Which proposals [m, p], best first, to compute again: all that may be among the k best if `scored`, else those that rounding may
    have put before or behind a neighbour. What is less than the k-th by more than rounding can't be among them.
    """
    possible = rough >= rough[:, k - 1 : k] - 2 * slack
    if scored:
        return possible
    close, edge = rough[:, :-1] - rough[:, 1:] <= 2 * slack, np.zeros((len(rough), 1), np.bool_)
    return possible & (np.hstack([close, edge]) | np.hstack([edge, close]))


def spread(do: Callable[[int], None], numbers: Sequence[int], threads: int) -> None:
    """Do each number, on several threads where there are some: numpy's products let the others run."""

    def own(first: int) -> None:
        for number in numbers[first::threads]:
            do(number)

    if threads == 1:
        own(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(own, range(threads)))


def pieces(rows: Indices, width: int) -> list[tuple[Indices, int]]:
    """`rows` in parts small enough to list `width` neighbours of each, with that width."""
    count = max(1, min(BLOCK, CELLS // width))
    return [(rows[start : start + count], width) for start in range(0, len(rows), count)]


def dot(first: Vectors, second: Vectors) -> Vectors:
    """Inner products [...] of vectors [..., d], each summed in float64: the similarity that decides."""
    products: NDArray[np.float64] = np.vecdot(first.astype(np.float64), second.astype(np.float64))
    return products.astype(np.float32)


def _checked(vectors: Vectors, name: str) -> tuple[Vectors, NDArray[np.float64]]:
    """The vectors, contiguous, and their lengths."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.sqrt(np.vecdot(vectors, vectors), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if bad.size:
        raise DataError(
            f"The {name} holds vectors that are no numbers (first: row {bad[0]}); embed the images again."
        )
    return vectors, lengths


def nearest_products(index: Index, skus: Sequence[str], vectors: Vectors, wanted: int) -> list[Nearest]:
    """Find the nearest products of each picture, each by its best gallery picture; exact.

    Args:
        index: a gallery's vectors.
        skus: its rows' products.
        vectors: [n, d], the pictures'.
        wanted: how many products of each; at most as many as the gallery has.

    Returns:
        For each picture (gallery row, cosine), best first.
    """
    lists: list[Nearest] = [[] for _ in range(len(vectors))]
    short, k = list(range(len(vectors))), FIRST_ROWS
    while short:
        similarities, rows = index.nearest(vectors[short], k)
        for query, *listed in zip(short, similarities.tolist(), rows.tolist(), strict=True):
            lists[query] = _best_of_each(skus, *listed)[:wanted]
        short = [query for query in short if len(lists[query]) < wanted]
        k *= 4  # at the gallery's size every product is listed
    return lists


def _best_of_each(skus: Sequence[str], similarities: list[float], rows: list[int]) -> Nearest:
    best: dict[str, tuple[int, float]] = {}
    for row, similarity in zip(rows, similarities, strict=True):
        best.setdefault(skus[row], (row, similarity))
    return list(best.values())
