"""Fitness of a refreshed gallery to serve: each rule, its edge, and the products held back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.gate.fitness import Fitness, hold_back, judge
from skumatch.params import RefreshParams

# Not the package's: a default that changes must not change what is tested here.
POLICY = RefreshParams(
    max_drop=0.02,
    max_unknown_rise=0.02,
    min_new_found=0.5,
    max_new_unknown=0.3,
    max_taken=0.3,
    min_skus=100,
    confidence=0.95,
    resamples=1000,
)
CHECKS = ("old_vs_served", "old_vs_release", "new_found", "retired_returned", "old_unknown", "new_unknown")
MANY, FEW, EACH = 120, 40, 5  # old products, and photos of each
Row = dict[str, Any]


def ask(
    sku: str,
    count: int = 1,
    status: str = "old",
    served: str | None = None,
    **changes: Any,
) -> list[Row]:
    """Questions about one product that both bundles answer right, except for `changes`."""
    row = {
        "asked_as": "photo",
        "sku": sku,
        "status": status,
        "served": served or sku,
        "served_unknown": False,
    }
    row |= {"refreshed": sku, "refreshed_unknown": False}
    return [row | changes for _ in range(count)]


def frame(*rows: Iterable[Row]) -> pd.DataFrame:
    """Questions with ids; each is a duplicate group of its own unless it names another."""
    listed = [{"query": f"q{i}", "group": f"g{i}"} | row for i, row in enumerate(itertools.chain(*rows))]
    return pd.DataFrame(listed)


def shop(skus: int = MANY) -> list[Row]:
    """Old products of five photos, all answered right."""
    return [row for i in range(skus) for row in ask(f"old-{i:03}", EACH)]


def changed(rows: list[Row], count: int, *, each: int = 1, **changes: Any) -> list[Row]:
    """`rows` with changes in `count` questions, `each` of a product."""
    places = [EACH * (i // each) + i % each for i in range(count)]
    return [row | changes if i in places else row for i, row in enumerate(rows)]


def new(sku: str = "new", count: int = 5, **changes: Any) -> list[Row]:
    """Photos of a new product, which served can't name."""
    return ask(sku, count, **{"status": "new", "served": "old-000"} | changes)


def by_gallery(sku: str, count: int, **changes: Any) -> list[Row]:
    """Gallery photos of a new product, which only the refreshed bundle answers."""
    empty = {"asked_as": "gallery", "served": None, "served_unknown": None}
    return [row | empty for row in new(sku, count, **changes)]


def released(rows: list[Row], **changes: Any) -> list[Row]:
    """`rows` in which the last model release answers right, too."""
    return [{"released": row["sku"], "released_unknown": False} | changes | row for row in rows]


def fitness(*rows: Iterable[Row], retired: tuple[str, ...] = (), **policy: Any) -> Fitness:
    return judge(frame(*rows), POLICY.model_copy(update=policy), "unchanged", 7, retired)


def status(judged: Fitness, name: str) -> str:
    return next(check.status for check in judged.checks if check.name == name)


def failed(judged: Fitness) -> list[str]:
    return [check.name for check in judged.checks if check.status == "failed"]


WRONG, UNKNOWN = {"refreshed": "old-119"}, {"refreshed_unknown": True}
HIDDEN = {
    "served": "old-119",
    "refreshed": "old-119",
}  # wrong in both, so that only the unknown rate can change
OLD = ["old_vs_served", "old_unknown"]

