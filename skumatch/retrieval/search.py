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

__all__ = ["Backend", "Indices", "Nearest", "SearchIndex", "Vectors", "nearest_products", "top_k"]
Nearest = list[tuple[int, float]]  # gallery row and cosine of each product, best first

SPARE = 16  # candidates proposed beyond k in the first round
# Bound of float32's error in an inner product of unit vectors, with room for any order of summation.
ROUNDING = 1e-5
BLOCK, CELLS = 2048, 2**21  # queries and neighbours listed at a time: 16 MiB of indices
TILE = 256, 32768  # queries x gallery images counted at a time
FIRST_ROWS = 32  # listed at first for the nearest products; more only where they hold too few of them
RESCORE_BYTES = 2**18  # of one side, in float64: stays in a core's cache


def top_k(
    gallery: Vectors, queries: Vectors, k: int, backend: Backend = "faiss", device: str = "cpu"
) -> tuple[Vectors, Indices]:
    """Find the k gallery rows of largest inner product with each query; ties go to the lower index.

    Args:
        gallery: [n, d].
        queries: [m, d].
        k: At least one.
        backend: The library that proposes candidates; it doesn't change the result.
        device: torch's name of the device to search on.

    Returns:
        Similarities float32 [m, min(k, n)], best first, and indices int64 of the same shape.

    Raises:
        DataError: The gallery is empty, or vectors have values that are no finite numbers.
        ParameterError: The backend is not installed.
    """
    return SearchIndex(gallery, backend, device).nearest(queries, k)


