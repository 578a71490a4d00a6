"""Figures of open-set recognition: how well scores separate pictures of known and unknown products.

Known pictures have scores [n], and a flag [n] for a right best match; unknown ones have scores [m]. Known
pictures should score higher. Equal scores count half.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from skumatch.retrieval.metrics import Flags, Floats
from skumatch.retrieval.thresholds import Thresholds

POINTS = 20  # of the curve
Count = Annotated[int, Field(ge=0)]
Bounds = tuple[float, float]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(_Record):
    """A share of pictures.

    Attributes:
        share: From 0 to 1.
        interval: Its two-sided bounds.
        n: Number of pictures.
    """

    share: float
    interval: Bounds
    n: Count


class Kind(_Record):
    """Unknown pictures of one origin.

    Attributes:
        name: The origin.
        n: Number of pictures.
        auroc: Known pictures against these, by similarity.
        found: Share of these called unknown; None without thresholds.
    """

    name: str
    n: Count
    auroc: float
    found: float | None


class Point(_Record):
    """One point of the risk-coverage curve, where pictures of at least `similarity` are answered.

    Attributes:
        similarity: The threshold.
        coverage: Share of known pictures answered.
        risk: Error rate among them.
        unknown: Share of unknown pictures answered; all of these answers are wrong.
    """

    similarity: float
    coverage: float
    risk: float
    unknown: float


class OpenSet(_Record):
    """Known against unknown pictures by their similarity; docs/evaluation.md defines the figures.

    Attributes:
        thresholds: The thresholds tested.
        known: Number of known pictures.
        unknown: Number of unknown pictures.
        kinds: The unknown pictures by origin.
        auroc: Area under the ROC curve, from 0 to 1.
        auroc_interval: Its two-sided bounds.
        fpr_at_95_tpr: Share of unknown pictures answered where 95 % of the known ones are.
        oscr: Open-set classification rate, from 0 to 1.
        oscr_interval: Its two-sided bounds.
        margin_auroc: As `auroc`, by the margin instead of the similarity.
        called: Share of known pictures called unknown; None without thresholds.
        called_unseen: The same of known pictures whose SKU was never trained on; None without such pictures,
            too.
        found: Share of unknown pictures called unknown; None without thresholds.
        curve: The risk-coverage curve.
    """

    thresholds: Thresholds
    known: Count
    unknown: Count
    kinds: tuple[Kind, ...]
    auroc: float
    auroc_interval: Bounds
    fpr_at_95_tpr: float
    oscr: float
    oscr_interval: Bounds
    margin_auroc: float
    called: Rate | None
    called_unseen: Rate | None
    found: Rate | None
    curve: tuple[Point, ...]


def beaten(scores: Floats, others: Floats) -> Floats:
    """Return, for each of `scores` [n], the share of `others` [m] below it; equal scores count half."""
    ordered = np.sort(others)
    shares: Floats = (
        np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    ) / (2 * len(ordered))
    return shares


def auroc(known: Floats, unknown: Floats) -> float:
    """Return the area under the ROC curve: the share of pairs in which the known picture scores higher."""
    return float(beaten(known, unknown).mean())


def oscr(known: Floats, right: Flags, unknown: Floats) -> float:
    """Return the share of pairs in which the known picture scores higher and its best match is right.

    This is the area under the curve of right answers over unknown pictures answered (Dhamija et al. 2018,
    "Reducing Network Agnostophobia", section 3), its points joined by straight lines.

    Args:
        known: [n] scores.
        right: [n], whether the best match of each known picture is right.
        unknown: [m] scores.
    """
    return float((beaten(known, unknown) * right).mean())


def fpr_at(known: Floats, unknown: Floats, share: float = 0.95) -> float:
    """Return the false positive rate: the share of unknown pictures answered at a given true positive rate.

    Args:
        known: [n] scores.
        unknown: [m] scores.
        share: The least share of known pictures answered; the highest threshold that reaches it is taken.
    """
    return float((unknown >= _least(known, share)).mean())


def influence(known: Floats, right: Flags, unknown: Floats) -> Floats:
    """Return a value for each picture whose mean is OSCR (AUROC, if all are right).

    The spread of this mean over resampled clusters is the figure's, to first order. The values are the
    structural components of DeLong et al. 1988; for clustered data see Obuchowski 1997.

    Args:
        known: [n] scores.
        right: [n], whether the best match of each known picture is right.
        unknown: [m] scores.

    Returns:
        [n + m], known pictures first.
    """
    of_known, area = beaten(known, unknown) * right, oscr(known, right, unknown)
    of_unknown = right.mean() * (1 - beaten(unknown, known[right])) if right.any() else np.zeros(len(unknown))
    size = len(known) + len(unknown)
    return np.concatenate(
        [area + (of_known - area) * size / len(known), area + (of_unknown - area) * size / len(unknown)]
    )


def curve(known: Floats, right: Flags, unknown: Floats) -> tuple[Point, ...]:
    """Return the risk-coverage curve at coverages from 1 to a twentieth, in equal steps.

    Args:
        known: [n] scores.
        right: [n], whether the best match of each known picture is right.
        unknown: [m] scores.
    """
    return tuple(_point(known, right, unknown, (POINTS - step) / POINTS) for step in range(POINTS))


def _point(known: Floats, right: Flags, unknown: Floats, share: float) -> Point:
    least = _least(known, share)
    answered = known >= least
    return Point(
        similarity=float(least),
        coverage=float(answered.mean()),
        risk=float(1 - right[answered].mean()),
        unknown=float((unknown >= least).mean()),
    )


def _least(known: Floats, share: float) -> np.float64:
    """Return the highest score that at least `share` of `known` reach."""
    least: np.float64 = np.sort(known)[len(known) - max(1, math.ceil(share * len(known) - 1e-9))]
    return least