# name, rows, checks that fail
TABLE: list[tuple[str, list[Row], list[str]]] = [
    ("nothing changed", shop(), []),
    ("nothing changed, few products", shop(FEW), []),
    ("a new product that is found", [*shop(), *new()], []),
    # many products: that too much was lost has to be ruled out
    ("many, far fewer lost than the margin", changed(shop(), 5, **WRONG), []),
    ("many, a little fewer lost than the margin", changed(shop(), 11, **WRONG), ["old_vs_served"]),
    ("many, more lost than the margin", changed(shop(), 20, **WRONG), ["old_vs_served"]),
    ("many, far fewer unknown than the margin", changed(shop(), 5, **UNKNOWN), []),
    ("many, a little fewer unknown than the margin", changed(shop(), 11, **UNKNOWN), OLD),
    ("many, wrong ones that become unknown", changed(shop(), 20, **HIDDEN, **UNKNOWN), ["old_unknown"]),
    ("many, unknown ones that become right", changed(shop(), 50, served_unknown=True), []),
    # few products: the loss itself counts, and a quarter of a product may be chance
    ("few, lost more than the margin by a quarter product", changed(shop(FEW), 5, **WRONG), []),
    ("few, lost more than that", changed(shop(FEW), 6, **WRONG), ["old_vs_served"]),
    ("few, lost more than that in two products", changed(shop(FEW), 6, each=5, **WRONG), ["old_vs_served"]),
    ("few, unknown more by a quarter product", changed(shop(FEW), 5, **HIDDEN, **UNKNOWN), []),
    ("few, unknown more than that", changed(shop(FEW), 6, **HIDDEN, **UNKNOWN), ["old_unknown"]),
    (
        "few, all unknown that were wrong",
        changed(shop(FEW), 200, each=5, **HIDDEN, **UNKNOWN),
        ["old_unknown"],
    ),
    ("one product, a quarter and the margin lost", changed(shop(1), 1, each=5, **WRONG), []),
    ("one product, more lost", changed(shop(1), 2, each=5, **WRONG), ["old_vs_served"]),
    # new products
    (
        "five new products, never found",
        [*shop(), *(r for i in range(5) for r in new(f"n{i}", refreshed="old-000"))],
        ["new_found"],
    ),
    (
        "two new products, never found",
        [*shop(), *(r for i in range(2) for r in new(f"n{i}", refreshed="old-000"))],
        [],
    ),
    (
        "new products found by half",
        [*shop(), *(r for i in range(9) for r in new(f"n{i}", 1, refreshed=f"n{i % 2 * i}"))],
        [],
    ),
    (
        "five new products, always unknown",
        [*shop(), *(r for i in range(5) for r in new(f"n{i}", **UNKNOWN))],
        ["new_found", "new_unknown"],
    ),
    (
        "new products, wrong ones unknown",
        [*shop(), *(r for i in range(20) for r in [*new(f"n{i}", 1, **UNKNOWN), *new(f"n{i}", 1)])],
        ["new_unknown"],
    ),
    # retired products
    ("a retired product, never named", [*shop(), *ask("gone", status="retired", refreshed="old-000")], []),
    ("a retired product, named", [*shop(), *ask("gone", status="retired")], ["retired_returned"]),
    (
        "a retired product, named and called unknown",
        [*shop(), *ask("gone", status="retired", **UNKNOWN)],
        ["retired_returned"],
    ),
    (
        "a retired product, named for another",
        [
            *shop(),
            *ask("gone", status="retired", refreshed="old-000"),
            *ask("x", status="other", refreshed="gone"),
        ],
        ["retired_returned"],
    ),
    # against the last model release
    ("no worse than the release", released(shop()), []),
    (
        "fewer lost than the margin since the release",
        released(changed(shop(), 5, served="old-119", **WRONG)),
        [],
    ),
    (
        "more lost than the margin since the release",
        released(changed(shop(), 20, served="old-119", **WRONG)),
        ["old_vs_release"],
    ),
    (
        "more unknown since the release",
        [
            row | {"released": row["served"], "released_unknown": False}
            for row in changed(shop(), 20, **HIDDEN, served_unknown=True, **UNKNOWN)
        ],
        ["old_unknown"],
    ),
    # no questions
    ("no photo of an old product", new(), ["old_vs_served"]),
    ("no question at all", [], ["old_vs_served"]),
    (
        "no answer at all",
        changed(shop(), 600, each=5, refreshed=None, refreshed_unknown=None),
        ["old_vs_served"],
    ),
]


@pytest.mark.parametrize(("rows", "expected"), [pytest.param(*case[1:], id=case[0]) for case in TABLE])
def test_truth_table(rows: list[Row], expected: list[str]) -> None:
    answers = frame(rows) if rows else frame(shop()).iloc[:0]
    judged = judge(answers, POLICY, "unchanged", 7)
    assert failed(judged) == expected, judged.sentence
    assert judged.fit is not expected and judged.fit is (not expected)
    assert tuple(check.name for check in judged.checks) == CHECKS
    assert all(len(check.detail) < 400 for check in judged.checks)


