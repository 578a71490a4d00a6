"""Intervals that know SKUs: width, coverage, independence of order and names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skumatch.retrieval import statistics
from skumatch.retrieval.statistics import (
    by_cluster,
    change_interval,
    clusters_needed,
    highest_share,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
)
from tests.proving import count


def clustered(
    generator: np.random.Generator, skus: int, each: int, spread: float, rate: float = 0.85
) -> tuple[np.ndarray, np.ndarray]:
    """Hits whose rate differs from SKU to SKU by `spread`, and their SKUs."""
    rates = np.clip(rate + spread * generator.normal(size=skus), 0, 1)
    return generator.random(skus * each) < np.repeat(rates, each), np.repeat(np.arange(skus), each)


def naive_low(values: np.ndarray, clusters: np.ndarray, tail: float, resamples: int) -> float:
    """The bootstrap as a loop: draw SKUs, pool their queries, take the mean."""
    generator, names = np.random.default_rng(5), np.unique(clusters)
    own = {name: values[clusters == name] for name in names}
    means = [
        np.concatenate([own[name] for name in generator.choice(names, len(names))]).mean()
        for _ in range(resamples)
    ]
    return float(np.quantile(means, tail))


def test_agrees_with_a_bootstrap_written_as_a_loop() -> None:
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(200), generator.integers(1, 12, 200))  # SKUs of unequal size
    values = (
        generator.random(len(clusters)) < np.clip(0.7 + 0.25 * generator.normal(size=200), 0, 1)[clusters]
    )
    interval = change_interval(values, clusters, 0.95, seed=1)
    half = (interval.high - interval.low) / 2
    assert interval.low == pytest.approx(naive_low(values, clusters, 0.025, 4000), abs=0.1 * half)
    assert interval.value == values.mean() and interval.low < interval.value < interval.high


def test_clustered_errors_widen_the_interval() -> None:
    hits, skus = clustered(np.random.default_rng(1), 100, 20, spread=0.2)
    by_sku = mean_interval(hits, skus, 0.95, seed=1)
    as_if_independent = mean_interval(hits, np.arange(len(hits)), 0.95, seed=1)
    assert by_sku.high - by_sku.low > 1.5 * (as_if_independent.high - as_if_independent.low)


@pytest.mark.parametrize("skus", [12, 100])
def test_coverage_is_near_the_promise_even_for_few_skus(skus: int) -> None:
    generator, covered = np.random.default_rng(2), 0
    for _ in range(300):
        values = np.repeat(
            generator.normal(size=skus), 5
        )  # whole SKUs rise and fall together; the true mean is 0
        interval = change_interval(
            values, np.repeat(np.arange(skus), 5), 0.95, seed=int(generator.integers(2**31)), resamples=500
        )
        covered += interval.low <= 0 <= interval.high
    assert 0.91 <= covered / 300 <= 0.985


def test_few_skus_get_about_the_interval_of_students_t() -> None:
    generator, widths = np.random.default_rng(11), []
    for _ in range(30):
        means = generator.normal(size=10)
        interval = change_interval(
            np.repeat(means, 4), np.repeat(np.arange(10), 4), 0.95, seed=1, resamples=2000
        )
        widths.append(
            (interval.high - interval.low) / (2 * 2.262 * means.std(ddof=1) / math.sqrt(10))
        )  # 2.262: t, 9 degrees of freedom
    assert np.mean(widths) == pytest.approx(1, abs=0.07)  # a plain percentile interval has 0.82


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.booleans()), min_size=1, max_size=60),
    st.randoms(),
)
@settings(max_examples=count(30, 500))
def test_order_and_names_do_not_matter(rows: list[tuple[str, bool, bool]], random: object) -> None:
    def found(rows: list[tuple[str, bool, bool]], rename: str) -> tuple[object, ...]:
        skus = np.array([rename + sku for sku, _, _ in rows], dtype=object)
        challenger, champion = np.array([a for _, a, _ in rows]), np.array([b for _, _, b in rows])
        thirds = (
            challenger + 2.0 * champion
        ) / 3  # as of hits averaged over three seeds: their sums are rounded
        intervals = (mean_interval(challenger, skus, 0.9, 3, 200), mean_interval(thirds, skus, 0.9, 3, 200))
        return *intervals, paired_difference(challenger, champion, skus, 0.975, 3, 200)

    shuffled = rows.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert found(rows, "") == found(shuffled, "x")


def test_seed_decides() -> None:
    hits, skus = clustered(np.random.default_rng(3), 50, 5, 0.2)
    assert (
        mean_interval(hits, skus, 0.95, 1)
        == mean_interval(hits, skus, 0.95, 1)
        != mean_interval(hits, skus, 0.95, 2)
    )


def test_one_sku_tells_nothing_about_others() -> None:
    hits, skus = np.array([True] * 50), np.array(["a"] * 50)
    mean, change = mean_interval(hits, skus, 0.95, 1, 200), change_interval(hits, skus, 0.95, 1, 200)
    assert (mean.value, mean.low, mean.high) == (1.0, 0.0, 1.0)
    assert (change.value, change.low, change.high) == (1.0, -math.inf, math.inf)
    assert paired_difference(hits, ~hits, skus, 0.975, 1, 200).lower == -math.inf


def test_difference_of_equal_hits_is_nothing() -> None:
    hits, skus = clustered(np.random.default_rng(4), 30, 5, 0.2)
    difference = paired_difference(hits, hits, skus, 0.975, 1)
    assert (difference.estimate, difference.lower, difference.changed, difference.smallest_detectable) == (
        0.0,
        0.0,
        0,
        None,
    )


def test_difference_is_paired_and_signed() -> None:
    hits, skus = clustered(np.random.default_rng(5), 100, 10, 0.2, rate=0.6)
    better = hits | (np.random.default_rng(6).random(len(hits)) < 0.1)
    gain, loss = (
        paired_difference(better, hits, skus, 0.975, 1),
        paired_difference(hits, better, skus, 0.975, 1),
    )
    assert gain.estimate == -loss.estimate == pytest.approx(better.mean() - hits.mean())
    assert 0 < gain.lower < gain.estimate and loss.lower < loss.estimate < 0
    assert gain.changed == len(set(skus[better != hits]))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), max_size=60),
    st.floats(-0.5, 0.5),
    st.sampled_from([0.95, 0.975]),
)
@settings(max_examples=count(60, 600))
def test_p_and_bound_agree(rows: list[tuple[int, bool, bool]], above: float, confidence: float) -> None:
    rows = [
        *rows,
        *((sku, False, sku % 3 == 0) for sku in range(10)),
    ]  # with fewer SKUs p is the more careful of the two
    skus, challenger, champion = (np.array(column) for column in zip(*rows, strict=True))
    difference = paired_difference(challenger, champion, skus, confidence, 1, 2000, above=above)
    if difference.p > 1 - confidence + 0.003:  # a resample more or less decides in between
        assert difference.lower <= above
    if difference.p < 1 - confidence - 0.003:
        assert difference.lower >= above
    higher = paired_difference(challenger, champion, skus, confidence, 1, 2000, above=above + 0.1)
    assert higher.p >= difference.p > 0 and higher.lower == difference.lower


def test_p_of_few_skus_is_about_that_of_students_t() -> None:
    """That of a plain percentile bootstrap is a fifth of it with eight SKUs (median of these trials)."""
    generator, ratios = np.random.default_rng(14), []
    for _ in range(40):
        gains = generator.normal(size=8) + 0.8
        difference = paired_difference(gains, np.zeros(8), np.arange(8), 0.975, 1, 4000).p
        ratios.append(difference / stats.ttest_1samp(gains, 0, alternative="greater").pvalue)
    assert np.median(ratios) == pytest.approx(1.1, abs=0.25)


def test_p_is_never_nothing() -> None:
    """However sure a gain: no resample is below, but the sample itself counts as one."""
    gain = paired_difference(np.ones(60), np.zeros(60), np.repeat(np.arange(20), 3), 0.975, 1, 200)
    assert 0 < gain.p < 0.025


def test_p_of_equal_models_is_uniform() -> None:
    generator, p_values = np.random.default_rng(12), []
    for _ in range(count(300, 2000)):
        (challenger, skus), (champion, _) = (clustered(generator, 60, 6, 0.2) for _ in range(2))
        p_values.append(
            paired_difference(challenger, champion, skus, 0.975, int(generator.integers(2**31)), 500).p
        )
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.mean(np.array(p_values) < share) == pytest.approx(share, abs=0.08)


def test_non_inferiority_is_shown_by_a_model_as_good_and_not_by_one_worse_by_the_margin() -> None:
    base, skus = clustered(np.random.default_rng(13), 200, 10, 0.2)
    lost = np.flatnonzero(base)[::20]  # 5 % of the hits
    worse = base.copy()
    worse[lost] = False
    margin = float(base.mean() - worse.mean())
    assert paired_difference(base, base, skus, 0.95, 1, above=-0.01).p < 0.001
    assert paired_difference(worse, base, skus, 0.95, 1, above=-2 * margin).p < 0.001
    assert paired_difference(worse, base, skus, 0.95, 1, above=-margin).p == pytest.approx(0.5, abs=0.1)
    assert paired_difference(worse, base, skus, 0.95, 1, above=-margin / 2).p > 0.999


def test_one_sku_has_no_p() -> None:
    assert paired_difference(np.ones(9, bool), np.zeros(9, bool), np.zeros(9), 0.95, 1, 200).p == 1


@pytest.mark.parametrize("skus", [2, 81, 2388])
def test_a_perfect_score_is_not_called_certain(skus: int) -> None:
    clusters = np.repeat(np.arange(skus), 3)
    perfect, none = (
        mean_interval(hits, clusters, 0.95, 1, 200)
        for hits in (np.ones(3 * skus, bool), np.zeros(3 * skus, bool))
    )
    exact = stats.binomtest(skus, skus).proportion_ci(0.95, method="exact").low
    assert (perfect.value, perfect.low, perfect.high) == (1.0, pytest.approx(exact), 1.0)
    assert (none.value, none.low, none.high) == (0.0, 0.0, pytest.approx(1 - exact))


ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=2, max_size=60)


@given(ROWS, st.data(), st.sampled_from([0.5, 0.95, 0.99]))
@settings(max_examples=count(60, 2000))
def test_turning_a_miss_into_a_hit_lowers_no_bound(
    rows: list[tuple[int, int]],
    data: st.DataObject,
    confidence: float,
) -> None:
    """Nor does it lower a gain; a hit of the champion's raises none."""
    skus, kinds = np.array(rows).T
    hits, base = kinds % 2 == 1, kinds > 1
    better, worse = hits.copy(), hits.copy()
    query = data.draw(st.integers(0, len(rows) - 1))
    better[query], worse[query] = True, False
    low, high = (mean_interval(values, skus, confidence, 3, 200) for values in (worse, better))
    assert low.low <= high.low and low.high <= high.high
    assert all(0 <= bounds.low <= bounds.value <= bounds.high <= 1 for bounds in (low, high))
    low, high = (change_interval(values - 1.0 * base, skus, confidence, 3, 200) for values in (worse, better))
    assert low.low <= high.low and low.high <= high.high
    before, after = (paired_difference(values, base, skus, confidence, 3, 200) for values in (worse, better))
    assert before.lower <= after.lower and before.p >= after.p
    before, after = (paired_difference(base, values, skus, confidence, 3, 200) for values in (worse, better))
    assert before.lower >= after.lower and before.p <= after.p


