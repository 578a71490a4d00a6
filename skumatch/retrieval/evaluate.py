"""From embeddings to ranked lists, and from ranked lists to figures under a named protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from skumatch.config import EvaluateParams
from skumatch.errors import DataError
from skumatch.progress import track
from skumatch.retrieval import metrics, statistics
from skumatch.retrieval.figures import Bounds, Evaluation, Intervals, PairedHits, Protocol
from skumatch.retrieval.metrics import Flags, Labels, Places
from skumatch.retrieval.search import Backend, Vectors, top_k

__all__ = [
    "RANKING_SCHEMA",
    "Bounds",
    "Evaluation",
    "Intervals",
    "PairedHits",
    "Protocol",
    "Ranking",
    "evaluate",
    "paired_hits",
    "per_sku",
    "rank",
]

TOP = 5  # distinct SKUs listed for a query
FIRST_K = 32  # images looked at first; more only where they hold fewer than TOP SKUs
BLOCK = 2048  # queries ranked at a time
Ignored = tuple[Sequence[str], Sequence[str]]
RANKING_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("query_sku", pa.string()),
        ("rank", pa.int64()),  # among distinct SKUs, from 1
        ("sku", pa.string()),
        ("similarity", pa.float32()),  # of the SKU's best image
        ("gallery_id", pa.string()),  # that image
        ("position", pa.int64()),  # its place among all gallery images, from 1
    ]
)


@dataclass(frozen=True, eq=False)
class Ranking:
    """For each query, in order of its id, the nearest distinct SKUs: arrays [n] and [n, w], w = min(5, gallery SKUs)."""

    query_ids: Labels
    query_skus: Labels
    skus: Labels
    similarities: Vectors
    gallery_ids: Labels
    positions: Places

    def __len__(self) -> int:
        return len(self.query_ids)

    def to_frame(self) -> pd.DataFrame:
        """One row a query and rank, sorted; columns as in RANKING_SCHEMA."""
        count, width = self.skus.shape
        columns = {
            "query_id": np.repeat(self.query_ids, width),
            "query_sku": np.repeat(self.query_skus, width),
            "rank": np.tile(np.arange(1, width + 1), count),
            "sku": self.skus.ravel(),
            "similarity": self.similarities.ravel(),
            "gallery_id": self.gallery_ids.ravel(),
            "position": self.positions.ravel(),
        }
        return pd.DataFrame(columns)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Ranking:
        """Read back what `to_frame` made. Raises DataError for other columns or lists that are not whole."""
        if list(frame.columns) != RANKING_SCHEMA.names:
            raise DataError("The ranked lists have other columns than this version writes; run the evaluate stage again.")
        width = max(1, int(frame["rank"].max())) if len(frame) else 1
        text = {name: frame[name].to_numpy(dtype=object) for name in ("query_id", "query_sku", "sku", "gallery_id")}
        ids = text["query_id"][::width]
        ranks = np.tile(np.arange(1, width + 1), len(ids))
        whole = np.array_equal(np.repeat(ids, width), text["query_id"]) and np.array_equal(ranks, frame["rank"])
        if not whole or len(set(ids)) != len(ids):
            raise DataError("The ranked lists have rows missing or out of order; run the evaluate stage again.")
        lists = {name: text[name].reshape(-1, width) for name in ("sku", "gallery_id")}
        similarities = frame["similarity"].to_numpy(dtype=np.float32).reshape(-1, width)
        positions = frame["position"].to_numpy(dtype=np.int64).reshape(-1, width)
        return cls(ids, text["query_sku"][::width], lists["sku"], similarities, lists["gallery_id"], positions)


def rank(
    gallery: Vectors,
    gallery_ids: Sequence[str],
    gallery_skus: Sequence[str],
    queries: Vectors,
    query_ids: Sequence[str],
    query_skus: Sequence[str],
    backend: Backend = "faiss",
    ignored: Ignored | None = None,
) -> Ranking:
    """Rank the distinct SKUs nearest to each query, a SKU by its best image; exact, and the same for any order of rows.

    gallery [n, d] and queries [m, d] are L2-normalised. Equal similarities go to the smaller gallery id. Ids are unique and
    no image is on both sides. `ignored` names gallery images and queries: images of the query's own name are no candidates for it,
    and an image may then be on both sides; a list that gets too short ends in empty names.
    Raises DataError for an empty gallery or vectors that are no numbers.
    """
    assert len(gallery) == len(gallery_ids) == len(gallery_skus) and len(queries) == len(query_ids) == len(query_skus)
    sides = [gallery_ids, query_ids] if ignored else [[*gallery_ids, *query_ids]]
    assert all(len(set(ids)) == len(ids) for ids in sides), "an id occurs twice"
    if not gallery_ids:
        raise DataError("The gallery is empty, so no query can be ranked; add images of the SKUs to match.")
    names = ignored or (gallery_ids, query_ids)
    gallery, (ids, skus, mine) = _by_id(gallery, gallery_ids, gallery_skus, names[0])
    queries, (wanted_ids, wanted, theirs) = _by_id(queries, query_ids, query_skus, names[1])
    codes = np.unique(skus, return_inverse=True)[1].astype(np.int64)
    own = (
        np.unique(np.concatenate([mine, theirs]), return_inverse=True)[1].astype(np.int64) if ignored else np.arange(len(ids) + len(wanted))
    )
    shape = (len(queries), min(TOP, int(codes.max()) + 1))
    similarities, rows, positions = np.empty(shape, np.float32), np.empty(shape, np.int64), np.empty(shape, np.int64)
    with track("rank", len(queries), "queries") as advance:
        for start in range(0, len(queries), BLOCK):
            part = slice(start, start + BLOCK)
            names_of = own[: len(ids)], own[len(ids) :][part]
            similarities[part], rows[part], positions[part] = _nearest_skus(gallery, codes, queries[part], names_of, shape[1], backend)
            advance(len(queries[part]))
    listed, found = (np.where(rows < 0, "", labels[rows]) for labels in (skus, ids))
    return Ranking(wanted_ids, wanted, listed, similarities, found, positions)


def _by_id(vectors: Vectors, ids: Sequence[str], *columns: Sequence[str]) -> tuple[Vectors, list[Labels]]:
    order = sorted(range(len(ids)), key=ids.__getitem__)
    labels = [np.array(column, dtype=object)[order] for column in (ids, *columns)]
    return (vectors if order == list(range(len(ids))) else vectors[order]), labels


def _nearest_skus(
    gallery: Vectors, codes: Places, queries: Vectors, own: tuple[Places, Places], width: int, backend: Backend
) -> tuple[Vectors, Places, Places]:
    """Similarity, gallery row and position (from 1) of the best image of each of the `width` nearest SKUs; row -1 where there is none.

    `own` numbers gallery images and queries: images of the query's own number are passed over.
    """
    shape = (len(queries), width)
    similarities, rows, positions = np.empty(shape, np.float32), np.empty(shape, np.int64), np.empty(shape, np.int64)
    pending, k = np.arange(len(queries)), FIRST_K
    while pending.size:
        found, indices = top_k(gallery, queries[pending], k, backend)
        skipped = own[0][indices] == own[1][pending][:, None]
        first, full = _first_of_each(np.where(skipped, -1, codes[indices]), width)
        enough = full[:, -1] | (k >= len(gallery))
        done, first, full = pending[enough], first[enough], full[enough]
        places = first + 1 - np.take_along_axis(np.cumsum(skipped, axis=1)[enough], first, axis=1)
        similarities[done] = np.where(full, np.take_along_axis(found[enough], first, axis=1), -1)
        rows[done] = np.where(full, np.take_along_axis(indices[enough], first, axis=1), -1)
        positions[done] = np.where(full, places, len(gallery) + 1)
        pending = pending[~enough]
        k *= 4
    return similarities, rows, positions


def _first_of_each(codes: Places, width: int) -> tuple[Places, Flags]:
    """Columns where the first `width` distinct codes of each row first occur, and which of them exist; code -1 counts for nothing."""
    order = np.argsort(codes, axis=1, kind="stable")
    inline = np.take_along_axis(codes, order, axis=1)
    fresh = np.ones(codes.shape, np.bool_)
    np.put_along_axis(fresh, order[:, 1:], inline[:, 1:] != inline[:, :-1], axis=1)
    seen = np.cumsum(fresh & (codes >= 0), axis=1)
    first = np.stack([np.argmax(seen > column, axis=1) for column in range(width)], axis=1)
    return first, seen[:, -1:] > np.arange(width)


def evaluate(
    ranking: Ranking,
    gallery_skus: Collection[str],
    protocol: Protocol,
    params: EvaluateParams,
    seed: int,
    hashes: Mapping[str, str] | None = None,
) -> Evaluation:
    """Score ranked lists. `gallery_skus` are the gallery's SKUs: queries of other SKUs are counted apart and never hits.

    Raises DataError if no query is left to score.
    """
    scored = metrics.with_partner(ranking.query_skus, gallery_skus)
    skus, n = ranking.query_skus[scored], int(scored.sum())
    if n == 0:
        total = len(ranking)
        raise DataError(f"None of the {total} queries is of a SKU in the gallery, so no figure can be made; name SKUs alike on both sides.")
    among_skus, among_images = (places[scored] for places in _places(ranking))
    hits = {f"top{k}": metrics.hits_at(among_skus, k) for k in (1, 3, 5)}
    image_hits = {f"image_top{k}": metrics.hits_at(among_images, k) for k in (1, 3, 5)}
    return Evaluation(
        protocol=protocol,
        n=n,
        without_partner=len(ranking) - n,
        skus=len(set(skus)),
        macro_top1=float(np.mean(metrics.mean_by(hits["top1"], skus)[1])),
        interval=_intervals(hits, skus, params, seed),
        hashes=dict(hashes or {}),
        **{name: float(np.mean(values)) for name, values in (hits | image_hits).items()},
    )


def _places(ranking: Ranking) -> tuple[Places, Places]:
    """Place of the right SKU among distinct SKUs and among images."""
    return (
        metrics.right_place(ranking.skus, ranking.query_skus),
        metrics.right_place(ranking.skus, ranking.query_skus, ranking.positions),
    )


def _intervals(hits: dict[str, Flags], skus: Labels, params: EvaluateParams, seed: int) -> Intervals:
    def bounds(name: str) -> Bounds:
        found = statistics.mean_interval(hits[name], skus, params.confidence, seed, params.resamples)
        return max(0.0, found.low), min(1.0, max(0.0, found.high))  # never -0.0, which would be shown as such

    return Intervals(top1=bounds("top1"), top3=bounds("top3"), top5=bounds("top5"), confidence=params.confidence)


def per_sku(ranking: Ranking, gallery_skus: Collection[str]) -> pd.DataFrame:
    """One row a scored SKU, in order: sku, n, top1, top3, top5."""
    scored = metrics.with_partner(ranking.query_skus, gallery_skus)
    places, skus = _places(ranking)[0][scored], ranking.query_skus[scored]
    names, _, counts = metrics.mean_by(places, skus)
    return pd.DataFrame({"sku": names, "n": counts} | {f"top{k}": metrics.mean_by(metrics.hits_at(places, k), skus)[1] for k in (1, 3, 5)})


def paired_hits(challenger: Ranking, champion: Ranking, gallery_skus: Collection[str]) -> PairedHits:
    """Top-1 hits of both on the queries that are scored. Raises DataError if they were not asked the same queries."""
    same = np.array_equal(challenger.query_ids, champion.query_ids) and np.array_equal(challenger.query_skus, champion.query_skus)
    if not same:
        raise DataError("Challenger and champion were asked different queries, so they can't be compared; run the embed stage again.")
    scored = metrics.with_partner(challenger.query_skus, gallery_skus)
    ours, theirs = (metrics.hits_at(_places(ranking)[0], 1)[scored] for ranking in (challenger, champion))
    return PairedHits(challenger.query_skus[scored], ours, theirs)