def test_a_check_without_questions_is_not_applicable() -> None:
    judged = fitness(shop())
    idle = {check.name for check in judged.checks if check.status == "not applicable"}
    assert idle == {"old_vs_release", "new_found", "retired_returned", "new_unknown"}
    assert status(fitness(new()), "old_unknown") == "not applicable"


@pytest.mark.parametrize(
    "empty",
    [{}, {"released": None, "released_unknown": None}, {"released": np.nan, "released_unknown": np.nan}],
)
def test_without_a_released_gallery_nothing_is_compared_with_it(empty: Row) -> None:
    judged = fitness([row | empty for row in shop()])
    assert judged.fit and status(judged, "old_vs_release") == "not applicable"


def test_products_that_came_since_the_release_hide_no_loss() -> None:
    """40 products that the release couldn't name are answered right now; the others lost too much."""
    before = released(changed(shop(80), 16, served="old-119", **WRONG))
    since = [row | {"released": "old-001"} for row in released(shop(120)[80 * EACH :])]
    assert failed(fitness(before, since)) == ["old_vs_release"]
    assert failed(fitness(before, since, min_skus=10, max_drop=0.2)) == []


def test_a_retired_product_without_questions_is_named_by_the_caller() -> None:
    rows = [*shop(), *ask("x", status="other", refreshed="gone")]
    assert failed(fitness(rows)) == []
    assert failed(fitness(rows, retired=("gone",))) == ["retired_returned"]
    assert status(fitness(shop(), retired=("gone",)), "retired_returned") == "passed"


def test_duplicates_across_products_are_resampled_together() -> None:
    """Five losses are no five events where their photos are of one duplicate group."""
    rows = changed(shop(), 5, **WRONG)
    assert failed(fitness(rows)) == []
    twins = [row | {"group": "twins"} if row["refreshed"] != row["sku"] else row for row in rows]
    assert failed(fitness(twins)) == ["old_vs_served"]


def test_the_numbers_are_recorded() -> None:
    judged = fitness(released(changed(shop(), 6, **WRONG)), new())
    assert judged.thresholds_note == "unchanged"
    (measured,) = judged.checks[0].measured
    assert (measured.against, measured.questions, measured.skus, measured.limit) == ("served", 600, 120, 0.02)
    assert (measured.before, measured.after, measured.change) == (1.0, 0.99, pytest.approx(-0.01))
    assert measured.low is not None and measured.high is not None and measured.low < -0.01 < measured.high
    (measured,) = judged.checks[2].measured
    assert (measured.against, measured.before, measured.after, measured.questions) == (None, None, 1.0, 5)
    assert [numbers.against for numbers in judged.checks[4].measured] == ["served", "released"]
    assert Fitness.model_validate_json(judged.model_dump_json()) == judged


def test_the_sentence_is_of_the_first_check_that_failed() -> None:
    judged = fitness(changed(shop(), 20, **WRONG), ask("gone", status="retired"))
    assert failed(judged) == ["old_vs_served", "retired_returned"]
    assert "answered right" in judged.sentence and judged.sentence.startswith("Not fit")
    assert fitness(shop()).sentence == "Fit to serve: no check failed."


def test_losses_name_who_lost_photos_to_whom_most_first() -> None:
    rows = [
        *ask("a", 3, refreshed="n"),
        *ask("b", 4, refreshed="n"),
        *ask("c", 3, refreshed="m"),
        *ask("c", 2),
    ]
    rows += [
        *ask("a", 2, refreshed="b"),
        *ask("b", 5, served="a", refreshed="n"),
    ]  # not to a new one; not right before
    judged = fitness(rows, new("n"), new("m"))
    assert [(loss.old, loss.new, loss.photos) for loss in judged.losses] == [
        ("b", "n", 4),
        ("a", "n", 3),
        ("c", "m", 3),
    ]


# --- Held back ---


def taken(count: int, of: int, sku: str = "a", by: str = "new") -> list[Row]:
    """Photos of an old product, some of which go to a new one."""
    return [*ask(sku, count, refreshed=by), *ask(sku, of - count)]