SIZES = {"equal": [5] * 24, "unequal": [2, 30] * 12, "all different": list(range(1, 32))}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_bounds_rise_with_every_hit_from_none_to_all(sizes: list[int]) -> None:
    skus = np.repeat(np.arange(len(sizes)), sizes)
    order, hits = np.random.default_rng(8).permutation(len(skus)), np.zeros(len(skus), bool)
    bounds = []
    for place in (None, *order):
        if place is not None:
            hits[place] = True
        interval = mean_interval(hits, skus, 0.95, 7, 300)
        bounds.append((interval.low, interval.high))
    lows, highs = np.array(bounds).T
    assert np.all(np.diff(lows) >= 0) and np.all(np.diff(highs) >= 0) and len(set(lows)) > len(skus) / 2


def test_one_miss_among_24_skus_is_no_surer_than_none() -> None:
    skus, hits = np.repeat(np.arange(24), 5), np.ones(120, bool)
    perfect = mean_interval(hits, skus, 0.95, 7)
    hits[3] = False
    missed = mean_interval(hits, skus, 0.95, 7)
    assert (round(100 * perfect.low, 1), perfect.high) == (85.8, 1.0)
    assert missed.low <= perfect.low < missed.value < missed.high <= 1


@pytest.mark.parametrize("misses", [0, 1, 3, 40, 80])
def test_skus_of_one_query_get_clopper_and_pearsons_interval(misses: int) -> None:
    hits = np.arange(80) >= misses
    interval = mean_interval(hits, np.arange(80), 0.95, 1, 100_000)
    exact = stats.binomtest(int(hits.sum()), 80).proportion_ci(0.95, method="exact")
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=0.002)


