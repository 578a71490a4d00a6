"""Open-set metrics and the fit of thresholds, against counts made pair by pair."""

from __future__ import annotations

from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from skumatch.retrieval import openset
from skumatch.retrieval.metrics import Flags, Floats
from skumatch.retrieval.thresholds import Scores, Thresholds, enough, fit

CLOSE = 1e-12
few = st.integers(-4, 4).map(lambda value: value / 4)  # so few values that many are equal


class Case(NamedTuple):
    known: Floats
    right: Flags
    unknown: Floats


@st.composite
def cases(draw: st.DrawFn) -> Case:
    known = draw(st.lists(st.tuples(few, st.booleans()), min_size=1, max_size=40))
    unknown = draw(st.lists(few, min_size=1, max_size=40))
    return Case(
        np.array([pair[0] for pair in known]), np.array([pair[1] for pair in known]), np.array(unknown)
    )


def won(known: float, unknown: float) -> float:
    return 1.0 if known > unknown else 0.5 if known == unknown else 0.0


@given(cases())
def test_auroc_and_oscr_are_counts_of_pairs(case: Case) -> None:
    pairs = list(product(zip(case.known, case.right, strict=True), case.unknown))
    assert openset.auroc(case.known, case.unknown) == pytest.approx(
        np.mean([won(k, u) for (k, _), u in pairs]), abs=CLOSE
    )
    assert openset.oscr(*case) == pytest.approx(
        np.mean([won(k, u) * right for (k, right), u in pairs]), abs=CLOSE
    )


@given(cases())
def test_oscr_is_the_area_under_right_answers_over_unknown_ones_answered(case: Case) -> None:
    """As it is published: a curve over all thresholds, by trapezoids."""
    steps = [np.inf, *sorted({*case.known, *case.unknown}, reverse=True)]
    answered = [(np.mean(case.unknown >= t), np.mean((case.known >= t) & case.right)) for t in steps]
    area = sum((x - w) * (y + z) / 2 for (w, z), (x, y) in pairwise(answered))
    assert openset.oscr(*case) == pytest.approx(area, abs=CLOSE)


@given(cases())
def test_auroc_and_fpr_are_those_of_scikit_learn(case: Case) -> None:
    labels = np.repeat([1, 0], [len(case.known), len(case.unknown)])
    scores = np.concatenate([case.known, case.unknown])
    assert openset.auroc(case.known, case.unknown) == pytest.approx(roc_auc_score(labels, scores), abs=CLOSE)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert openset.fpr_at(case.known, case.unknown) == pytest.approx(
        fpr[np.argmax(tpr >= 0.95 - CLOSE)], abs=CLOSE
    )


@given(cases())
def test_the_values_behind_an_interval_have_the_figure_as_their_mean(case: Case) -> None:
    values = openset.influence(*case)
    assert len(values) == len(case.known) + len(case.unknown)
    assert values.mean() == pytest.approx(openset.oscr(*case), abs=1e-9)


def test_the_values_behind_an_interval_spread_as_the_figure_does() -> None:
    """Whole clusters drawn anew, the figure computed each time: the spread is that of the values' mean."""
    draws = np.random.default_rng(0)
    known, unknown = (
        draws.normal(1, 1, (60, 5)) + draws.normal(0, 1, (60, 1)),
        draws.normal(0, 1, (40, 5)) + draws.normal(0, 1, (40, 1)),
    )
    right = draws.random((60, 5)) < 0.8
    again = []
    for _ in range(600):
        known_rows, unknown_rows = draws.integers(0, 60, 60), draws.integers(0, 40, 40)
        again.append(
            openset.oscr(known[known_rows].ravel(), right[known_rows].ravel(), unknown[unknown_rows].ravel())
        )
    values = openset.influence(known.ravel(), right.ravel(), unknown.ravel()) - openset.oscr(
        known.ravel(), right.ravel(), unknown.ravel()
    )
    by_cluster = values.reshape(-1, 5).sum(axis=1) / values.size
    assert np.sqrt((by_cluster**2).sum()) == pytest.approx(np.std(again), rel=0.1)


@given(cases())
def test_the_curve_answers_at_least_what_it_names_and_tells_what_that_costs(case: Case) -> None:
    points = openset.curve(*case)
    assert len(points) == 20 and points[0].coverage == 1
    for place, point in enumerate(points):
        answered = case.known >= point.similarity
        assert point.coverage == answered.mean() >= 1 - place / 20 - CLOSE
        assert point.risk == pytest.approx(np.mean(~case.right[answered]), abs=CLOSE)
        assert point.unknown == np.mean(case.unknown >= point.similarity)


pairs = st.lists(st.tuples(few, few.map(abs)), min_size=1, max_size=60).map(
    lambda rows: Scores(*np.array(rows).T)
)


@given(pairs, pairs, st.sampled_from([0.02, 0.05, 0.1, 0.5]))
def test_never_more_known_pictures_are_called_unknown_than_allowed(
    known: Scores, unknown: Scores, target: float
) -> None:
    fitted = Thresholds(**dict(zip(("similarity", "margin"), fit(known, unknown, target), strict=True)))
    assert fitted.unknown(known).sum() <= target * len(known.similarity)


@given(pairs, pairs, st.sampled_from([0.05, 0.2, 0.5]))
def test_the_pair_finds_at_least_what_the_similarity_alone_would(
    known: Scores, unknown: Scores, target: float
) -> None:
    fitted = Thresholds(**dict(zip(("similarity", "margin"), fit(known, unknown, target), strict=True)))
    alone = np.sort(known.similarity)[int(target * len(known.similarity))]
    assert fitted.unknown(unknown).sum() >= (unknown.similarity < alone).sum()


def test_where_only_the_margin_tells_all_goes_to_the_margin() -> None:
    draws = np.random.default_rng(1)
    known, unknown = (
        Scores(draws.random(1000), 0.5 + draws.random(1000)),
        Scores(draws.random(1000), draws.random(1000)),
    )
    similarity, margin = fit(known, unknown, 0.05)
    assert similarity < 0.02 and margin == pytest.approx(0.55, abs=0.02)


def test_few_pictures_or_products_are_not_enough() -> None:
    assert enough(100, 10, 0.05) and not enough(99, 10, 0.05) and not enough(10_000, 9, 0.05)


def test_without_thresholds_nothing_is_unknown_and_a_score_at_one_is_known() -> None:
    scores = Scores(np.array([0.2, 0.5, 0.9]), np.array([0.4, 0.1, 0.3]))
    assert Thresholds().unknown(scores).tolist() == [False, False, False] and not Thresholds().fitted
    assert Thresholds(similarity=0.5).unknown(scores).tolist() == [True, False, False]
    assert Thresholds(similarity=0.5, margin=0.3).unknown(scores).tolist() == [True, True, False]