@pytest.mark.parametrize(
    ("count", "of", "held"),
    [
        (1, 1, True),
        (1, 2, True),
        (1, 3, False),
        (2, 3, True),
        (2, 6, True),
        (2, 7, False),
        (3, 10, True),
        (29, 100, False),
        (30, 100, True),
    ],
)
def test_a_new_product_that_takes_an_old_ones_photos_is_held_back(count: int, of: int, held: bool) -> None:
    reasons = hold_back(frame(taken(count, of), new()), POLICY)
    assert list(reasons) == ["new"] * held
    assert not held or f"{count} of {of} photo{'s' if of > 1 else ''} of the old product a" in reasons["new"]


def test_photos_taken_of_many_products_hold_nobody_back() -> None:
    rows = [row for i in range(50) for row in taken(1, 3, sku=f"a{i}")]
    assert hold_back(frame(rows, new()), POLICY) == {}


def test_only_right_answers_of_served_can_be_taken() -> None:
    assert hold_back(frame(ask("a", 3, served="b", refreshed="new"), new()), POLICY) == {}
    assert hold_back(frame(ask("a", 3, served_unknown=True, refreshed="new"), new()), POLICY) == {}
    assert hold_back(frame(ask("a", 3, status="other", refreshed="new"), new()), POLICY) == {}
    assert hold_back(frame(ask("a", 3, refreshed="b"), ask("b"), new()), POLICY) == {}


def test_taken_photos_count_though_they_are_called_unknown() -> None:
    assert list(hold_back(frame(ask("a", 4, refreshed="new", **UNKNOWN), new()), POLICY)) == ["new"]


def test_duplicates_are_one_photo_for_what_is_held_back() -> None:
    twins = [row | {"group": "twins"} for row in ask("a", 3, refreshed="new")]
    assert hold_back(frame(twins, ask("a", 2), new()), POLICY) == {}
    missed = [row | {"group": "twins"} for row in new(count=9, refreshed="a")]
    assert hold_back(frame(ask("a"), missed), POLICY) == {}


@pytest.mark.parametrize(
    ("missed", "of", "held"),
    [(4, 4, False), (5, 5, True), (7, 8, True), (6, 8, False), (1, 1, False)],
)
@pytest.mark.parametrize("asked", [new, by_gallery], ids=["photos", "gallery"])
def test_a_new_product_that_is_not_found_is_held_back(asked: Any, missed: int, of: int, held: bool) -> None:
    rows = [*asked("new", missed, refreshed="a"), *asked("new", of - missed)]
    reasons = hold_back(frame(ask("a"), rows), POLICY)
    assert list(reasons) == ["new"] * held
    assert not held or f"its own {of} questions" in reasons["new"]
    unknown = [*asked("new", missed, **UNKNOWN), *asked("new", of - missed)]
    assert list(hold_back(frame(ask("a"), unknown), POLICY)) == ["new"] * held


def test_a_product_that_cannot_be_asked_is_told_and_not_held_back() -> None:
    lone = by_gallery("lone", 1, refreshed=None, refreshed_unknown=None)
    assert hold_back(frame(shop(), lone), POLICY) == {}
    judged = fitness(shop(), lone)
    assert judged.unasked == ("lone",) and "lone" in judged.checks[2].detail
    assert judged.fit and status(judged, "new_found") == "not applicable"
    judged = fitness(shop(), lone, new())
    assert judged.unasked == ("lone",) and judged.checks[2].measured[0].questions == 5


def test_an_accepted_product_is_not_held_back_and_the_record_says_so() -> None:
    answers = frame(shop(), taken(4, 4), new(), taken(3, 3, "b", "other-new"), new("other-new"))
    policy = POLICY.model_copy(update={"accept": ("new", "unheard of")})
    assert list(hold_back(answers, policy)) == ["other-new"]
    judged = judge(answers, policy, "", 7)
    assert list(judged.accepted) == ["new"] and "old product a" in judged.accepted["new"]
    assert judge(answers, POLICY, "", 7).accepted == {}


def test_each_held_back_product_has_its_own_reason() -> None:
    rows = [*taken(4, 4, by="n1"), *new("n1"), *new("n2", 6, refreshed="a"), *new("n3")]
    reasons = hold_back(frame(rows), POLICY)
    assert list(reasons) == ["n1", "n2"] and "takes" in reasons["n1"] and "found in" in reasons["n2"]


