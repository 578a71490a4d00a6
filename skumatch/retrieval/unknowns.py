"""The test of the thresholds for unknown products, on pictures that show a product outside the gallery."""

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
from skumatch.retrieval.protocols import ProtocolAnswers
from skumatch.retrieval.thresholds import Scores, Thresholds

HELD_OUT, WITHOUT_GALLERY, OTHERS = "held-out SKUs", "SKUs without gallery images", "catch-all classes"
RETIRED = "retired products"


@dataclass(frozen=True, eq=False)
class Pictures:
    """Scores of pictures, and the labels that cluster them.

    Attributes:
        scores: Arrays [n].
        skus: [n].
        groups: [n], duplicate groups.
    """

    scores: Scores
    skus: Labels
    groups: Labels

    def __len__(self) -> int:
        return len(self.skus)


def open_set(
    embedded: Embedded, ranked: ProtocolAnswers, thresholds: Thresholds, params: EvaluateParams, seed: int
) -> OpenSet | None:
    """Test the thresholds on the queries of the protocol `full` and on pictures of unknown products.

    Args:
        embedded: All items; `trained` tells which pictures an encoder of the run was trained on.
        ranked: The ranked lists under `full`.
        thresholds: The thresholds to test.
        params: Confidence and number of resamples of the intervals.
        seed: Of the resamples.

    Returns:
        The figures, or None if no picture can stand for an unknown product.
    """
    ranking, groups = ranked.ranking, ranked.facts["group"].to_numpy(dtype=object)
    scored = metrics.with_partner(ranking.query_skus, ranked.partners)
    kinds = {name: pictures for name, pictures in _unknown(embedded, ranked, scored) if len(pictures)}
    if not kinds:
        return None
    known = Pictures(scores(ranking).only(scored), ranking.query_skus[scored], groups[scored])
    right = (ranking.skus[:, 0] == ranking.query_skus)[scored]
    unseen = ~np.isin(known.skus, embedded.trained_skus)
    return _Test(known, right, unseen, kinds, thresholds, params, seed).figures()


def _unknown(embedded: Embedded, ranked: ProtocolAnswers, scored: Flags) -> Iterator[tuple[str, Pictures]]:
    """Yield the pictures that stand for unknown products, by kind.

    These are queries of SKUs never trained on, scored as if their SKU were not in the gallery; queries whose
    SKU has no gallery image; pictures of catch-all classes; and pictures of retired products.
    """
    ranking, groups = ranked.ranking, ranked.facts["group"].to_numpy(dtype=object)
    unknown_scores = scores(ranking, without_own=True)
    unseen = ~np.isin(ranking.query_skus, embedded.trained_skus)
    for name, rows in ((HELD_OUT, scored & unseen), (WITHOUT_GALLERY, ~scored)):
        yield name, Pictures(unknown_scores.only(rows), ranking.query_skus[rows], groups[rows])
    items = embedded.items
    strangers = items[~items["trained"] & ~items["group"].isin(embedded.gallery["group"])].sort_values("id")
    others, retired = (strangers[strangers["role"].eq(role)] for role in ("other", "retired"))
    if len(others):
        # there is no SKU, so a picture is clustered with its duplicates alone
        own_groups = others["group"].to_numpy(dtype=object)
        yield OTHERS, Pictures(scores(embedded.rank(others)), own_groups, own_groups)
    if len(retired):
        skus, groups = (retired[name].to_numpy(dtype=object) for name in ("sku", "group"))
        yield RETIRED, Pictures(scores(embedded.rank(retired)), skus, groups)


@dataclass(frozen=True, eq=False)
class _Test:
    """Known pictures against the kinds of unknown ones.

    Attributes:
        known: Scored queries, [n].
        right: [n], whether the best match is right.
        unseen: [n], whether no encoder was trained on the SKU.
        kinds: Unknown pictures by kind.
        thresholds: The thresholds to test.
        params: Confidence and number of resamples.
        seed: Of the resamples.
    """

    known: Pictures
    right: Flags
    unseen: Flags
    kinds: dict[str, Pictures]
    thresholds: Thresholds
    params: EvaluateParams
    seed: int

    def figures(self) -> OpenSet:
        unknown_scores = [pictures.scores for pictures in self.kinds.values()]
        unknown = np.concatenate([part.similarity for part in unknown_scores])
        unknown_margin = np.concatenate([part.margin for part in unknown_scores])
        all_right = np.ones(len(self.known), np.bool_)
        known, right = self.known.scores.similarity, self.right
        return OpenSet(
            thresholds=self.thresholds,
            known=len(known),
            unknown=len(unknown),
            kinds=tuple(self._kind(name, pictures) for name, pictures in self.kinds.items()),
            auroc=openset.auroc(known, unknown),
            auroc_interval=self._area_interval(openset.influence(known, all_right, unknown)),
            fpr_at_95_tpr=openset.fpr_at(known, unknown),
            oscr=openset.oscr(known, right, unknown),
            oscr_interval=self._area_interval(openset.influence(known, right, unknown)),
            margin_auroc=openset.auroc(self.known.scores.margin, unknown_margin),
            called=self._rate(self.known),
            called_unseen=self._rate(self._only(self.unseen)),
            found=self._rate(*self.kinds.values()),
            curve=openset.curve(known, right, unknown),
        )

    def _kind(self, name: str, pictures: Pictures) -> Kind:
        called = float(self.thresholds.unknown(pictures.scores).mean()) if self.thresholds.fitted else None
        return Kind(
            name=name,
            n=len(pictures),
            auroc=openset.auroc(self.known.scores.similarity, pictures.scores.similarity),
            found=called,
        )

    def _only(self, chosen: Flags) -> Pictures:
        known = self.known
        return Pictures(known.scores.only(chosen), known.skus[chosen], known.groups[chosen])

    def _rate(self, *parts: Pictures) -> Rate | None:
        """Return the share called unknown; None without thresholds or pictures."""
        called = np.concatenate([self.thresholds.unknown(part.scores) for part in parts])
        if not self.thresholds.fitted or not len(called):
            return None
        clusters, params = _clusters(*parts), self.params
        bounds = statistics.mean_interval(called, clusters, params.confidence, self.seed, params.resamples)
        return Rate(share=float(called.mean()), interval=(bounds.low, bounds.high), n=len(called))

    def _area_interval(self, values: NDArray[np.float64]) -> Bounds:
        """Return the bounds of a figure over pairs, given its `influence` values, known pictures first.

        The bounds allow for one more SKU, on the side that has fewer SKUs, that is wrong in all pairs.
        """
        clusters, params = _clusters(self.known, *self.kinds.values()), self.params
        bounds = statistics.change_interval(values, clusters, params.confidence, self.seed, params.resamples)
        sides = np.split(clusters, [len(self.known)])
        fewest = min(len(np.unique(side)) for side in sides)
        limit = statistics.faultless_bound(fewest, (1 - params.confidence) / 2)
        return max(0.0, min(bounds.low, limit)), min(1.0, max(bounds.high, 1 - limit))


def _clusters(*parts: Pictures) -> Places:
    """Return the cluster of each picture of the `parts`, in their order."""
    skus = np.concatenate([part.skus for part in parts])
    groups = np.concatenate([part.groups for part in parts])
    return clusters_of(skus, groups)
