"""Cluster bootstrap by SKU: intervals of shares and of paired differences.

Errors come in SKUs, not in single queries. So whole SKUs are resampled and the mean over their queries is
taken each time. SKUs are put in order of (size, sum) first, and a resample's weights belong to places in
that order. So names and the order of queries don't matter, and turning a miss into a hit lowers no
resample, hence no bound: within a size the sorted sums can only rise.

A share gets exponential weights, a *Bayesian bootstrap* (Rubin 1981, "The Bayesian Bootstrap"), and one SKU
more than was seen. With one query a SKU that is Clopper and Pearson's interval; with equal SKUs that are
found in all queries or in none it is Gaffke's (Learned-Miller and Thomas 2019, "A New Confidence Interval
for the Mean of a Bounded Random Variable").

A difference has no such ends. It gets multinomial weights, and quantiles widened for few SKUs (the expanded
percentile interval of Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 5.3);
p-values are the same interval turned round.
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
    """A mean over queries and its two-sided interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired mean difference over queries.

    lower: one-sided bound. changed: SKUs whose sum differs. smallest_detectable: the true difference that
    would be seen with 80 % power; None where nothing differs, so nothing can be said of its spread. p:
    one-sided, how often chance alone would show as much if the true difference were only what was asked for;
    clusters: how many SKUs all this rests on.
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