def test_a_malformed_table_is_a_fault_of_the_caller() -> None:
    answers = frame(shop())
    for wrong in (answers.assign(query="q"), answers.assign(status="odd"), answers.assign(asked_as="odd")):
        for ask_of in (lambda rows: hold_back(rows, POLICY), lambda rows: judge(rows, POLICY, "", 7)):
            with pytest.raises(AssertionError):
                ask_of(wrong)


# --- Properties ---

SKUS = ("a", "b", "c", "n", "m", "r", "x")
STATUS = dict(zip(SKUS, ("old", "old", "old", "new", "new", "retired", "other"), strict=True))
answer = st.sampled_from(SKUS[:6])


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Any questions and answers of a small shop."""
    rows = []
    for sku in draw(st.lists(st.sampled_from(SKUS), min_size=1, max_size=40)):
        row = {
            "sku": sku,
            "status": STATUS[sku],
            "asked_as": "photo",
            "group": f"g{draw(st.integers(0, 60))}",
        }
        for bundle in ("served", "released", "refreshed"):
            right = draw(st.booleans())
            row |= {bundle: sku if right else draw(answer), f"{bundle}_unknown": draw(st.integers(0, 4)) == 0}
        rows.append(row)
    return frame(rows)


policies = st.sampled_from(
    [POLICY, POLICY.model_copy(update={"min_skus": 2}), POLICY.model_copy(update={"max_drop": 0.5})],
)


@given(tables(), policies, st.randoms(use_true_random=False))
def test_order_and_names_change_nothing(answers: pd.DataFrame, policy: RefreshParams, random: Any) -> None:
    names = dict(zip(SKUS, random.sample([f"z{i}" for i in range(9)], len(SKUS)), strict=True))
    order = random.sample(range(len(answers)), len(answers))
    columns = ("sku", "served", "released", "refreshed")
    renamed = answers.iloc[order].assign(**{name: answers[name].map(names) for name in columns})
    first, second = (judge(table, policy, "", 7) for table in (answers, renamed))
    numbers = [[(check.status, check.measured) for check in judged.checks] for judged in (first, second)]
    assert numbers[0] == numbers[1]
    assert sorted((names[loss.old], names[loss.new], loss.photos) for loss in first.losses) == sorted(
        (loss.old, loss.new, loss.photos) for loss in second.losses
    )
    assert {names[sku] for sku in hold_back(answers, policy)} == set(hold_back(renamed, policy))


@given(tables(), policies, st.data())
def test_a_right_answer_more_never_makes_it_unfit(
    answers: pd.DataFrame,
    policy: RefreshParams,
    data: st.DataObject,
) -> None:
    place = data.draw(st.sampled_from(answers.index[answers["status"].isin(["old", "new"])].tolist() or [0]))
    if answers.loc[place, "status"] in ("retired", "other"):
        return
    better = answers.copy()
    better.loc[place, "refreshed"], better.loc[place, "refreshed_unknown"] = answers.loc[place, "sku"], False
    assert set(failed(judge(better, policy, "", 7))) <= set(failed(judge(answers, policy, "", 7)))
    assert set(hold_back(better, policy)) <= set(hold_back(answers, policy))


@given(tables(), policies, st.integers(1, 8))
def test_a_harmless_product_more_holds_nobody_back(
    answers: pd.DataFrame,
    policy: RefreshParams,
    photos: int,
) -> None:
    rows = [row | {"released": None, "released_unknown": None} for row in new("harmless", photos)]
    more = pd.concat([answers, frame(rows).assign(query=[f"h{i}" for i in range(photos)])], ignore_index=True)
    assert hold_back(more, policy) == hold_back(answers, policy)
    before, after = (judge(table, policy, "", 7) for table in (answers, more))
    assert set(failed(after)) <= set(failed(before))


@given(tables(), st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_record(answers: pd.DataFrame, seed: int) -> None:
    copy = answers.copy()
    assert judge(answers, POLICY, "", seed) == judge(answers, POLICY, "", seed)
    pd.testing.assert_frame_equal(answers, copy)
