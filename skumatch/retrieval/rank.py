"""Rank the gallery for each query, as deep as the figures need, a few queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skumatch.errors import DataError
from skumatch.progress import track
from skumatch.retrieval import metrics
from skumatch.retrieval.metrics import Flags, Labels, Places
from skumatch.retrieval.ranking import Depth, Ranking
from skumatch.retrieval.search import BLOCK, Backend, SearchIndex, Vectors, dot, pieces

TOP = 5  # distinct SKUs listed for a query
# Least number of images listed at first; more where they hold fewer than TOP SKUs.
FIRST_K = 32
# Room in the first list beyond the query's own SKU, in SKUs of mean size: with 2, few lists are made twice,
# and with 4 all of them take longer.
FURTHER = 2
VOTERS = 10
GROWTH = 4  # factor by which a list that was too short grows
Ignored = tuple[Sequence[str], Sequence[str]]


def rank(
    gallery: Vectors,
    gallery_ids: Sequence[str],
    gallery_skus: Sequence[str],
    queries: Vectors,
    query_ids: Sequence[str],
    query_skus: Sequence[str],
    backend: Backend = "faiss",
    ignored: Ignored | None = None,
    device: str = "cpu",
    voters: int = VOTERS,
) -> Ranking:
    """Rank the distinct SKUs nearest to each query, a SKU by its best image.

    The result is exact, and the same for any order of rows. Equal similarities go to the smaller gallery id.

    Args:
        gallery: [n, d], L2-normalised.
        gallery_ids: [n], unique.
        gallery_skus: [n].
        queries: [m, d], L2-normalised.
        query_ids: [m], unique; without `ignored` none of them is in the gallery.
        query_skus: [m].
        backend: The library that proposes neighbours; it doesn't change the result.
        ignored: A name for each gallery image and for each query. Gallery images with the query's own name
            are skipped, so an image may be on both sides. Lists that get too short end in empty names.
        device: torch's name of the device to search on.
        voters: Number of nearest images that vote for a SKU, weighted by their similarity.

    Raises:
        DataError: The gallery is empty, or vectors have values that are no finite numbers.
    """
    assert len(gallery) == len(gallery_ids) == len(gallery_skus) and len(queries) == len(query_ids) == len(
        query_skus
    )
    sides = [gallery_ids, query_ids] if ignored else [[*gallery_ids, *query_ids]]
    assert all(len(set(ids)) == len(ids) for ids in sides), "an id occurs twice"
    if not gallery_ids:
        raise DataError("The gallery is empty, so no query can be ranked; add images of the SKUs to match.")
    names = ignored or (gallery_ids, query_ids)
    gallery, (ids, skus, gallery_names) = _by_id(gallery, gallery_ids, gallery_skus, names[0])
    queries, (sorted_query_ids, wanted_skus, query_names) = _by_id(queries, query_ids, query_skus, names[1])
    lists = _Lists(
        SearchIndex(gallery, backend, device),
        queries,
        skus=_numbered(skus, wanted_skus),
        own=_numbered(gallery_names, query_names),
        voters=voters,
    )
    lists.fill()
    absent = lists.rows < 0
    labels = np.append(np.unique(np.concatenate([skus, wanted_skus])), "")
    depth = Depth(
        right=lists.right,
        first=lists.first,
        average_precision=lists.average_precision,
        r_precision=lists.r_precision,
        voted=labels[lists.voted],
    )
    return Ranking(
        query_ids=sorted_query_ids,
        query_skus=wanted_skus,
        skus=np.where(absent, "", skus[lists.rows]),
        similarities=lists.similarities,
        gallery_ids=np.where(absent, "", ids[lists.rows]),
        positions=lists.positions,
        depth=depth,
    )


def _by_id(vectors: Vectors, ids: Sequence[str], *columns: Sequence[str]) -> tuple[Vectors, list[Labels]]:
    """Return the vectors, and arrays of `ids` and of the columns, all sorted by id."""
    order = sorted(range(len(ids)), key=ids.__getitem__)
    labels = [np.array(column, dtype=object)[order] for column in (ids, *columns)]
    return (vectors if order == list(range(len(ids))) else vectors[order]), labels


def _numbered(gallery: NDArray[Any], queries: NDArray[Any]) -> tuple[Places, Places]:
    """Number the labels of both sides: equal labels get equal numbers, in sorted order of the labels."""
    numbers = np.unique(np.concatenate([gallery, queries]), return_inverse=True)[1].astype(np.int64)
    return numbers[: len(gallery)], numbers[len(gallery) :]


def _alike(gallery: Places, queries: Places) -> Places:
    """Return, for each query, the number of gallery images with the query's number."""
    size = int(max(gallery.max(initial=0), queries.max(initial=0))) + 1
    counts: Places = np.bincount(gallery, minlength=size)[queries]
    return counts


