"""Cluster bootstrap by SKU: intervals and paired differences that know that errors come in SKUs, not in single queries.

Whole SKUs are drawn with replacement and the mean over their queries is taken each time. SKUs with equal (sum, count)
are interchangeable, so a resample is one multinomial draw over the kinds of SKU: the same distribution, much faster.
Quantiles are widened for few SKUs (the expanded percentile interval of Hesterberg 2015, "What Teachers Should Know
About the Bootstrap", section 5.3); p-values are the same interval turned round. What never varies has no bootstrap: a share of
exactly 0 or 1 gets Clopper and Pearson's bound over whole SKUs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

RESAMPLES = 10_000
POWER = 0.8  # of the smallest detectable difference
CHUNK = 2**23  # counts drawn at a time: 64 MiB


@dataclass(frozen=True)
class Interval:
    """A mean over queries and its two-sided interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired mean difference over queries.

    lower: one-sided bound. changed: SKUs whose sum differs. smallest_detectable: the true difference that would be seen
    with 80 % power; None where nothing differs, so nothing can be said of its spread. p: one-sided, how often chance alone would
    show as much if the true difference were only what was asked for; clusters: how many SKUs all this rests on.
    """

    estimate: float
    lower: float
    confidence: float
    changed: int
    smallest_detectable: float | None
    p: float
    clusters: int


class McNemar(NamedTuple):
    """better, worse: queries that only the one or only the other found. p: two-sided and exact, if queries were independent."""

    better: int
    worse: int
    p: float


def mean_interval(values: NDArray[Any], clusters: NDArray[Any], confidence: float, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Mean of `values` [n] with a two-sided interval; `clusters` [n] are the queries' SKUs.

    The order of queries and the names of SKUs don't matter. One SKU alone has no spread to learn from: low is -inf, high inf.
    Where all values are 1, every resample is, too; then low is what the share of faultless SKUs is at least (Clopper and Pearson
    1934, k of k: the rule of three, by SKU), as if a faulty SKU missed all its queries. Where all are 0, high likewise.
    """
    tail = (1 - confidence) / 2
    kinds, times = _kinds(values, clusters)
    means, count = _resampled_means(kinds, times, seed, resamples)
    low, high = _quantile(means, tail, count), -_quantile(-means, tail, count)
    if count > 1 and low == high == 1:
        low = tail ** (1 / count)
    elif count > 1 and low == high == 0:
        high = 1 - tail ** (1 / count)
    return Interval(_mean(kinds, times), low, high)


def paired_difference(
    better: NDArray[Any],
    base: NDArray[Any],
    clusters: NDArray[Any],
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
    above: float = 0.0,
) -> Difference:
    """Mean of `better` - `base` over the same queries [n], with its lower bound at one-sided `confidence`.

    Its p is of the hypothesis that the true difference is `above` at most: with -0.01 a small one shows that `better` is
    non-inferior to `base` within one point. p and the bound agree (p is below 1 - confidence where the bound lies over `above`), but for
    a handful of SKUs, whose widened quantile lies beyond all resamples: there p is the more careful of the two.
    """
    kinds, times = _kinds(better.astype(np.float64) - base.astype(np.float64), clusters)
    means, count = _resampled_means(kinds, times, seed, resamples)
    changed = int(times[kinds[:, 0] != 0].sum())
    spread = float(np.std(means, ddof=1)) * math.sqrt(count / max(count - 1, 1))
    detectable = float(special.ndtri(confidence) + special.ndtri(POWER)) * spread if spread > 0 else None
    lower = _quantile(means, 1 - confidence, count)
    return Difference(_mean(kinds, times), lower, confidence, changed, detectable, _p_value(means, above, count), count)


def by_cluster(values: NDArray[Any], clusters: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of each cluster's `values` [n], in order of the clusters' names: [clusters]."""
    sums, sizes = _tally(values, clusters)
    return sums / sizes


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many they are, in their order: those below alpha are all true but for a chance of alpha.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def mcnemar(better: NDArray[Any], base: NDArray[Any]) -> McNemar:
    """McNemar's exact test of hits [n]. Queries of a SKU err together, so its p is far too small: a description, never a reason."""
    ours, theirs = better.astype(np.bool_), base.astype(np.bool_)
    up, down = int(np.count_nonzero(ours & ~theirs)), int(np.count_nonzero(theirs & ~ours))
    return McNemar(up, down, min(1.0, 2 * float(special.bdtr(min(up, down), up + down, 0.5))))  # at a half both tails are alike


def clusters_needed(confidence: float) -> int:
    """Fewest changed SKUs that can prove a gain: were each as likely to fall as to rise, all would rise once in 2^count."""
    return math.ceil(-math.log2(1 - confidence))


def _tally(values: NDArray[Any], clusters: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each cluster's sum and number of values."""
    assert len(values) == len(clusters) > 0
    names, inverse = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(inverse, weights=values, minlength=len(names)), np.bincount(inverse, minlength=len(names))
    return sums.astype(np.float64), sizes.astype(np.int64)


def _kinds(values: NDArray[Any], clusters: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The different (sum, size) that clusters have, in order, and how many clusters have each."""
    sums, sizes = _tally(values, clusters)
    return np.unique(np.column_stack([sums, sizes.astype(np.float64)]), axis=0, return_counts=True)


def _mean(kinds: NDArray[np.float64], times: NDArray[np.int64]) -> float:
    """Over values; in the kinds' order, so that a shuffle of the queries changes not even the last bit."""
    total, size = times @ kinds
    return float(total / size)


def _resampled_means(kinds: NDArray[np.float64], times: NDArray[np.int64], seed: int, resamples: int) -> tuple[NDArray[np.float64], int]:
    count = int(times.sum())
    generator, share = np.random.default_rng(seed), times / count
    totals = np.empty((resamples, 2))
    step = max(1, CHUNK // len(kinds))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        totals[start : start + size] = generator.multinomial(count, share, size=size) @ kinds
    return totals[:, 0] / totals[:, 1], count


def _quantile(means: NDArray[np.float64], tail: float, count: int) -> float:
    """Lower quantile of `means`, at a tail narrowed for `count` clusters; -inf where one cluster tells nothing."""
    if count < 2:
        return -math.inf
    narrowed = special.ndtr(special.stdtrit(count - 1, tail) * math.sqrt(count / (count - 1)))
    return float(np.quantile(means, narrowed))


def _p_value(means: NDArray[np.float64], above: float, count: int) -> float:
    """The tail at which `_quantile` reaches `above`; 1 where one cluster tells nothing. Never 0: the sample itself is one resample."""
    if count < 2:
        return 1.0
    share = (np.count_nonzero(means <= above) + 1) / (len(means) + 1)
    return float(special.stdtr(count - 1, special.ndtri(share) * math.sqrt((count - 1) / count)))
