"""Cluster bootstrap by SKU: intervals of shares and of paired differences.

Errors of queries of one SKU are correlated, so whole SKUs are resampled, and each resample gives the mean
over its queries. The SKUs are sorted by (size, sum) first, and a resample's weights belong to positions in
that order. Therefore the result depends neither on the names of SKUs nor on the order of queries. Turning a
miss into a hit lowers no resample and hence no bound, since the sorted sums of SKUs of one size can only
rise.

Shares, which lie within 0 and 1, get exponential weights, a *Bayesian bootstrap* (Rubin 1981, "The Bayesian
Bootstrap"), and one SKU more than was seen. With one query per SKU this is Clopper and Pearson's interval;
with SKUs of equal size that are found in all queries or in none it is Gaffke's (Learned-Miller and Thomas
2019, "A New Confidence Interval for the Mean of a Bounded Random Variable").

Differences have no such limits. They get multinomial weights, and quantiles widened for few SKUs (the
expanded percentile interval of Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section
5.3). p-values invert the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

RESAMPLES = 10_000
POWER = 0.8  # of the smallest detectable difference
CHUNK = 2**20  # weights drawn at a time: 8 MiB
UNIT = 2**20  # of a weight: sums of whole numbers are exact, in whatever order a machine adds them


@dataclass(frozen=True)
class Interval:
    """A mean over queries and its two-sided interval.

    Attributes:
        value: The mean.
        low: The lower bound; -inf where one SKU says nothing about its spread.
        high: The upper bound; inf likewise.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired mean difference over queries.

    Attributes:
        estimate: The mean difference.
        lower: Its one-sided lower bound.
        confidence: The confidence of `lower`, from 0 to 1.
        changed: Number of SKUs whose sums differ.
        smallest_detectable: The true difference that would be detected with 80 % power; None where nothing
            differs, since the spread is then unknown.
        p: One-sided p-value: the probability of a difference this large by chance if the true difference were
            only the `above` of `paired_difference`.
        clusters: Number of SKUs that the figures rest on.
    """

    estimate: float
    lower: float
    confidence: float
    changed: int
    smallest_detectable: float | None
    p: float
    clusters: int


class McNemar(NamedTuple):
    """Result of McNemar's test.

    Attributes:
        better: Number of queries that only the first model found.
        worse: Number of queries that only the second model found.
        p: Two-sided p-value, exact if queries were independent.
    """

    better: int
    worse: int
    p: float


def mean_interval(
    values: NDArray[Any],
    clusters: NDArray[Any],
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean of shares with a two-sided interval within 0 and 1.

    Turning a miss into a hit lowers neither bound, so top-1, top-3 and top-5 of the same queries have
    bounds in that order. A single SKU says nothing about others: its bounds are 0 and 1.

    Args:
        values: [n], each from 0 to 1: hits, or hits averaged over seeds.
        clusters: [n], the queries' SKUs; their names and the order of queries don't matter.
        confidence: Of both sides together, from 0 to 1; each tail has half of the rest.
        seed: The same seed gives the same bits.
        resamples: Number of weighted means that the bounds are quantiles of.
    """
    hits, sizes = _places(values, clusters)
    assert np.min(values) >= 0 and np.max(values) <= 1, "shares are from 0 to 1"
    value = float(hits.sum() / sizes.sum())
    if len(sizes) == 1:
        return Interval(value, 0.0, 1.0)
    added, weighted, total = _weighted(hits, sizes, seed, resamples)
    tail = (1 - confidence) / 2
    low = _least_share(sizes - hits, sizes, added, weighted, total, tail)
    high = 1.0 - _least_share(hits, sizes, added, total - weighted, total, tail)
    return Interval(value, min(low, value), max(high, value))


