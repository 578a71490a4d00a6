"""The test of the thresholds for unknown products: which pictures show one, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skumatch.params import EvaluateParams
from skumatch.retrieval import metrics, openset, statistics
from skumatch.retrieval.calibration import Embedded, scores
from skumatch.retrieval.clusters import clusters_of
from skumatch.retrieval.metrics import Flags, Labels, Places
from skumatch.retrieval.openset import Bounds, Kind, OpenSet, Rate
from skumatch.retrieval.protocols import Asked
from skumatch.retrieval.thresholds import Scores, Thresholds

HELD_OUT, WITHOUT_GALLERY, OTHERS = "held-out SKUs", "SKUs without gallery images", "catch-all classes"
RETIRED = "retired products"


@dataclass(frozen=True, eq=False)
class Pictures:
    """Scores of pictures [n], and their SKUs and duplicate groups, which tell what hangs together."""

    scores: Scores
    skus: Labels
    groups: Labels

    def __len__(self) -> int:
        return len(self.skus)


def open_set(
    embedded: Embedded, asked: Asked, thresholds: Thresholds, params: EvaluateParams, seed: int
) -> OpenSet | None:
    """Figures on the queries of the protocol `full`. None if no picture can stand for an unknown product."""
    ranking, groups = asked.ranking, asked.facts["group"].to_numpy(dtype=object)
    scored = metrics.with_partner(ranking.query_skus, asked.partners)
    kinds = {name: pictures for name, pictures in _unknown(embedded, asked, scored) if len(pictures)}
    if not kinds:
        return None
    known = Pictures(scores(ranking).only(scored), ranking.query_skus[scored], groups[scored])
    right = (ranking.skus[:, 0] == ranking.query_skus)[scored]
    unseen = ~np.isin(known.skus, embedded.trained_skus)
    return _Test(known, right, unseen, kinds, thresholds, params, seed).figures()


def _unknown(embedded: Embedded, asked: Asked, scored: Flags) -> Iterator[tuple[str, Pictures]]:
    """Queries of SKUs never trained on, asked of the gallery without their SKU.

    Those without one in it; others.

    Others are pictures of catch-all classes and of retired products.
    """
    ranking, groups = asked.ranking, asked.facts["group"].to_numpy(dtype=object)
    strange, unseen = scores(ranking, without_own=True), ~np.isin(ranking.query_skus, embedded.trained_skus)
    for name, rows in ((HELD_OUT, scored & unseen), (WITHOUT_GALLERY, ~scored)):
        yield name, Pictures(strange.only(rows), ranking.query_skus[rows], groups[rows])
    items = embedded.items
    strangers = items[~items["trained"] & ~items["group"].isin(embedded.gallery["group"])].sort_values("id")
    others, retired = (strangers[strangers["role"].eq(role)] for role in ("other", "retired"))
    if len(others):
        own = others["group"].to_numpy(dtype=object)  # no SKU: a picture hangs together with its copies alone
        yield OTHERS, Pictures(scores(embedded.rank(others)), own, own)
    if len(retired):
        skus, groups = (retired[name].to_numpy(dtype=object) for name in ("sku", "group"))
        yield RETIRED, Pictures(scores(embedded.rank(retired)), skus, groups)


@dataclass(frozen=True, eq=False)
class _Test:
    known: Pictures
    right: Flags
    unseen: Flags
    kinds: dict[str, Pictures]
    thresholds: Thresholds
    params: EvaluateParams
    seed: int

    def figures(self) -> OpenSet:
        unknown = [pictures.scores for pictures in self.kinds.values()]
        strange, margins = (
            np.concatenate([getattr(part, name) for part in unknown]) for name in Scores._fields
        )
        ours, all_right = self.known.scores, np.ones(len(self.known), np.bool_)
        known, right = ours.similarity, self.right
        return OpenSet(
            thresholds=self.thresholds,
            known=len(known),
            unknown=len(strange),
            kinds=tuple(self._kind(*pair) for pair in self.kinds.items()),
            auroc=openset.auroc(known, strange),
            auroc_interval=self._area_interval(openset.influence(known, all_right, strange)),
            fpr_at_95_tpr=openset.fpr_at(known, strange),
            oscr=openset.oscr(known, right, strange),
            oscr_interval=self._area_interval(openset.influence(known, right, strange)),
            margin_auroc=openset.auroc(ours.margin, margins),
            called=self._rate(self.known),
            called_unseen=self._rate(self._only(self.unseen)),
            found=self._rate(*self.kinds.values()),
            curve=openset.curve(known, right, strange),
        )

    def _kind(self, name: str, pictures: Pictures) -> Kind:
        found = float(self.thresholds.unknown(pictures.scores).mean()) if self.thresholds.fitted else None
        return Kind(
            name=name,
            n=len(pictures),
            auroc=openset.auroc(self.known.scores.similarity, pictures.scores.similarity),
            found=found,
        )

    def _only(self, chosen: Flags) -> Pictures:
        known = self.known
        return Pictures(known.scores.only(chosen), known.skus[chosen], known.groups[chosen])

    def _rate(self, *parts: Pictures) -> Rate | None:
        """The share called unknown; None without thresholds or pictures."""
        called = np.concatenate([self.thresholds.unknown(part.scores) for part in parts])
        if not self.thresholds.fitted or not len(called):
            return None
        clusters, params = _clusters(*parts), self.params
        bounds = statistics.mean_interval(called, clusters, params.confidence, self.seed, params.resamples)
        return Rate(share=float(called.mean()), interval=(bounds.low, bounds.high), n=len(called))

    def _area_interval(self, values: NDArray[np.float64]) -> Bounds:
        """Bounds of a figure over pairs, of its `values` for each picture, known ones first.

        However clear the figure, one more SKU on the side that has fewer may be told wrong throughout.
        """
        clusters, params = _clusters(self.known, *self.kinds.values()), self.params
        bounds = statistics.change_interval(values, clusters, params.confidence, self.seed, params.resamples)
        sides = np.split(clusters, [len(self.known)])
        fewest = min(len(np.unique(side)) for side in sides)
        limit = statistics.faultless_bound(fewest, (1 - params.confidence) / 2)
        return max(0.0, min(bounds.low, limit)), min(1.0, max(bounds.high, 1 - limit))


def _clusters(*parts: Pictures) -> Places:
    """The clusters of all pictures of the `parts`, in their order."""
    skus, groups = (np.concatenate([getattr(part, name) for part in parts]) for name in ("skus", "groups"))
    return clusters_of(skus, groups)
