"""How well pictures of unknown products are told from those of known ones: figures of two sets of scores, higher for known.

Known pictures have scores [n] and whether their best match is right [n]; unknown ones have scores [m]. Equal scores count half.
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
    """A share of n pictures and its interval."""

    share: float
    interval: Bounds
    n: Count


class Kind(_Record):
    """Unknown pictures of one origin. found: the share of them that is called unknown.

    None without thresholds.
    """

    name: str
    n: Count
    auroc: float
    found: float | None


class Point(_Record):
    """Were only pictures of at least this similarity answered: the share of known ones answered, how many of these answers are wrong,
    and the share of unknown ones answered, always wrongly."""

    similarity: float
    coverage: float
    risk: float
    unknown: float


class OpenSet(_Record):
    """Known against unknown pictures by their similarity.

    Shares from 0 to 1; docs/evaluation.md defines each.

    margin_auroc: by the margin instead. called, called_unseen, found: the share called unknown by
    `thresholds` of all known pictures, of those whose SKU was never trained on, and of unknown ones; None
    without thresholds, or without such pictures.
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
    """The share of `others` [m] below each of `scores` [n]; an equal one counts half."""
    ordered = np.sort(others)
    shares: Floats = (
        np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    ) / (2 * len(ordered))
    return shares


def auroc(known: Floats, unknown: Floats) -> float:
    """The share of pairs in which the known picture scores higher: the area under the ROC curve."""
    return float(beaten(known, unknown).mean())


def oscr(known: Floats, right: Flags, unknown: Floats) -> float:
    """The share of pairs in which the known picture scores higher and its best match is right.

    The area under the curve of right answers over unknown pictures answered (Dhamija et al. 2018, "Reducing
    Network Agnostophobia", section 3), its points joined by straight lines.
    """
    return float((beaten(known, unknown) * right).mean())


def fpr_at(known: Floats, unknown: Floats, share: float = 0.95) -> float:
    """The share of unknown pictures answered where at least `share` of the known ones are, at the highest such score."""
    return float((unknown >= _least(known, share)).mean())


def influence(known: Floats, right: Flags, unknown: Floats) -> Floats:
    """A value for each known, then each unknown picture [n + m]: their mean is OSCR (AUROC, if all are right), and its spread over
    resampled clusters is the figure's, to first order (the structural components of DeLong et al. 1988; clustered: Obuchowski 1997)."""
    ours, area = beaten(known, unknown) * right, oscr(known, right, unknown)
    theirs = right.mean() * (1 - beaten(unknown, known[right])) if right.any() else np.zeros(len(unknown))
    size = len(known) + len(unknown)
    return np.concatenate(
        [area + (ours - area) * size / len(known), area + (theirs - area) * size / len(unknown)]
    )


def curve(known: Floats, right: Flags, unknown: Floats) -> tuple[Point, ...]:
    """From all known pictures answered to a twentieth of them, in equal steps."""
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
    """The highest score that at least `share` of `known` reach."""
    least: np.float64 = np.sort(known)[len(known) - max(1, math.ceil(share * len(known) - 1e-9))]
    return least
