"""Intervals that know SKUs: width, coverage, independence of order and names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.retrieval.statistics import clusters_needed, mean_interval, paired_difference


def clustered(generator: np.random.Generator, skus: int, each: int, spread: float, rate: float = 0.85) -> tuple[np.ndarray, np.ndarray]:
    """Hits whose rate differs from SKU to SKU by `spread`, and their SKUs."""
    rates = np.clip(rate + spread * generator.normal(size=skus), 0, 1)
    return generator.random(skus * each) < np.repeat(rates, each), np.repeat(np.arange(skus), each)


def naive_low(values: np.ndarray, clusters: np.ndarray, tail: float, resamples: int) -> float:
    """The bootstrap as a loop: draw SKUs, pool their queries, take the mean."""
    generator, names = np.random.default_rng(5), np.unique(clusters)
    own = {name: values[clusters == name] for name in names}
    means = [np.concatenate([own[name] for name in generator.choice(names, len(names))]).mean() for _ in range(resamples)]
    return float(np.quantile(means, tail))


def test_agrees_with_a_bootstrap_written_as_a_loop() -> None:
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(200), generator.integers(1, 12, 200))  # SKUs of unequal size
    values = generator.random(len(clusters)) < np.clip(0.7 + 0.25 * generator.normal(size=200), 0, 1)[clusters]
    found = mean_interval(values, clusters, 0.95, seed=1)
    half = (found.high - found.low) / 2
    assert found.low == pytest.approx(naive_low(values, clusters, 0.025, 4000), abs=0.1 * half)
    assert found.value == values.mean() and found.low < found.value < found.high


def test_clustered_errors_widen_the_interval() -> None:
    hits, skus = clustered(np.random.default_rng(1), 100, 20, spread=0.2)
    by_sku = mean_interval(hits, skus, 0.95, seed=1)
    as_if_independent = mean_interval(hits, np.arange(len(hits)), 0.95, seed=1)
    assert by_sku.high - by_sku.low > 1.5 * (as_if_independent.high - as_if_independent.low)


@pytest.mark.parametrize("skus", [12, 100])
def test_coverage_is_near_the_promise_even_for_few_skus(skus: int) -> None:
    generator, covered = np.random.default_rng(2), 0
    for _ in range(300):
        values = np.repeat(generator.normal(size=skus), 5)  # whole SKUs rise and fall together; the true mean is 0
        found = mean_interval(values, np.repeat(np.arange(skus), 5), 0.95, seed=int(generator.integers(2**31)), resamples=500)
        covered += found.low <= 0 <= found.high
    assert 0.91 <= covered / 300 <= 0.985


def test_few_skus_get_about_the_interval_of_students_t() -> None:
    generator, widths = np.random.default_rng(11), []
    for _ in range(30):
        means = generator.normal(size=10)
        found = mean_interval(np.repeat(means, 4), np.repeat(np.arange(10), 4), 0.95, seed=1, resamples=2000)
        widths.append((found.high - found.low) / (2 * 2.262 * means.std(ddof=1) / math.sqrt(10)))  # 2.262: t, 9 degrees of freedom
    assert np.mean(widths) == pytest.approx(1, abs=0.07)  # a plain percentile interval has 0.82


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.booleans()), min_size=1, max_size=60), st.randoms())
@settings(max_examples=60, deadline=None)
def test_order_and_names_do_not_matter(rows: list[tuple[str, bool, bool]], random: object) -> None:
    def found(rows: list[tuple[str, bool, bool]], rename: str) -> tuple[object, object]:
        skus = np.array([rename + sku for sku, _, _ in rows], dtype=object)
        ours, theirs = np.array([a for _, a, _ in rows]), np.array([b for _, _, b in rows])
        return mean_interval(ours, skus, 0.9, 3, 200), paired_difference(ours, theirs, skus, 0.975, 3, 200)

    shuffled = rows.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert found(rows, "") == found(shuffled, "x")


def test_seed_decides() -> None:
    hits, skus = clustered(np.random.default_rng(3), 50, 5, 0.2)
    assert mean_interval(hits, skus, 0.95, 1) == mean_interval(hits, skus, 0.95, 1) != mean_interval(hits, skus, 0.95, 2)


def test_one_sku_tells_nothing_about_others() -> None:
    hits, skus = np.array([True] * 50), np.array(["a"] * 50)
    found = mean_interval(hits, skus, 0.95, 1, 200)
    assert (found.value, found.low, found.high) == (1.0, -math.inf, math.inf)
    assert paired_difference(hits, ~hits, skus, 0.975, 1, 200).lower == -math.inf


def test_difference_of_equal_hits_is_nothing() -> None:
    hits, skus = clustered(np.random.default_rng(4), 30, 5, 0.2)
    found = paired_difference(hits, hits, skus, 0.975, 1)
    assert (found.estimate, found.lower, found.changed, found.smallest_detectable) == (0.0, 0.0, 0, None)


def test_difference_is_paired_and_signed() -> None:
    hits, skus = clustered(np.random.default_rng(5), 100, 10, 0.2, rate=0.6)
    better = hits | (np.random.default_rng(6).random(len(hits)) < 0.1)
    gain, loss = paired_difference(better, hits, skus, 0.975, 1), paired_difference(hits, better, skus, 0.975, 1)
    assert gain.estimate == -loss.estimate == pytest.approx(better.mean() - hits.mean())
    assert 0 < gain.lower < gain.estimate and loss.lower < loss.estimate < 0
    assert gain.changed == len(set(skus[better != hits]))


def test_smallest_detectable_difference_shrinks_with_data() -> None:
    found = []
    for skus in (50, 800):
        (ours, names), (theirs, _) = (clustered(np.random.default_rng(seed), skus, 10, 0.1) for seed in (7, 8))
        found.append(paired_difference(ours, theirs, names, 0.975, 1).smallest_detectable or 0.0)
    assert found[0] / found[1] == pytest.approx(4, rel=0.3)  # 16 times the SKUs, a quarter of the difference


def test_smallest_detectable_difference_is_seen_about_four_times_in_five() -> None:
    generator, each = np.random.default_rng(9), 5
    skus = np.repeat(np.arange(200), each)
    noise = np.repeat(generator.normal(size=200), each)
    true = paired_difference(noise, np.zeros(len(noise)), skus, 0.975, 1).smallest_detectable
    assert true is not None
    seen = 0
    for _ in range(200):
        delta = np.repeat(generator.normal(size=200), each) + true
        seen += paired_difference(delta, np.zeros(len(delta)), skus, 0.975, int(generator.integers(2**31)), 500).lower > 0
    assert 0.7 <= seen / 200 <= 0.9


def test_equal_models_are_rarely_called_better() -> None:
    generator, false = np.random.default_rng(10), 0
    for _ in range(400):
        (ours, skus), (theirs, _) = (clustered(generator, 60, 6, 0.2) for _ in range(2))
        false += paired_difference(ours, theirs, skus, 0.975, int(generator.integers(2**31)), 500).lower > 0
    assert false / 400 <= 0.045  # nominal 2.5 %; 400 trials of it exceed this about once in 100


@pytest.mark.parametrize(("confidence", "count"), [(0.9, 4), (0.95, 5), (0.975, 6), (0.99, 7)])
def test_clusters_needed_is_the_sign_tests(confidence: float, count: int) -> None:
    assert clusters_needed(confidence) == count
    assert 0.5**count <= 1 - confidence < 0.5 ** (count - 1)