class SearchIndex:
    """A gallery [n, d] that is searched exactly, many times; it raises as `top_k` does.

    Attributes:
        gallery: The vectors [n, d], contiguous, float32.
        longest: The largest length of a vector, which scales the bound of rounding errors.
        threads: Threads that exact similarities are computed on.
    """

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
        """Find the k best rows of each query, as `top_k` does.

        Args:
            queries: [m, d].
            k: At least one.
            scored: False leaves the similarities that the order doesn't depend on as the backend rounded
                them; the order stays exact.

        Returns:
            Similarities and indices [m, min(k, n)], best first.
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
            # a row that was not proposed is at most as similar as the worst proposal plus rounding: the query
            # is settled if its k-th best is above that
            settled = (proposed == len(self)) | (keys[:, k - 1] > rough[:, -1] + 2 * slack[part])
            similarities[part[settled]], indices[part[settled]] = keys[settled, :k], order[settled, :k]
            work += pieces(part[~settled], proposed * 4)
        return similarities, indices

    def score(self, queries: Vectors, rows: Indices) -> Vectors:
        """Return the exact similarities [m, w] of queries [m, d] and gallery rows [m, w]."""
        query_of_pair = np.repeat(np.arange(len(queries)), rows.shape[1])
        return self._exact(queries, query_of_pair, rows.ravel()).reshape(rows.shape)

    def before(self, queries: Vectors, similarities: Vectors, rows: Indices) -> Indices:
        """Count the gallery rows that stand before a given row in the whole list of each query.

        Args:
            queries: [m, d].
            similarities: [m], exact similarities of each query and its row.
            rows: [m], a gallery row for each query.

        Returns:
            [m] counts.
        """
        counts = np.zeros(len(queries), np.int64)
        for start in range(0, len(queries), TILE[0]):
            part = slice(start, start + TILE[0])
            for first in range(0, len(self), TILE[1]):
                counts[part] += self._before(queries[part], similarities[part], rows[part], first)
        return counts

    def _before(self, queries: Vectors, similarities: Vectors, rows: Indices, first: int) -> Indices:
        """Count as `before` does, within the tile of gallery rows that starts at `first`."""
        over = queries @ self.gallery[first : first + TILE[1]].T - similarities[:, None]
        slack = ROUNDING * self.longest * np.linalg.norm(queries, axis=1)[:, None]
        sure, (places, near) = over > slack, np.nonzero(np.abs(over) <= slack)
        near, wanted = near + first, similarities[places]
        exact = self._exact(queries, places, near)
        ahead = (exact > wanted) | ((exact == wanted) & (near < rows[places]))
        counts: Indices = sure.sum(axis=1) + np.bincount(places[ahead], minlength=len(queries))
        return counts

    def _order(
        self, queries: Vectors, rough: Vectors, candidates: Indices, unsure: NDArray[np.bool_]
    ) -> tuple[Vectors, Indices]:
        """Sort candidates by (-similarity, index), with the similarities of unsure ones computed again.

        Returns:
            Similarities and indices [m, p].
        """
        keys, (places, columns) = rough.copy(), np.nonzero(unsure)
        keys[places, columns] = self._exact(queries, places, candidates[places, columns])
        order = np.lexsort((candidates, -keys), axis=1)
        return np.take_along_axis(keys, order, axis=1), np.take_along_axis(candidates, order, axis=1)

    def _exact(self, queries: Vectors, places: Indices, rows: Indices) -> Vectors:
        """Return the similarities [c] of c pairs, a few at a time.

        Args:
            queries: [m, d].
            places: [c], each pair's place in `queries`.
            rows: [c], each pair's gallery row.
        """
        exact, block = np.empty(len(rows), np.float32), max(1, RESCORE_BYTES // (8 * self.gallery.shape[1]))

        def score(start: int) -> None:
            part = slice(start, start + block)
            exact[part] = dot(self.gallery[rows[part]], queries[places[part]])

        spread(score, range(0, len(rows), block), self.threads)
        return exact


def _unsure(rough: Vectors, k: int, slack: NDArray[np.float64], scored: bool) -> NDArray[np.bool_]:
    """Return a mask of the proposals to compute again.

    A proposal below the k-th by more than rounding can't be among the k best, so it is never computed again.

    Args:
        rough: [m, p], the backend's similarities, best first.
        k: At most p.
        slack: [m, 1], bound of the rounding error of each query's similarities.
        scored: True takes all proposals that may be among the k best; False takes only those of them that
            rounding may have swapped with a neighbour.
    """
    possible = rough >= rough[:, k - 1 : k] - 2 * slack
    if scored:
        return possible
    close, edge = rough[:, :-1] - rough[:, 1:] <= 2 * slack, np.zeros((len(rough), 1), np.bool_)
    return possible & (np.hstack([close, edge]) | np.hstack([edge, close]))


def spread(do: Callable[[int], None], numbers: Sequence[int], threads: int) -> None:
    """Call a function with each of some numbers, on several threads.

    Threads help since numpy releases the interpreter's lock during products.

    Args:
        do: The function; it must be safe to call from several threads.
        numbers: Its arguments, one per call.
        threads: Number of threads, at least one; with one no pool is started.
    """

    def do_share(first: int) -> None:
        for number in numbers[first::threads]:
            do(number)

    if threads == 1:
        do_share(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(do_share, range(threads)))


def pieces(rows: Indices, width: int) -> list[tuple[Indices, int]]:
    """Split `rows` into parts small enough to list `width` neighbours of each row; pair each with `width`."""
    count = max(1, min(BLOCK, CELLS // width))
    return [(rows[start : start + count], width) for start in range(0, len(rows), count)]


def dot(first: Vectors, second: Vectors) -> Vectors:
    """Return the inner products [...] of vectors [..., d], each summed in float64: the exact similarities."""
    products: NDArray[np.float64] = np.vecdot(first.astype(np.float64), second.astype(np.float64))
    return products.astype(np.float32)


def _checked(vectors: Vectors, name: str) -> tuple[Vectors, NDArray[np.float64]]:
    """Return the vectors, contiguous, and their lengths; raise DataError for values that are not finite."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.sqrt(np.vecdot(vectors, vectors), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if bad.size:
        raise DataError(
            f"The {name} holds vectors that are no numbers (first: row {bad[0]}); embed the images again."
        )
    return vectors, lengths


def nearest_products(index: SearchIndex, skus: Sequence[str], vectors: Vectors, wanted: int) -> list[Nearest]:
    """Find the nearest products of each picture, a product by its best gallery picture; the result is exact.

    Args:
        index: A gallery's vectors.
        skus: The product of each of its rows.
        vectors: [n, d], of the pictures.
        wanted: Number of products per picture; at most as many as the gallery has.

    Returns:
        For each picture a list of (gallery row, cosine), best first.
    """
    lists: list[Nearest] = [[] for _ in range(len(vectors))]
    short, k = list(range(len(vectors))), FIRST_ROWS
    while short:
        similarities, rows = index.nearest(vectors[short], k)
        for query, row_similarities, listed in zip(short, similarities.tolist(), rows.tolist(), strict=True):
            lists[query] = _best_of_each(skus, row_similarities, listed)[:wanted]
        short = [query for query in short if len(lists[query]) < wanted]
        k *= 4  # at the gallery's size every product is listed
    return lists


def _best_of_each(skus: Sequence[str], similarities: list[float], rows: list[int]) -> Nearest:
    """Return the best row of each product in a list of rows, best first."""
    best: dict[str, tuple[int, float]] = {}
    for row, similarity in zip(rows, similarities, strict=True):
        best.setdefault(skus[row], (row, similarity))
    return list(best.values())