def change_interval(
    values: NDArray[Any],
    clusters: NDArray[Any],
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean of any numbers, such as differences of hits, with a two-sided interval.

    A single SKU says nothing about the spread: low is -inf, high inf. Raising a value lowers neither bound.

    Args:
        values: [n], one per query.
        clusters: [n], the queries' SKUs; their names and the order of queries don't matter.
        confidence: Of both sides together, from 0 to 1; each tail has half of the rest.
        seed: The same seed gives the same bits.
        resamples: Number of resampled means that the bounds are quantiles of.
    """
    sums, sizes = _places(values, clusters)
    means, tail = _resampled_means(sums, sizes, seed, resamples), (1 - confidence) / 2
    low, high = _quantile(means, tail, len(sizes)), -_quantile(-means, tail, len(sizes))
    return Interval(float(sums.sum() / sizes.sum()), low, high)


def faultless_bound(clusters: int, tail: float) -> float:
    """Return the lower bound of the share of faultless SKUs if all `clusters` SKUs seen are faultless.

    This is the bound of Clopper and Pearson 1934 for k hits of k. `tail` is one-sided, 1 - confidence.
    """
    return float(tail ** (1 / clusters))


def highest_share(hits: float, trials: int, tail: float) -> float:
    """Return the upper bound of the true share, given `hits` of `trials` independent trials.

    Source: Clopper and Pearson 1934.

    Args:
        hits: From 0 to `trials`; fractions are allowed.
        trials: At least one.
        tail: One-sided, 1 - confidence.

    Returns:
        The share under which at most this many hits occur with probability `tail`; 1 if all are hits.
    """
    return float(special.betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0


def paired_difference(
    better: NDArray[Any],
    base: NDArray[Any],
    clusters: NDArray[Any],
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
    above: float = 0.0,
) -> Difference:
    """Return the mean of `better` - `base` over the same queries, with its lower bound and p-value.

    The null hypothesis of p is that the true difference is at most `above`. With `above` = -0.01 a small p
    shows that `better` is non-inferior to `base` within one point. p and the bound agree: p is below 1 -
    confidence where the bound lies over `above`. The exception is a handful of SKUs, whose widened quantile
    lies beyond all resamples: there p is the more conservative of the two.

    Args:
        better: [n], values of the first model, one per query.
        base: [n], values of the second model for the same queries.
        clusters: [n], the queries' SKUs.
        confidence: Of the one-sided lower bound, from 0 to 1.
        seed: The same seed gives the same bits.
        resamples: Number of resampled means that the bound is a quantile of.
        above: The largest true difference under the null hypothesis.
    """
    sums, sizes = _places(better.astype(np.float64) - base.astype(np.float64), clusters)
    means, count = _resampled_means(sums, sizes, seed, resamples), len(sizes)
    changed = int(np.count_nonzero(sums))
    spread = float(np.std(means, ddof=1)) * math.sqrt(count / max(count - 1, 1))
    detectable = float(special.ndtri(confidence) + special.ndtri(POWER)) * spread if spread > 0 else None
    return Difference(
        estimate=float(sums.sum() / sizes.sum()),
        lower=_quantile(means, 1 - confidence, count),
        confidence=confidence,
        changed=changed,
        smallest_detectable=detectable,
        p=_p_value(means, above, count),
        clusters=count,
    )


def by_cluster(values: NDArray[Any], clusters: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean of each cluster's `values` [n], sorted by the clusters' names: [clusters]."""
    sums, sizes = _tally(values, clusters)
    return sums / sizes


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple testing, in the given order.

    The probability that any true null hypothesis has an adjusted p-value below alpha is at most alpha (Holm
    1979, "A Simple Sequentially Rejective Multiple Test Procedure").
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def mcnemar(better: NDArray[Any], base: NDArray[Any]) -> McNemar:
    """Return McNemar's exact test of the hits [n] of two models.

    Errors of queries of one SKU are correlated, so p is far too small. It describes the hits; no decision may
    rest on it.
    """
    first_hits, second_hits = better.astype(np.bool_), base.astype(np.bool_)
    up = int(np.count_nonzero(first_hits & ~second_hits))
    down = int(np.count_nonzero(second_hits & ~first_hits))
    # with a probability of 0.5 both tails are alike
    p = min(1.0, 2 * float(special.bdtr(min(up, down), up + down, 0.5)))
    return McNemar(better=up, worse=down, p=p)


def clusters_needed(confidence: float) -> int:
    """Return the smallest number of changed SKUs that can prove a gain at one-sided `confidence`.

    If each SKU were as likely to fall as to rise, all would rise with probability 2^-count.
    """
    return math.ceil(-math.log2(1 - confidence))


def _tally(values: NDArray[Any], clusters: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each cluster's sum and number of values; no bit depends on the order of `values`."""
    assert len(values) == len(clusters) > 0
    names, inverse = np.unique(clusters, return_inverse=True)
    order = np.lexsort((values, inverse))
    sums = np.bincount(inverse[order], weights=values[order].astype(np.float64), minlength=len(names))
    return sums.astype(np.float64), np.bincount(inverse, minlength=len(names)).astype(np.float64)


def _places(values: NDArray[Any], clusters: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums and sizes of the clusters, sorted by size, then sum."""
    sums, sizes = _tally(values, clusters)
    order = np.lexsort((sums, sizes))
    return sums[order], sizes[order]


def _resampled_means(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    seed: int,
    resamples: int,
) -> NDArray[np.float64]:
    """Return [resamples] means over queries; a resample draws as many clusters as given, with replacement."""
    generator, means, count = np.random.default_rng(seed), np.empty(resamples), len(sizes)
    for rows in _chunks(resamples, count):
        drawn = generator.integers(0, count, (rows.stop - rows.start, count))
        means[rows] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means


def _weighted(
    hits: NDArray[np.float64],
    sizes: NDArray[np.float64],
    seed: int,
    resamples: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the added SKU's weight, and the weighted hits and queries of all others, each [resamples]."""
    generator, columns = np.random.default_rng(seed), np.column_stack([hits, sizes])
    added, totals = np.empty(resamples), np.empty((resamples, 2))
    for rows in _chunks(resamples, len(sizes) + 1):
        weights = np.floor(UNIT * generator.standard_exponential((rows.stop - rows.start, len(sizes) + 1)))
        added[rows], totals[rows] = weights[:, 0], weights[:, 1:] @ columns
    return added, totals[:, 0], totals[:, 1]


def _least_share(
    misses: NDArray[np.float64],
    sizes: NDArray[np.float64],
    added: NDArray[np.float64],
    hits: NDArray[np.float64],
    total: NDArray[np.float64],
    tail: float,
) -> float:
    """Return the lower bound of a share of hits, with one SKU added to those seen.

    The added SKU has the size that a query's SKU has on average over queries. It misses one query, and a
    share of its other queries: the largest share that any SKU seen misses beside its first miss. Whole SKUs
    may be missed even where no miss was seen, so the bound never exceeds `faultless_bound`.

    Args:
        misses: [clusters], in the order of `sizes`.
        sizes: [clusters], numbers of queries.
        added: [resamples], weight of the added SKU.
        hits: [resamples], weighted hits of the SKUs seen.
        total: [resamples], weighted queries of the SKUs seen.
        tail: One-sided, 1 - confidence.
    """
    size = float(sizes @ sizes / sizes.sum())
    along = float(np.max(np.maximum(misses - 1, 0) / np.maximum(sizes - 1, 1)))
    shares = (hits + added * (size - 1) * (1 - along)) / (total + added * size)
    return min(float(np.quantile(shares, tail, method="lower")), faultless_bound(len(sizes), tail))


def _chunks(resamples: int, width: int) -> Iterator[slice]:
    """Return slices of the resamples whose weights, `width` per resample, fit into CHUNK."""
    step = max(1, CHUNK // width)
    return (slice(start, min(start + step, resamples)) for start in range(0, resamples, step))


def _quantile(means: NDArray[np.float64], tail: float, count: int) -> float:
    """Return the lower quantile of `means`, at a tail narrowed for `count` clusters.

    One cluster says nothing about the spread: -inf.
    """
    if count < 2:
        return -math.inf
    narrowed = special.ndtr(special.stdtrit(count - 1, tail) * math.sqrt(count / (count - 1)))
    return float(np.quantile(means, narrowed, method="lower"))


def _p_value(means: NDArray[np.float64], above: float, count: int) -> float:
    """Return the tail at which `_quantile` reaches `above`; 1 where there is only one cluster.

    It is never 0, since the sample itself counts as one resample.
    """
    if count < 2:
        return 1.0
    share = (np.count_nonzero(means <= above) + 1) / (len(means) + 1)
    return float(special.stdtr(count - 1, special.ndtri(share) * math.sqrt((count - 1) / count)))
