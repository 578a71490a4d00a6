"""An encoder's vectors under a protocol: who is asked and matched is a list of ids, made by the split."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from skumatch.config import EvaluateParams
from skumatch.data.manifest import content_hash
from skumatch.retrieval import statistics
from skumatch.retrieval.evaluate import Evaluation, Protocol, Ranking, evaluate, rank
from skumatch.retrieval.figures import NearDuplicateFree
from skumatch.retrieval.metrics import Flags
from skumatch.retrieval.search import Backend, Vectors


@dataclass(frozen=True, eq=False)
class Asked:
    """Ranked lists of a protocol's queries (of all its draws), the SKUs that have an image to be found, and what was asked of what."""

    protocol: Protocol
    ranking: Ranking
    partners: frozenset[str]
    hashes: dict[str, str]

    @property
    def answerable(self) -> bool:
        """Whether any query has an image of its SKU to be found."""
        return bool(self.partners & set(self.ranking.query_skus))

    def evaluate(self, params: EvaluateParams, seed: int, encoder: str) -> Evaluation:
        """Figures of the encoder with that hash. Raises DataError if no query can be answered."""
        return evaluate(self.ranking, self.partners, self.protocol, params, seed, {"encoder": encoder} | self.hashes)


def ask(protocol: Protocol, lists: pd.DataFrame, items: pd.DataFrame, vectors: Vectors, backend: Backend = "faiss") -> Asked:
    """Rank each query of a protocol's `lists` (draw, id, part) in its gallery.

    `items` (id, sku, sha256) stand in the order of `vectors`; what they lack is left out. In part `both` a picture never finds itself.
    Raises DataError for an empty gallery.
    """
    rows = lists.merge(items[["id", "sku", "sha256"]].assign(row=np.arange(len(items))), on="id", validate="many_to_one")
    sides = {side: rows[rows["part"].isin([side, "both"])] for side in ("gallery", "query")}
    rankings = [
        _rank({side: frame[frame["draw"].eq(draw)] for side, frame in sides.items()}, vectors, backend)
        for draw in sorted(set(rows["draw"]))
    ]
    least = 2 if rows["part"].eq("both").any() else 1
    partners = frozenset(sku for sku, count in Counter(sides["gallery"]["sku"]).items() if count >= least)
    hashes = {
        name: content_hash(sides[side]["sha256"], sides[side]["sku"]) for name, side in (("gallery", "gallery"), ("queries", "query"))
    }
    return Asked(protocol, _pooled(rankings), partners, hashes)


def _rank(sides: dict[str, pd.DataFrame], vectors: Vectors, backend: Backend) -> Ranking:
    gallery, query = _side(sides["gallery"], vectors), _side(sides["query"], vectors)
    both = sides["gallery"]["part"].eq("both").any()
    return rank(*gallery, *query, backend, (gallery[1], query[1]) if both else None)


def _side(frame: pd.DataFrame, vectors: Vectors) -> tuple[Vectors, list[str], list[str]]:
    return vectors[frame["row"].to_numpy()], frame["id"].tolist(), frame["sku"].tolist()


def _pooled(rankings: list[Ranking]) -> Ranking:
    """The lists of all draws as one; a photo counts once a draw."""
    width = min(ranking.skus.shape[1] for ranking in rankings)
    columns = {f.name: [getattr(ranking, f.name) for ranking in rankings] for f in fields(Ranking)}
    return Ranking(**{name: np.concatenate([c if c.ndim == 1 else c[:, :width] for c in parts]) for name, parts in columns.items()})


def without_duplicates(
    asked: Asked, items: pd.DataFrame, vectors: Vectors, params: EvaluateParams, seed: int, backend: Backend = "faiss"
) -> NearDuplicateFree | None:
    """Top-1 of the protocol `full` if no query found a duplicate of itself: gallery images of its own group are passed over.

    `items` (id, sku, role, group) stand in the order of `vectors`. None if no query has a partner left.
    """
    items = items.assign(row=np.arange(len(items))).sort_values("id")
    gallery, query = (items[items["role"].eq(role)] for role in ("gallery", "query"))
    assert query["id"].tolist() == asked.ranking.query_ids.tolist()
    copied = query["group"].isin(gallery["group"]).to_numpy()
    hits = asked.ranking.skus[:, 0] == asked.ranking.query_skus
    if copied.any():
        groups = gallery["group"].tolist(), query["group"][copied].tolist()
        again = rank(*_side(gallery, vectors), *_side(query[copied], vectors), backend, groups)
        hits[copied] = again.skus[:, 0] == again.query_skus  # both in order of id
    scored = _has_other(query, gallery)
    if not scored.any():
        return None
    found = statistics.mean_interval(hits[scored], asked.ranking.query_skus[scored], params.confidence, seed, params.resamples)
    bounds = max(0.0, found.low), min(1.0, max(0.0, found.high))
    return NearDuplicateFree(top1=found.value, interval=bounds, n=int(scored.sum()), without_partner=int((~scored).sum()))


def _has_other(query: pd.DataFrame, gallery: pd.DataFrame) -> Flags:
    """Whether each query's SKU has a gallery image outside the query's own group."""
    images, duplicates = Counter(gallery["sku"]), Counter(zip(gallery["sku"], gallery["group"], strict=True))
    pairs = zip(query["sku"], query["group"], strict=True)
    return np.array([images[sku] > duplicates[sku, group] for sku, group in pairs], dtype=np.bool_)
