"""Ranks the gallery for each query, as far down as its figures need, a few queries at a time."""

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
from skumatch.retrieval.search import BLOCK, Backend, Index, Vectors, dot, pieces

TOP = 5  # distinct SKUs listed for a query
# Images looked at first; more only where they hold fewer than TOP SKUs, or there are more of the query's SKU.
FIRST_K = 32
VOTERS = 10
GROWTH = 4  # how much longer a list gets that was too short
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

    Exact, and the same for any order of rows.

    gallery [n, d] and queries [m, d] are L2-normalised. Equal similarities go to the smaller gallery id. Ids
    are unique and no image is on both sides. `ignored` names gallery images and queries: images of the
    query's own name are no candidates for it, and an image may then be on both sides; a list that gets too
    short ends in empty names. `voters` images vote, by their similarity. Raises DataError for an empty
    gallery or vectors that are no numbers.
    """
    assert len(gallery) == len(gallery_ids) == len(gallery_skus) and len(queries) == len(query_ids) == len(
        query_skus
    )
    sides = [gallery_ids, query_ids] if ignored else [[*gallery_ids, *query_ids]]
    assert all(len(set(ids)) == len(ids) for ids in sides), "an id occurs twice"
    if not gallery_ids:
        raise DataError("The gallery is empty, so no query can be ranked; add images of the SKUs to match.")
    names = ignored or (gallery_ids, query_ids)
    gallery, (ids, skus, mine) = _by_id(gallery, gallery_ids, gallery_skus, names[0])
    queries, (wanted_ids, wanted, theirs) = _by_id(queries, query_ids, query_skus, names[1])
    lists = _Lists(
        Index(gallery, backend, device), queries, _numbered(skus, wanted), _numbered(mine, theirs), voters
    )
    lists.fill()
    listed, found = (np.where(lists.rows < 0, "", labels[lists.rows]) for labels in (skus, ids))
    labels = np.append(np.unique(np.concatenate([skus, wanted])), "")
    depth = Depth(lists.right, lists.first, lists.average_precision, lists.r_precision, labels[lists.voted])
    return Ranking(wanted_ids, wanted, listed, lists.similarities, found, lists.positions, depth)


def _by_id(vectors: Vectors, ids: Sequence[str], *columns: Sequence[str]) -> tuple[Vectors, list[Labels]]:
    order = sorted(range(len(ids)), key=ids.__getitem__)
    labels = [np.array(column, dtype=object)[order] for column in (ids, *columns)]
    return (vectors if order == list(range(len(ids))) else vectors[order]), labels


def _numbered(gallery: NDArray[Any], queries: NDArray[Any]) -> tuple[Places, Places]:
    """Numbers of both sides' labels: equal labels have equal ones, in order of the labels."""
    numbers = np.unique(np.concatenate([gallery, queries]), return_inverse=True)[1].astype(np.int64)
    return numbers[: len(gallery)], numbers[len(gallery) :]


def _alike(gallery: Places, queries: Places) -> Places:
    """How many gallery images have each query's number."""
    size = int(max(gallery.max(initial=0), queries.max(initial=0))) + 1
    counts: Places = np.bincount(gallery, minlength=size)[queries]
    return counts


def _grouped(numbers: Places) -> Callable[[int], Places]:
    """A function that gives the rows of a number, in order."""
    order = np.argsort(numbers, kind="stable")
    inline = numbers[order]
    return lambda number: order[slice(*np.searchsorted(inline, [number, number + 1]))]


class _Lists:
    """Queries' lists of images in the gallery: `skus` and `own` number gallery and queries.

    Images of a query's own number are passed over.

    Filled in, all [n] or [n, w]: the best image of each of the w nearest SKUs (row -1 where there is none),
    and the arrays of Depth.
    """

    def __init__(
        self,
        index: Index,
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
        """Queries with about as many images of their SKU go together, so that their lists are of one length."""
        needed = np.maximum(np.maximum(self.right, self.voters) + self.passed, FIRST_K)
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
        """List k images of each query of `part`; returns those that have too few SKUs among them."""
        rows = self.index.nearest(self.queries[part], k, scored=False)[1]
        passed = self.own[0][rows] == self.own[1][part][:, None]
        codes, places = np.where(passed, -1, self.skus[0][rows]), np.cumsum(~passed, axis=1)
        columns, full = _first_of_each(codes, self.rows.shape[1])
        enough = full[:, -1] | (k >= len(self.index))
        listed = part[enough], rows[enough], codes[enough], places[enough]
        self._take_skus(*listed, columns[enough], full[enough])
        self._take_depth(*listed)
        return part[~enough]

    def _take_skus(
        self, part: Places, rows: Places, _: Places, places: Places, columns: Places, full: Flags
    ) -> None:
        best = np.take_along_axis(rows, columns, axis=1)
        self.similarities[part] = np.where(full, self.index.score(self.queries[part], best), -1)
        self.rows[part] = np.where(full, best, -1)
        self.positions[part] = np.where(
            full, np.take_along_axis(places, columns, axis=1), len(self.index) + 1
        )

    def _take_depth(self, part: Places, rows: Places, codes: Places, places: Places) -> None:
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
        """The place of the first right image where the list ended before it: counted, not listed."""
        far = np.flatnonzero((self.first == 0) & (self.right > 0))
        of_sku, of_own = _grouped(self.skus[0]), _grouped(self.own[0])
        best = [self._best(query, of_sku(self.skus[1][query])) for query in far.tolist()]
        similarities = np.array([similarity for similarity, _ in best], np.float32)
        ahead = self.index.before(
            self.queries[far], similarities, np.array([row for _, row in best], np.int64)
        )
        passed = [
            self._ahead(of_own(self.own[1][query]), query, *pair)
            for query, pair in zip(far.tolist(), best, strict=True)
        ]
        self.first[far] = ahead - np.array(passed, np.int64) + 1

    def _best(self, query: int, rows: Places) -> tuple[np.float32, int]:
        """Similarity and row of the best of `rows` that is not passed over."""
        rows = rows[self.own[0][rows] != self.own[1][query]]
        found = dot(self.index.gallery[rows], self.queries[query])
        return found.max(), int(rows[found.argmax()])

    def _ahead(self, rows: Places, query: int, similarity: np.float32, row: int) -> int:
        """How many of `rows` stand before `row`."""
        found = dot(self.index.gallery[rows], self.queries[query])
        return int(((found > similarity) | ((found == similarity) & (rows < row))).sum())


def _first_of_each(codes: Places, width: int) -> tuple[Places, Flags]:
    """Columns where the first `width` distinct codes of each row first occur, and which of them exist.

    Code -1 counts for nothing.
    """
    order = np.argsort(codes, axis=1, kind="stable")
    inline = np.take_along_axis(codes, order, axis=1)
    fresh = np.ones(codes.shape, np.bool_)
    np.put_along_axis(fresh, order[:, 1:], inline[:, 1:] != inline[:, :-1], axis=1)
    seen = np.cumsum(fresh & (codes >= 0), axis=1)
    first = np.stack([np.argmax(seen > column, axis=1) for column in range(width)], axis=1)
    return first, seen[:, -1:] > np.arange(width)