def test_skus_found_whole_or_not_at_all_count_as_one_query_each() -> None:
    hits = np.arange(80) >= 4
    single = mean_interval(hits, np.arange(80), 0.95, 1)
    whole = mean_interval(np.repeat(hits, 9), np.repeat(np.arange(80), 9), 0.95, 1)
    assert (whole.low, whole.high) == pytest.approx((single.low, single.high), abs=1e-9)


def test_misses_spread_over_skus_are_told_from_whole_skus_missed() -> None:
    skus, spread, whole = np.repeat(np.arange(200), 10), np.ones(2000, bool), np.ones(2000, bool)
    spread[: 60 * 10 : 10] = False
    whole[: 6 * 10] = False
    alike, clustered_ = mean_interval(spread, skus, 0.95, 1), mean_interval(whole, skus, 0.95, 1)
    assert alike.value == clustered_.value == 0.97
    assert alike.high - alike.low < 0.5 * (clustered_.high - clustered_.low)


def test_bounds_are_the_same_bits_however_the_weights_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    hits, skus = clustered(np.random.default_rng(3), 50, 5, 0.2)
    share, change = (method(hits, skus, 0.95, 1, 500) for method in (mean_interval, change_interval))
    monkeypatch.setattr(statistics, "CHUNK", 700)
    assert (mean_interval(hits, skus, 0.95, 1, 500), change_interval(hits, skus, 0.95, 1, 500)) == (
        share,
        change,
    )


