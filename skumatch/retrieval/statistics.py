"""Cluster bootstrap by SKU: intervals and paired differences that know that errors come in SKUs, not in single queries.

Whole SKUs are drawn with replacement and the mean over their queries is taken each time. SKUs with equal (sum, count)
are interchangeable, so a resample is one multinomial draw over the kinds of SKU: the same distribution, much faster.
Quantiles are widened for few SKUs (the expanded percentile interval of Hesterberg 2015, "What Teachers Should Know
About the Bootstrap", section 5.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

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
    with 80 % power; None where nothing differs, so nothing can be said of its spread.
    """

    estimate: float
    lower: float
    confidence: float
    changed: int
    smallest_detectable: float | None


def mean_interval(values: NDArray[Any], clusters: NDArray[Any], confidence: float, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Mean of `values` [n] with a two-sided interval; `clusters` [n] are the queries' SKUs.

    The order of queries and the names of SKUs don't matter. One SKU alone has no spread to learn from: low is -inf, high inf.
    """
    tail = (1 - confidence) / 2
    means, count = _resampled_means(values, clusters, seed, resamples)
    low, high = _quantile(means, tail, count), -_quantile(-means, tail, count)
    return Interval(float(np.mean(values)), low, high)


def paired_difference(
    better: NDArray[Any], base: NDArray[Any], clusters: NDArray[Any], confidence: float, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """Mean of `better` - `base` over the same queries [n], with its lower bound at one-sided `confidence`."""
    delta = better.astype(np.float64) - base.astype(np.float64)
    means, count = _resampled_means(delta, clusters, seed, resamples)
    changed = int(np.count_nonzero(_tally(delta, clusters)[0]))
    spread = float(np.std(means, ddof=1)) * math.sqrt(count / max(count - 1, 1))
    detectable = float(stats.norm.ppf(confidence) + stats.norm.ppf(POWER)) * spread if spread > 0 else None
    return Difference(float(np.mean(delta)), _quantile(means, 1 - confidence, count), confidence, changed, detectable)


def clusters_needed(confidence: float) -> int:
    """Fewest changed SKUs that can prove a gain: were each as likely to fall as to rise, all would rise once in 2^count."""
    return math.ceil(-math.log2(1 - confidence))


def _tally(values: NDArray[Any], clusters: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each cluster's sum and number of values."""
    assert len(values) == len(clusters) > 0
    names, inverse = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(inverse, weights=values, minlength=len(names)), np.bincount(inverse, minlength=len(names))
    return sums.astype(np.float64), sizes.astype(np.int64)


def _resampled_means(values: NDArray[Any], clusters: NDArray[Any], seed: int, resamples: int) -> tuple[NDArray[np.float64], int]:
    sums, sizes = _tally(values, clusters)
    kinds, times = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    generator, share = np.random.default_rng(seed), times / times.sum()
    totals = np.empty((resamples, 2))
    step = max(1, CHUNK // len(kinds))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        totals[start : start + size] = generator.multinomial(len(sums), share, size=size) @ kinds
    return totals[:, 0] / totals[:, 1], len(sums)


def _quantile(means: NDArray[np.float64], tail: float, count: int) -> float:
    """Lower quantile of `means`, at a tail narrowed for `count` clusters; -inf where one cluster tells nothing."""
    if count < 2:
        return -math.inf
    narrowed = stats.norm.cdf(stats.t.ppf(tail, count - 1) * math.sqrt(count / (count - 1)))
    return float(np.quantile(means, narrowed))