def _grouped(numbers: Places) -> Callable[[int], Places]:
    """Return a function that gives the rows, in order, in which `numbers` holds a given number."""
    order = np.argsort(numbers, kind="stable")
    sorted_numbers = numbers[order]
    return lambda number: order[slice(*np.searchsorted(sorted_numbers, [number, number + 1]))]


class _Lists:
    """The queries' lists of gallery images, and the figures taken from them.

    `fill` fills the best image of each of the w nearest SKUs in (`rows`, `similarities`, `positions`, each
    [n, w]; row -1 where there is none), and the arrays of Depth, each [n].

    Args:
        index: The gallery.
        queries: [n, d].
        skus: Numbers of the SKUs of gallery and queries.
        own: Numbers of the names of gallery and queries; images with the query's own name are skipped.
        voters: Number of nearest images that vote.
    """

    def __init__(
        self,
        index: SearchIndex,
        queries: Vectors,
        skus: tuple[Places, Places],
        own: tuple[Places, Places],
        voters: int,
    ) -> None:
        self.index, self.queries, self.skus, self.own, self.voters = index, queries, skus, own, voters
        scale = int(max(side.max(initial=0) for side in own)) + 1
        both = _numbered(*(sku * scale + name for sku, name in zip(skus, own, strict=True)))
        self.right, self.passed = _alike(*skus) - _alike(*both), _alike(*own)
        count, shape = len(queries), (len(queries), min(TOP, len(np.unique(skus[0]))))
        self.similarities, self.rows, self.positions = (
            np.empty(shape, np.float32),
            np.empty(shape, np.int64),
            np.empty(shape, np.int64),
        )
        self.average_precision, self.r_precision = np.empty(count), np.empty(count)
        self.first, self.voted = np.empty(count, np.int64), np.empty(count, np.int64)

    def fill(self) -> None:
        """List all queries, those that need lists of about the same length together."""
        # A good encoder lists all images of the query's own SKU before those of any other.
        others = FURTHER * len(self.index) // max(1, len(np.unique(self.skus[0])))
        needed = np.maximum(np.maximum(self.right + others, self.voters) + self.passed, FIRST_K)
        order = np.argsort(needed, kind="stable")
        parts = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
        work = [piece for part in parts for piece in pieces(part, int(needed[part].max()))]
        with track("rank", len(order), "queries") as advance:
            while work:
                part, k = work.pop()
                short = self._list(part, k)
                advance(len(part) - len(short))
                work += pieces(short, k * GROWTH)
        self._find_far()

    def _list(self, part: Places, k: int) -> Places:
        """List k images of each query of `part`, and return the queries whose lists hold too few SKUs."""
        rows = self.index.nearest(self.queries[part], k, scored=False)[1]
        passed = self.own[0][rows] == self.own[1][part][:, None]
        codes, places = np.where(passed, -1, self.skus[0][rows]), np.cumsum(~passed, axis=1)
        columns, present = _first_of_each(codes, self.rows.shape[1])
        enough = present[:, -1] | (k >= len(self.index))
        done, done_rows, done_places = part[enough], rows[enough], places[enough]
        self._take_skus(done, done_rows, done_places, columns[enough], present[enough])
        self._take_depth(done, done_rows, done_places, codes[enough])
        return part[~enough]

    def _take_skus(self, part: Places, rows: Places, places: Places, columns: Places, present: Flags) -> None:
        """Store the best image of each listed SKU; it stands in `columns` where one is `present`."""
        best = np.take_along_axis(rows, columns, axis=1)
        self.similarities[part] = np.where(present, self.index.score(self.queries[part], best), -1)
        self.rows[part] = np.where(present, best, -1)
        self.positions[part] = np.where(
            present, np.take_along_axis(places, columns, axis=1), len(self.index) + 1
        )

    def _take_depth(self, part: Places, rows: Places, places: Places, codes: Places) -> None:
        """Store the figures of whole lists; `codes` are the SKUs' numbers, -1 for skipped images."""
        right = codes == self.skus[1][part][:, None]
        self.average_precision[part], self.r_precision[part] = metrics.precisions(
            right, places, self.right[part]
        )
        self.first[part] = metrics.first_place(right, places)
        voters = np.argsort(codes < 0, axis=1, kind="stable")[:, : self.voters]
        similarities = self.index.score(self.queries[part], np.take_along_axis(rows, voters, axis=1))
        weights = np.maximum(similarities, 0).astype(np.float64)
        self.voted[part] = metrics.vote(np.take_along_axis(codes, voters, axis=1), weights)

    def _find_far(self) -> None:
        """Find the place of the first right image where the list ended before it, by counting."""
        far = np.flatnonzero((self.first == 0) & (self.right > 0))
        rows_of_sku, rows_of_name = _grouped(self.skus[0]), _grouped(self.own[0])
        best = [self._best(query, rows_of_sku(self.skus[1][query])) for query in far.tolist()]
        similarities = np.array([similarity for similarity, _ in best], np.float32)
        ahead = self.index.before(
            self.queries[far], similarities, np.array([row for _, row in best], np.int64)
        )
        passed = [
            self._ahead(rows_of_name(self.own[1][query]), query, similarity, row)
            for query, (similarity, row) in zip(far.tolist(), best, strict=True)
        ]
        self.first[far] = ahead - np.array(passed, np.int64) + 1

    def _best(self, query: int, rows: Places) -> tuple[np.float32, int]:
        """Return similarity and row of the best of `rows` that is not skipped."""
        rows = rows[self.own[0][rows] != self.own[1][query]]
        similarities = dot(self.index.gallery[rows], self.queries[query])
        return similarities.max(), int(rows[similarities.argmax()])

    def _ahead(self, rows: Places, query: int, similarity: np.float32, row: int) -> int:
        """Count the `rows` that stand before `row`, whose similarity is given."""
        similarities = dot(self.index.gallery[rows], self.queries[query])
        return int(((similarities > similarity) | ((similarities == similarity) & (rows < row))).sum())


def _first_of_each(codes: Places, width: int) -> tuple[Places, Flags]:
    """Return the columns where the first `width` distinct codes of each row first occur, and which exist.

    Code -1 is ignored.
    """
    order = np.argsort(codes, axis=1, kind="stable")
    sorted_codes = np.take_along_axis(codes, order, axis=1)
    first_seen = np.ones(codes.shape, np.bool_)
    np.put_along_axis(first_seen, order[:, 1:], sorted_codes[:, 1:] != sorted_codes[:, :-1], axis=1)
    distinct = np.cumsum(first_seen & (codes >= 0), axis=1)
    columns = np.stack([np.argmax(distinct > column, axis=1) for column in range(width)], axis=1)
    return columns, distinct[:, -1:] > np.arange(width)