def test_what_is_no_share_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="from 0 to 1"):
        mean_interval(np.array([0.5, -0.1, 1.0]), np.array([1, 1, 2]), 0.95, 1, 200)


def test_holm_is_the_published_procedure() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )  # as R's p.adjust(method="holm") has it
    assert holm([]) == [] and holm([0.4]) == [0.4] and holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
@settings(max_examples=count(30, 500))
def test_holm_rejects_what_stepping_down_by_hand_rejects(p_values: list[float], alpha: float) -> None:
    adjusted, order = holm(p_values), sorted(range(len(p_values)), key=p_values.__getitem__)
    going_on = True
    for place, i in enumerate(order):
        going_on = going_on and p_values[i] * (len(p_values) - place) <= alpha
        assert (adjusted[i] <= alpha) == going_on


def test_mcnemar_counts_what_only_one_found() -> None:
    better, base = (
        np.array([True] * 9 + [False] * 3),
        np.array([True] * 2 + [False] * 7 + [True] + [False] * 2),
    )
    counts = mcnemar(better, base)
    assert (counts.better, counts.worse) == (7, 1) and counts.p == pytest.approx(2 * (1 + 8) / 2**8)
    assert mcnemar(base, base).p == 1


def test_means_of_clusters_come_in_order_of_their_names() -> None:
    assert by_cluster(np.array([1, 0, 1, 1]), np.array(["b", "b", "a", "c"])).tolist() == [1.0, 0.5, 1.0]


def test_smallest_detectable_difference_shrinks_with_data() -> None:
    detectable = []
    for skus in (50, 800):
        (challenger, names), (champion, _) = (
            clustered(np.random.default_rng(seed), skus, 10, 0.1) for seed in (7, 8)
        )
        detectable.append(paired_difference(challenger, champion, names, 0.975, 1).smallest_detectable or 0.0)
    assert detectable[0] / detectable[1] == pytest.approx(
        4, rel=0.3
    )  # 16 times the SKUs, a quarter of the difference


def test_smallest_detectable_difference_is_seen_about_four_times_in_five() -> None:
    generator, each = np.random.default_rng(9), 5
    skus = np.repeat(np.arange(200), each)
    noise = np.repeat(generator.normal(size=200), each)
    true = paired_difference(noise, np.zeros(len(noise)), skus, 0.975, 1).smallest_detectable
    assert true is not None
    seen = 0
    for _ in range(200):
        delta = np.repeat(generator.normal(size=200), each) + true
        seen += (
            paired_difference(
                delta, np.zeros(len(delta)), skus, 0.975, int(generator.integers(2**31)), 500
            ).lower
            > 0
        )
    assert 0.7 <= seen / 200 <= 0.9


def test_equal_models_are_rarely_called_better() -> None:
    generator, false = np.random.default_rng(10), 0
    for _ in range(400):
        (challenger, skus), (champion, _) = (clustered(generator, 60, 6, 0.2) for _ in range(2))
        false += (
            paired_difference(challenger, champion, skus, 0.975, int(generator.integers(2**31)), 500).lower
            > 0
        )
    assert false / 400 <= 0.045  # nominal 2.5 %; 400 trials of it exceed this about once in 100


@pytest.mark.parametrize(("confidence", "count"), [(0.9, 4), (0.95, 5), (0.975, 6), (0.99, 7)])
def test_clusters_needed_is_the_sign_tests(confidence: float, count: int) -> None:
    assert clusters_needed(confidence) == count
    assert 0.5**count <= 1 - confidence < 0.5 ** (count - 1)


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 5), (3, 8), (7, 8)])
def test_the_highest_share_leaves_so_few_hits_the_tail(hits: int, trials: int) -> None:
    share = highest_share(hits, trials, 0.05)
    assert stats.binom.cdf(hits, trials, share) == pytest.approx(0.05)
    assert share > highest_share(hits, trials, 0.1) > hits / trials


def test_the_highest_share_of_hits_alone_is_one_and_rises_with_parts_of_hits() -> None:
    assert highest_share(4, 4, 0.05) == 1.0
    shares = [highest_share(hits, 4, 0.05) for hits in np.linspace(0, 4, 17)]
    assert shares == sorted(shares) and len(set(shares)) == 17
