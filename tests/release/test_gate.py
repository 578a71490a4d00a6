"""The gate's truth table: every case has a verdict, the rule that decided, and a sentence; no by default."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.config import GateParams
from skumatch.release.gate import RULES, Check, Decision, Facts, decide
from skumatch.retrieval.evaluate import Evaluation, Intervals, PairedHits

SKUS, EACH = 20, 10
NAN = math.nan


def evaluation(hits: np.ndarray, **changes: Any) -> Evaluation:
    """Figures as they follow from top-1 hits, with `changes`."""
    top1 = float(np.mean(hits)) if len(hits) else NAN
    higher = min(1.0, top1 + 0.05)
    shares = {
        "top1": top1,
        "top3": higher,
        "top5": higher,
        "image_top1": top1,
        "image_top3": higher,
        "image_top5": higher,
        "macro_top1": top1,
    }
    interval = Intervals(top1=(0.0, 1.0), top3=(0.0, 1.0), top5=(0.0, 1.0), confidence=0.95)
    counts = {"protocol": "full", "n": len(hits), "without_partner": 0, "skus": SKUS}
    return Evaluation.model_validate(counts | shares | {"interval": interval} | changes)


def hits(wrong: int, skus: int = SKUS, each: int = EACH) -> np.ndarray:
    """Hits [skus * each]: the first `wrong` queries of every SKU are missed."""
    return np.tile(np.arange(each) >= wrong, skus)


def names(skus: int = SKUS, each: int = EACH) -> np.ndarray:
    return np.repeat(np.array([f"sku-{i:02}" for i in range(skus)], dtype=object), each)


@dataclass(frozen=True)
class Case:
    """What the gate sees. By default: a champion at 80 % and a challenger at 90 % that may be promoted."""

    ours: np.ndarray = field(default_factory=lambda: hits(wrong=1))
    theirs: np.ndarray | None = field(default_factory=lambda: hits(wrong=2))
    skus: np.ndarray = field(default_factory=names)
    challenger: dict[str, Any] = field(default_factory=dict)
    champion: dict[str, Any] | None = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    paired: bool = True

    def decide(self, seed: int = 7) -> Decision:
        base = {
            "challenger_bundle": "aa",
            "champion_bundle": "bb",
            "bundle_mb": 15.0,
            "blessed": True,
            "dirty_code": False,
            "commit": "c0ffee",
        }
        pairs = PairedHits(self.skus, self.ours, self.theirs) if self.paired and self.theirs is not None else None
        champion = None if self.champion is None or self.theirs is None else evaluation(self.theirs, **self.champion)
        return decide(
            evaluation(self.ours, **self.challenger), champion, pairs, Facts(**base | self.facts), GateParams(**self.policy), seed
        )


def first(**changes: Any) -> Case:
    """The same challenger before there is any champion."""
    facts = {"champion_bundle": None} | changes.pop("facts", {})
    return Case(theirs=None, champion=None, facts=facts, **changes)


def few(skus: int) -> Case:
    """A gain of 10 points in each of only a few SKUs."""
    return Case(ours=hits(1, skus), theirs=hits(2, skus), skus=names(skus), challenger={"skus": skus}, champion={"skus": skus})


def flipped(base: np.ndarray, better: int, worse: int = 0) -> np.ndarray:
    """`base` (2 misses a SKU) with one more hit in `better` SKUs and one more miss in the next `worse` ones."""
    out = base.reshape(SKUS, EACH).copy()
    out[:better, 0] = True
    out[better : better + worse, 5] = False
    return out.ravel()


BASE = hits(2)
EMPTY = np.zeros(0, dtype=bool)
NO_SKUS = np.zeros(0, dtype=object)

# name, case, verdict, the rule that decides (None: none failed)
TABLE: list[tuple[str, Case, str, str | None]] = [
    # no champion yet
    ("first, good", first(), "first", None),
    ("first, at the floor exactly", first(policy={"floor_top1": 0.9}), "first", None),
    ("first, below the floor", first(policy={"floor_top1": 0.91}), "refuse", "floor"),
    ("first, finds nothing", first(ours=hits(EACH)), "refuse", "floor"),
    ("first, no floor asked and finds nothing", first(ours=hits(EACH), policy={"floor_top1": 0.0}), "first", None),
    ("first, uncommitted code", first(facts={"dirty_code": True}), "refuse", "code"),
    ("first, unknown commit", first(facts={"commit": None}), "refuse", "code"),
    ("first, empty commit", first(facts={"commit": ""}), "refuse", "code"),
    ("first, not blessed", first(facts={"blessed": False}), "refuse", "blessing"),
    ("first, blessing not tried", first(facts={"blessed": None}), "refuse", "blessing"),
    ("first, too big", first(facts={"bundle_mb": 2000.1}), "refuse", "size"),
    ("first, as big as allowed", first(facts={"bundle_mb": 2000.0}), "first", None),
    ("first, empty bundle", first(facts={"bundle_mb": 0.0}), "refuse", "size"),
    ("first, size unknown", first(facts={"bundle_mb": NAN}), "refuse", "size"),
    ("first, NaN top-1", first(challenger={"top1": NAN}), "refuse", "figures"),
    ("first, NaN top-5", first(challenger={"top5": NAN}), "refuse", "figures"),
    ("first, infinite figure", first(challenger={"macro_top1": math.inf}), "refuse", "figures"),
    ("first, share above one", first(challenger={"top1": 1.01}), "refuse", "figures"),
    ("first, negative share", first(challenger={"image_top3": -0.1}), "refuse", "figures"),
    ("first, no queries", first(ours=EMPTY), "refuse", "figures"),
    ("first, no queries but figures", first(challenger={"n": 0}), "refuse", "figures"),
    ("first, no bundle hash", first(facts={"challenger_bundle": ""}), "refuse", "figures"),
    # better, the same, worse
    ("better everywhere", Case(), "promote", None),
    ("better, above the margin", Case(policy={"margin": 0.05}), "promote", None),
    ("better, not above the margin", Case(policy={"margin": 0.2}), "keep", "gain"),
    ("better by the margin exactly", Case(policy={"margin": 0.1}), "keep", "gain"),
    ("better by a hair more than the margin", Case(policy={"margin": 0.1 - 1e-12}), "promote", None),
    ("a tie, hit by hit", Case(ours=BASE), "keep", "gain"),
    ("a tie, other queries of the same SKUs", Case(ours=BASE.reshape(SKUS, EACH)[:, ::-1].ravel()), "keep", "gain"),
    ("a tie of the means, SKUs up and down", Case(ours=flipped(BASE, 8, 8)), "keep", "gain"),
    ("worse everywhere", Case(ours=hits(3)), "keep", "gain"),
    ("slightly worse", Case(ours=flipped(BASE, 0, 1)), "keep", "gain"),
    ("one query better", Case(ours=flipped(BASE, 1)), "keep", "gain"),
    ("more SKUs up than down, not surely", Case(ours=flipped(BASE, 9, 5)), "keep", "gain"),
    ("five SKUs up, none down", Case(ours=flipped(BASE, 5)), "keep", "evidence"),
    ("six SKUs up, none down", Case(ours=flipped(BASE, 6)), "promote", None),
    ("far better in one SKU of twenty", Case(ours=np.r_[np.ones(EACH, bool), BASE[EACH:]]), "keep", "gain"),
    ("better, but only one SKU", few(1), "keep", "gain"),
    ("better, but only two SKUs", few(2), "keep", "evidence"),
    ("better, but only five SKUs", few(5), "keep", "evidence"),
    ("better, six SKUs", few(6), "promote", None),
    ("better, few SKUs, less confidence asked", replace(few(5), policy={"confidence": 0.95}), "promote", None),
    ("better than a bad champion, below the floor", Case(ours=hits(6), theirs=hits(8)), "keep", "floor"),
    ("worse and below the floor", Case(ours=hits(6)), "keep", "floor"),
    ("perfect champion, perfect challenger", Case(ours=hits(0), theirs=hits(0)), "keep", "gain"),
    # the same model again
    ("the same bundle", Case(facts={"champion_bundle": "aa"}), "keep", "identity"),
    ("the same bundle, uncommitted code", Case(facts={"champion_bundle": "aa", "dirty_code": True}), "keep", "identity"),
    ("the same bundle, NaN", Case(challenger={"top1": NAN}, facts={"champion_bundle": "aa"}), "keep", "identity"),
    ("both hashes empty", Case(facts={"challenger_bundle": "", "champion_bundle": ""}), "refuse", "figures"),
    # better, but not to be believed or not to be used
    ("uncommitted code", Case(facts={"dirty_code": True}), "refuse", "code"),
    ("uncommitted code and worse", Case(ours=hits(3), facts={"dirty_code": True}), "refuse", "code"),
    ("unknown commit", Case(facts={"commit": None}), "refuse", "code"),
    ("too big", Case(facts={"bundle_mb": 16.0}, policy={"max_bundle_mb": 15}), "refuse", "size"),
    ("infinite size", Case(facts={"bundle_mb": math.inf}), "refuse", "size"),
    ("not blessed", Case(facts={"blessed": False}), "refuse", "blessing"),
    ("blessing not tried", Case(facts={"blessed": None}), "refuse", "blessing"),
    ("NaN challenger", Case(challenger={"top1": NAN}), "refuse", "figures"),
    ("NaN champion", Case(champion={"top1": NAN}), "refuse", "champion"),
    ("champion share above one", Case(champion={"top3": 1.5}), "refuse", "champion"),
    ("champion unreadable", Case(champion=None, paired=False), "refuse", "champion"),
    ("champion unreadable, pairs left over", Case(champion=None), "refuse", "champion"),
    ("champion without a hash", Case(facts={"champion_bundle": None}), "refuse", "champion"),
    ("champion with an empty hash", Case(facts={"champion_bundle": ""}), "refuse", "champion"),
    ("champion scored on nothing", Case(champion={"n": 0}), "refuse", "champion"),
    ("no pairs", Case(paired=False), "refuse", "pairs"),
    ("empty pairs", Case(ours=EMPTY, theirs=EMPTY, skus=NO_SKUS), "refuse", "figures"),
    ("pairs of other length", Case(skus=names(each=9)), "refuse", "pairs"),
    ("champion scored on fewer queries", Case(champion={"n": 199}), "refuse", "pairs"),
    ("other queries without a partner", Case(champion={"without_partner": 3}), "refuse", "pairs"),
    ("other SKUs scored", Case(champion={"skus": 19}), "refuse", "pairs"),
    ("scored on another gallery", Case(challenger={"hashes": {"gallery": "1"}}, champion={"hashes": {"gallery": "2"}}), "refuse", "pairs"),
    ("gallery of the champion unknown", Case(challenger={"hashes": {"gallery": "1"}}), "refuse", "pairs"),
    ("other encoders, same data", Case(challenger={"hashes": {"encoder": "1"}}, champion={"hashes": {"encoder": "2"}}), "promote", None),
    ("pairs of other SKUs", Case(challenger={"skus": 19}, champion={"skus": 19}), "refuse", "pairs"),
    ("challenger's figure not that of its hits", Case(challenger={"top1": 0.95}), "refuse", "pairs"),
    ("champion's figure not that of its hits", Case(champion={"top1": 0.1}), "refuse", "pairs"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "verdict", "rule"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_truth_table(case: Case, verdict: str, rule: str | None) -> None:
    decision = case.decide()
    failed = [check for check in decision.checks if check.status == "failed"]
    assert (decision.verdict, failed[0].name if failed else None) == (verdict, rule)
    assert decision.promotable is (verdict in ("first", "promote"))
    assert [check.name for check in decision.checks] == [name for name, _, _ in RULES]
    assert decision.sentence.endswith(".") and len(decision.sentence.split()) >= 8
    if failed:
        assert failed[0].detail in decision.sentence
    assert "nan" not in decision.sentence.split(":")[0].lower() and "-inf" not in decision.sentence
    json.dumps(decision.model_dump(mode="json"), allow_nan=False)


def test_the_table_is_no_smaller_than_promised() -> None:
    assert len(TABLE) >= 64 and len({row[0] for row in TABLE}) == len(TABLE)


def decisive(case: Case) -> Check:
    return next(check for check in case.decide().checks if check.status == "failed")


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (first(), "Accepted as the first champion: the challenger's top-1 is 90.0 % on 200 queries, at or above the floor of 50.0 %."),
        (Case(), "Promoted the challenger: a gain of +10.00 points (top-1 90.0 % against 80.0 %), at least +10.00 points with 97.5 %"),
        (Case(ours=BASE), "Kept the champion: both models find as many products of every SKU (top-1 80.0 % against 80.0 %), and a tie"),
        (Case(ours=hits(3)), "Kept the champion: the challenger is no better (top-1 70.0 % against 80.0 %, -10.00 points)."),
        (
            Case(facts={"dirty_code": True}),
            "Refused the challenger: a model from uncommitted code is never promotable; commit and run again.",
        ),
    ],
)
def test_sentences_can_be_read_by_a_buyer(case: Case, sentence: str) -> None:
    assert case.decide().sentence.startswith(sentence)


def test_rules_without_a_champion_are_not_applicable() -> None:
    status = {check.name: check.status for check in first().decide().checks}
    assert {name for name, value in status.items() if value == "not applicable"} == {"identity", "champion", "pairs", "gain", "evidence"}


def test_gain_carries_its_bound_and_what_could_be_seen() -> None:
    gain = Case(ours=flipped(BASE, 9, 5)).decide().gain
    assert gain is not None and gain.smallest_detectable is not None
    assert gain.lower < 0 < gain.estimate == pytest.approx(4 / 200) and gain.confidence == 0.975
    assert gain.estimate < gain.smallest_detectable < 0.1
    assert first().decide().gain is None and Case(champion=None).decide().gain is None


def test_more_confidence_asks_for_more() -> None:
    case = Case(ours=flipped(BASE, 13, 2))
    assert case.decide().promotable
    assert decisive(replace(case, policy={"confidence": 0.9999})).name == "gain"


def test_hashes_name_every_input() -> None:
    before = Case().decide().hashes
    assert (before["challenger_bundle"], before["champion_bundle"], before["commit"]) == ("aa", "bb", "c0ffee")
    changed = {
        "challenger_evaluation": Case(challenger={"top5": 0.99}),
        "champion_evaluation": Case(champion={"top5": 0.99}),
        "policy": Case(policy={"margin": 0.01}),
        "paired": Case(skus=names()[::-1]),
        "commit": Case(facts={"commit": "beef"}),
    }
    for name, case in changed.items():
        after = case.decide().hashes
        assert {key for key in before if before[key] != after[key]} == {name}


def test_decisions_repeat() -> None:
    assert Case().decide() == Case().decide()
    assert Decision.model_validate_json(Case().decide().model_dump_json()) == Case().decide()


@given(
    shares=st.lists(st.sampled_from([0.0, 0.9, 1.0, NAN, math.inf, -1.0]), min_size=2, max_size=2),
    wrong=st.tuples(st.integers(0, 10), st.integers(0, 10)),
    facts=st.fixed_dictionaries(
        {
            "challenger_bundle": st.sampled_from(["", "aa", "bb"]),
            "champion_bundle": st.sampled_from([None, "", "bb"]),
            "bundle_mb": st.sampled_from([NAN, 0.0, 1.0, 3000.0]),
            "blessed": st.sampled_from([None, False, True]),
            "dirty_code": st.booleans(),
            "commit": st.sampled_from([None, "c0ffee"]),
        }
    ),
    given_champion=st.booleans(),
    paired=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_there_is_a_worded_verdict_and_promotion_needs_every_rule(
    shares: list[float], wrong: tuple[int, int], facts: dict[str, Any], given_champion: bool, paired: bool
) -> None:
    champion = {"top5": shares[1]} if given_champion else None
    decision = Case(hits(wrong[0]), hits(wrong[1]), challenger={"top5": shares[0]}, champion=champion, facts=facts, paired=paired).decide()
    assert decision.sentence.strip().endswith(".")
    assert decision.promotable == all(check.status != "failed" for check in decision.checks)
    if decision.promotable:
        assert facts["blessed"] is True and not facts["dirty_code"] and facts["commit"] and math.isfinite(shares[0])
        assert wrong[0] < wrong[1] if decision.verdict == "promote" else not given_champion and wrong[0] <= 5


def test_equal_models_are_rarely_promoted() -> None:
    generator, promoted = np.random.default_rng(0), 0
    for _ in range(60):
        rates = np.repeat(np.clip(0.8 + 0.15 * generator.normal(size=(2, SKUS)), 0, 1), EACH, axis=1)  # errors cluster by SKU
        ours, theirs = generator.random(rates.shape) < rates
        promoted += Case(ours=ours, theirs=theirs).decide(seed=int(generator.integers(2**31))).promotable
    assert promoted <= 5  # nominal 2.5 % of 60 is 1.5
