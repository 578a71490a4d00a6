"""Figures of ranked lists under a named protocol."""

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
from skumatch.texts import counted

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

    Args:
        ranking: The lists of n queries.
        gallery_skus: The gallery's SKUs; queries of other SKUs are not scored, only counted.
        protocol: The protocol's name.
        params: Confidence and number of resamples of the intervals.
        seed: Of the resamples.
        hashes: Hashes of the evaluated encoder, gallery and queries, by name.
        facts: One row per query: sku, gallery_images, and the columns that slices are made by; its column
            `group` names duplicates. Slices are made only where it has gallery_images.
        scorers: Hits [n] of other methods that turn neighbours into an answer, by name.

    Raises:
        DataError: No query is left to score.
    """
    scored = metrics.with_partner(ranking.query_skus, gallery_skus)
    skus, n = ranking.query_skus[scored], int(scored.sum())
    if n == 0:
        total = counted(len(ranking), "query", "queries")
        raise DataError(
            f"None of the {total} is of a SKU in the gallery, so no figure can be made; "
            "name SKUs alike on both sides."
        )
    among_skus, among_images = (places[scored] for places in _places(ranking))
    hits = {f"top{k}": metrics.hits_at(among_skus, k) for k in (1, 3, 5)}
    image_hits = {f"image_top{k}": metrics.hits_at(among_images, k) for k in (1, 3, 5)}
    scored_facts = facts[scored].reset_index(drop=True) if facts is not None else pd.DataFrame({"sku": skus})
    groups = scored_facts["group" if "group" in scored_facts else "sku"].to_numpy(dtype=object)
    clusters = clusters_of(skus, groups)
    has_slices = "gallery_images" in scored_facts
    means = hits | image_hits | _depth(ranking, scored)
    return Evaluation(
        protocol=protocol,
        n=n,
        without_partner=len(ranking) - n,
        skus=len(set(skus)),
        macro_top1=float(np.mean(metrics.mean_by(hits["top1"], skus)[1])),
        interval=_intervals(hits, clusters, params, seed),
        hashes=dict(hashes or {}),
        slices=slices_of(scored_facts, hits["top1"], clusters, params, seed) if has_slices else (),
        scorers={
            name: float(np.mean(flags[scored])) for name, flags in _scorers(ranking, scorers or {}).items()
        },
        **{name: float(np.mean(values)) for name, values in means.items()},
    )


def _places(ranking: Ranking) -> tuple[Places, Places]:
    """Return the place of each query's SKU among distinct SKUs, and among images."""
    return (
        metrics.right_place(ranking.skus, ranking.query_skus),
        metrics.right_place(ranking.skus, ranking.query_skus, ranking.positions),
    )


def _scorers(ranking: Ranking, others: Mapping[str, Flags]) -> dict[str, Flags]:
    """Return the hits [n] of each method that turns neighbours into an answer; none without `depth`."""
    if ranking.depth is None:
        return {}
    return {
        "nearest": ranking.skus[:, 0] == ranking.query_skus,
        "knn": ranking.depth.voted == ranking.query_skus,
        **others,
    }


def _depth(ranking: Ranking, scored: Flags) -> dict[str, Floats]:
    """Return the figures of each scored query's whole list; none without `depth`."""
    if ranking.depth is None:
        return {}
    return {
        "map_r": ranking.depth.average_precision[scored],
        "r_precision": ranking.depth.r_precision[scored],
        "mrr": 1 / ranking.depth.first[scored],
    }


def _intervals(hits: dict[str, Flags], clusters: Places, params: EvaluateParams, seed: int) -> Intervals:
    bounds = {name: interval(flags, clusters, params, seed)[1] for name, flags in hits.items()}
    return Intervals(**bounds, confidence=params.confidence, clusters=len(set(clusters.tolist())))


def per_sku(ranking: Ranking, gallery_skus: Collection[str]) -> pd.DataFrame:
    """Return one row per scored SKU, sorted: sku, n, top1, top3, top5."""
    scored = metrics.with_partner(ranking.query_skus, gallery_skus)
    places, skus = _places(ranking)[0][scored], ranking.query_skus[scored]
    names, _, counts = metrics.mean_by(places, skus)
    return pd.DataFrame(
        {"sku": names, "n": counts}
        | {f"top{k}": metrics.mean_by(metrics.hits_at(places, k), skus)[1] for k in (1, 3, 5)}
    )