def mean_interval(
    values: NDArray[Any],
    clusters: NDArray[Any],
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of shares with a two-sided interval within 0 and 1.

    Turning a miss into a hit lowers neither bound, so top-1, top-3 and top-5 of the same queries have
    bounds in that order. One SKU tells nothing about others: its bounds are 0 and 1.

    Args:
        values: [n], each from 0 to 1: hits, or hits averaged over seeds.
        clusters: [n], the queries' SKUs; their names and the order of queries don't matter.
        confidence: of both sides together; each side gets half of the rest.
        seed: the same seed gives the same bits.
        resamples: how many weighted means the bounds are quantiles of.
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
    """Mean of any numbers, such as differences of hits, with a two-sided interval.

    One SKU alone has no spread to learn from: low is -inf, high inf. Raising a value lowers neither bound.

    Args:
        values: [n], one a query.
        clusters: [n], the queries' SKUs; their names and the order of queries don't matter.
        confidence: of both sides together; each side gets half of the rest.
        seed: the same seed gives the same bits.
        resamples: how many resampled means the bounds are quantiles of.
    """
    sums, sizes = _places(values, clusters)
    means, tail = _resampled_means(sums, sizes, seed, resamples), (1 - confidence) / 2
    low, high = _quantile(means, tail, len(sizes)), -_quantile(-means, tail, len(sizes))
    return Interval(float(sums.sum() / sizes.sum()), low, high)


def faultless_bound(clusters: int, tail: float) -> float:
    """Lower bound of the share of faultless SKUs if all `clusters` are (Clopper and Pearson 1934, k of k)."""
    return float(tail ** (1 / clusters))


def highest_share(hits: float, trials: int, tail: float) -> float:
    """Upper bound of the share that `hits` of `trials` independent ones come from (Clopper and Pearson 1934).

    Args:
        hits: from 0 to `trials`; a fraction is taken as it is.
        trials: at least one.
        tail: one-sided, 1 - confidence.

    Returns:
        The share of which so few hits or fewer would be seen with probability `tail`; 1 if all are hits.
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
    """Mean of `better` - `base` over the same queries [n], with its lower bound at one-sided `confidence`.

    Its p is of the hypothesis that the true difference is `above` at most: with -0.01 a small one shows that
    `better` is non-inferior to `base` within one point. p and the bound agree (p is below 1 - confidence
    where the bound lies over `above`), but for a handful of SKUs, whose widened quantile lies beyond all
    resamples: there p is the more careful of the two.
    """
    sums, sizes = _places(better.astype(np.float64) - base.astype(np.float64), clusters)
    means, count = _resampled_means(sums, sizes, seed, resamples), len(sizes)
    changed = int(np.count_nonzero(sums))
    spread = float(np.std(means, ddof=1)) * math.sqrt(count / max(count - 1, 1))
    detectable = float(special.ndtri(confidence) + special.ndtri(POWER)) * spread if spread > 0 else None
    lower, p = _quantile(means, 1 - confidence, count), _p_value(means, above, count)
    return Difference(float(sums.sum() / sizes.sum()), lower, confidence, changed, detectable, p, count)


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
    """McNemar's exact test of hits [n].

    Queries of a SKU err together, so its p is far too small: a description, never a reason.
    """
    ours, theirs = better.astype(np.bool_), base.astype(np.bool_)
    up, down = int(np.count_nonzero(ours & ~theirs)), int(np.count_nonzero(theirs & ~ours))
    return McNemar(
        up, down, min(1.0, 2 * float(special.bdtr(min(up, down), up + down, 0.5)))
    )  # at a half both tails are alike


def clusters_needed(confidence: float) -> int:
    """Fewest changed SKUs that can prove a gain: were each as likely to fall as to rise, all would rise once in 2^count."""
    return math.ceil(-math.log2(1 - confidence))


def _tally(values: NDArray[Any], clusters: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each cluster's sum and number of values; the order of `values` doesn't change even the last bit."""
    assert len(values) == len(clusters) > 0
    names, inverse = np.unique(clusters, return_inverse=True)
    order = np.lexsort((values, inverse))
    sums = np.bincount(inverse[order], weights=values[order].astype(np.float64), minlength=len(names))
    return sums.astype(np.float64), np.bincount(inverse, minlength=len(names)).astype(np.float64)


def _places(values: NDArray[Any], clusters: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and sizes of the clusters, in order of size, then sum."""
    sums, sizes = _tally(values, clusters)
    order = np.lexsort((sums, sizes))
    return sums[order], sizes[order]


def _resampled_means(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    seed: int,
    resamples: int,
) -> NDArray[np.float64]:
    """Means over the queries of as many clusters as there are, drawn with replacement."""
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
    """The added SKU's weight, and the weighted hits and queries of all others, each [resamples]."""
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
    """Lower bound of a share of hits, with one SKU added to those seen.

    The added SKU is as large as the SKU that an average query is of. It misses one query, and of its others
    the share that a missed query takes along: the largest that any SKU seen misses beside its first miss.
    Whole SKUs may be missed even where no miss was seen, so the bound is never above that for faultless
    SKUs.

    Args:
        misses: [clusters], in the order of `sizes`.
        sizes: [clusters], numbers of queries.
        added: [resamples], weight of the added SKU.
        hits: [resamples], weighted hits of the SKUs seen.
        total: [resamples], weighted queries of the SKUs seen.
        tail: one-sided, 1 - confidence.
    """
    size = float(sizes @ sizes / sizes.sum())
    along = float(np.max(np.maximum(misses - 1, 0) / np.maximum(sizes - 1, 1)))
    shares = (hits + added * (size - 1) * (1 - along)) / (total + added * size)
    return min(float(np.quantile(shares, tail, method="lower")), faultless_bound(len(sizes), tail))


def _chunks(resamples: int, width: int) -> Iterator[slice]:
    """Slices of the resamples whose weights fit into CHUNK."""
    step = max(1, CHUNK // width)
    return (slice(start, min(start + step, resamples)) for start in range(0, resamples, step))


def _quantile(means: NDArray[np.float64], tail: float, count: int) -> float:
    """Lower quantile of `means`, at a tail narrowed for `count` clusters.

    -inf where one cluster tells nothing.
    """
    if count < 2:
        return -math.inf
    narrowed = special.ndtr(special.stdtrit(count - 1, tail) * math.sqrt(count / (count - 1)))
    return float(np.quantile(means, narrowed, method="lower"))


def _p_value(means: NDArray[np.float64], above: float, count: int) -> float:
    """The tail at which `_quantile` reaches `above`; 1 where one cluster tells nothing.

    Never 0: the sample itself is one resample.
    """
    if count < 2:
        return 1.0
    share = (np.count_nonzero(means <= above) + 1) / (len(means) + 1)
    return float(special.stdtr(count - 1, special.ndtri(share) * math.sqrt((count - 1) / count)))
