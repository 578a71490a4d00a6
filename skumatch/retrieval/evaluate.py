"""From ranked lists to figures under a named protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from skumatch.errors import DataError
from skumatch.params import EvaluateParams
from skumatch.retrieval import metrics
from skumatch.retrieval.clusters import clusters_of
from skumatch.retrieval.figures import Bounds, Evaluation, Intervals, Protocol
from skumatch.retrieval.metrics import Flags, Floats, Places
from skumatch.retrieval.rank import rank
from skumatch.retrieval.ranking import RANKING_SCHEMA, Ranking
from skumatch.retrieval.slices import interval, slices_of

__all__ = [
    "RANKING_SCHEMA",
    "Bounds",
    "Evaluation",
    "Intervals",
    "Protocol",
    "Ranking",
    "evaluate",
    "per_sku",
    "rank",
]


def evaluate(
    ranking: Ranking,
    gallery_skus: Collection[str],
    protocol: Protocol,
    params: EvaluateParams,
    seed: int,
    hashes: Mapping[str, str] | None = None,
    facts: pd.DataFrame | None = None,
    scorers: Mapping[str, Flags] | None = None,
) -> Evaluation:
    """Score ranked lists.

    `gallery_skus` are the gallery's SKUs: queries of other SKUs are counted apart and never hits.

    `facts` has a row a query: sku, gallery_images, and what slices are made by; its column `group` names
    duplicates. `scorers` are the hits [n] of other ways to answer. Raises DataError if no query is left to
    score.
    """
    scored = metrics.with_partner(ranking.query_skus, gallery_skus)
    skus, n = ranking.query_skus[scored], int(scored.sum())
    if n == 0:
        total = len(ranking)
        raise DataError(
            f"None of the {total} queries is of a SKU in the gallery, so no figure can be made; name SKUs alike on both sides."
        )
    among_skus, among_images = (places[scored] for places in _places(ranking))
    hits = {f"top{k}": metrics.hits_at(among_skus, k) for k in (1, 3, 5)}
    image_hits = {f"image_top{k}": metrics.hits_at(among_images, k) for k in (1, 3, 5)}
    told = facts[scored].reset_index(drop=True) if facts is not None else pd.DataFrame({"sku": skus})
    clusters = clusters_of(skus, told["group" if "group" in told else "sku"].to_numpy(dtype=object))
    return Evaluation(
        protocol=protocol,
        n=n,
        without_partner=len(ranking) - n,
        skus=len(set(skus)),
        macro_top1=float(np.mean(metrics.mean_by(hits["top1"], skus)[1])),
        interval=_intervals(hits, clusters, params, seed),
        hashes=dict(hashes or {}),
        slices=slices_of(told, hits["top1"], clusters, params, seed) if "gallery_images" in told else (),
        scorers={
            name: float(np.mean(flags[scored])) for name, flags in _scorers(ranking, scorers or {}).items()
        },
        **{
            name: float(np.mean(values))
            for name, values in (hits | image_hits | _depth(ranking, scored)).items()
        },
    )


def _places(ranking: Ranking) -> tuple[Places, Places]:
    """Place of the right SKU among distinct SKUs and among images."""
    return (
        metrics.right_place(ranking.skus, ranking.query_skus),
        metrics.right_place(ranking.skus, ranking.query_skus, ranking.positions),
    )


def _scorers(ranking: Ranking, others: Mapping[str, Flags]) -> dict[str, Flags]:
    """Hits [n] of each way to answer; none without the whole lists."""
    if ranking.depth is None:
        return {}
    return {
        "nearest": ranking.skus[:, 0] == ranking.query_skus,
        "knn": ranking.depth.voted == ranking.query_skus,
        **others,
    }


def _depth(ranking: Ranking, scored: Flags) -> dict[str, Floats]:
    """Figures of the whole list, query by query; none without it."""
    if ranking.depth is None:
        return {}
    whole, precision = ranking.depth.average_precision[scored], ranking.depth.r_precision[scored]
    return {"map_r": whole, "r_precision": precision, "mrr": 1 / ranking.depth.first[scored]}


def _intervals(hits: dict[str, Flags], clusters: Places, params: EvaluateParams, seed: int) -> Intervals:
    bounds = {name: interval(flags, clusters, params, seed)[1] for name, flags in hits.items()}
    return Intervals(**bounds, confidence=params.confidence, clusters=len(set(clusters.tolist())))


def per_sku(ranking: Ranking, gallery_skus: Collection[str]) -> pd.DataFrame:
    """One row a scored SKU, in order: sku, n, top1, top3, top5."""
    scored = metrics.with_partner(ranking.query_skus, gallery_skus)
    places, skus = _places(ranking)[0][scored], ranking.query_skus[scored]
    names, _, counts = metrics.mean_by(places, skus)
    return pd.DataFrame(
        {"sku": names, "n": counts}
        | {f"top{k}": metrics.mean_by(metrics.hits_at(places, k), skus)[1] for k in (1, 3, 5)}
    )
