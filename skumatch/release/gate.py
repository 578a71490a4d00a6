"""The gate: may this model become the champion? A pure function of figures, facts and policy, which says no by default.

Rules are asked in order; the first that fails decides, and only if none fails is the model promoted. All are recorded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from skumatch.config import GateParams
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Evaluation, PairedHits

Verdict = Literal["first", "promote", "keep", "refuse"]
Status = Literal["passed", "failed", "not applicable"]
Outcome = tuple[Status, str]
FIGURES = ("top1", "top3", "top5", "image_top1", "image_top3", "image_top5", "macro_top1")
OPENING = {
    "first": "Accepted as the first champion",
    "promote": "Promoted the challenger",
    "keep": "Kept the champion",
    "refuse": "Refused the challenger",
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Facts(_Record):
    """What is known beyond the figures. blessed: whether the bundle was loaded and queried with success; None = not tried."""

    challenger_bundle: str
    champion_bundle: str | None
    bundle_mb: float
    blessed: bool | None
    dirty_code: bool
    commit: str | None


class Check(_Record):
    """One rule's outcome, with the numbers it rests on."""

    name: str
    status: Status
    detail: str


class Gain(_Record):
    """Top-1 of challenger minus champion on the same queries; lower bound at one-sided `confidence`.

    smallest_detectable: the true gain this comparison would show with 80 % power; None where no SKU differs.
    """

    estimate: float
    lower: float
    confidence: float
    smallest_detectable: float | None


class Decision(_Record):
    """The verdict, in words and with its reasons; `hashes` name the inputs it was made from."""

    verdict: Verdict
    sentence: str
    checks: tuple[Check, ...]
    gain: Gain | None
    hashes: dict[str, str | None]

    @property
    def promotable(self) -> bool:
        return self.verdict in ("first", "promote")


@dataclass(frozen=True)
class _Case:
    challenger: Evaluation
    champion: Evaluation | None
    paired: PairedHits | None
    facts: Facts
    policy: GateParams
    difference: statistics.Difference | None = None

    @property
    def first(self) -> bool:
        return self.facts.champion_bundle is None and self.champion is None


def decide(
    challenger: Evaluation, champion: Evaluation | None, paired: PairedHits | None, facts: Facts, policy: GateParams, seed: int
) -> Decision:
    """Compare a challenger with the champion (None = there is none yet), both scored on the same queries.

    `paired` holds their hits query by query, needed wherever there is a champion. Never raises for bad figures: it refuses.
    """
    case = _Case(challenger, champion, paired, facts, policy)
    if _pairs(case)[0] == "passed" and paired is not None:
        difference = statistics.paired_difference(paired.challenger, paired.champion, paired.skus, policy.confidence, seed)
        case = _Case(challenger, champion, paired, facts, policy, difference)
    results = [(Check(name=name, status=status, detail=detail), loss) for name, loss, rule in RULES for status, detail in [rule(case)]]
    verdict, reason = _verdict(case, results)
    sentence = f"{OPENING[verdict]}: {reason}."
    return Decision(verdict=verdict, sentence=sentence, checks=tuple(check for check, _ in results), gain=_gain(case), hashes=_hashes(case))


def _verdict(case: _Case, results: list[tuple[Check, Verdict]]) -> tuple[Verdict, str]:
    for check, loss in results:
        if check.status == "failed":
            return ("refuse" if case.first else loss), check.detail
    details = {check.name: check.detail for check, _ in results}
    return ("first", details["floor"]) if case.first else ("promote", details["gain"])


def _identity(case: _Case) -> Outcome:
    if case.first:
        return "not applicable", "there is no champion yet"
    if case.facts.challenger_bundle and case.facts.challenger_bundle == case.facts.champion_bundle:
        return "failed", "the challenger is the same bundle as the champion, so there is nothing to change"
    return "passed", "challenger and champion are different bundles"


def _code(case: _Case) -> Outcome:
    if case.facts.dirty_code:
        return "failed", "a model from uncommitted code is never promotable; commit and run again"
    if not case.facts.commit:
        return "failed", "the commit of the code is unknown, so the model could not be made again; commit and run again"
    return "passed", f"made by commit {case.facts.commit}"


def _figures(case: _Case) -> Outcome:
    if not case.facts.challenger_bundle:
        return "failed", "the challenger has no bundle hash, so it can't be told which model was judged; run the bundle stage again"
    return _sound(case.challenger, "challenger")


def _champion(case: _Case) -> Outcome:
    if case.first:
        return "not applicable", "there is no champion yet"
    if case.champion is None:
        return "failed", "the champion could not be read and scored, so nothing can be compared; repair or withdraw it and run again"
    if not case.facts.champion_bundle:
        return "failed", "the champion has no bundle hash, so it can't be told which model was compared; run the gate again"
    return _sound(case.champion, "champion")


def _sound(evaluation: Evaluation, who: str) -> Outcome:
    """Figures that can be believed: some queries, every share a number from 0 to 1."""
    if evaluation.n < 1:
        return "failed", f"the {who} was scored on no query at all; check the evaluate stage"
    for name in FIGURES:
        value = getattr(evaluation, name)
        if not 0 <= value <= 1:  # NaN too
            return "failed", f"the {who}'s {name} is {value}, which is no share; check the evaluate stage"
    return "passed", f"the {who} was scored on {evaluation.n} queries of {evaluation.skus} SKUs"


def _pairs(case: _Case) -> Outcome:
    if case.first:
        return "not applicable", "there is no champion yet"
    if case.champion is None or case.paired is None:
        return "failed", "the hits of both models, query by query, are missing, so they can't be compared; run the evaluate stage again"
    ours, theirs = case.challenger, case.champion
    same = (ours.protocol, ours.n, ours.without_partner, ours.skus) == (theirs.protocol, theirs.n, theirs.without_partner, theirs.skus)
    for name in ("gallery", "queries"):
        if ours.hashes.get(name) != theirs.hashes.get(name):
            return "failed", f"challenger and champion were scored on other {name}, so they can't be compared; run the evaluate stage again"
    lengths = {len(case.paired.skus), len(case.paired.challenger), len(case.paired.champion)}
    if not same or lengths != {ours.n} or ours.n < 1 or len(set(case.paired.skus)) != ours.skus:
        return "failed", "challenger and champion were not scored on the same queries; run the evaluate stage again"
    for evaluation, hits in ((ours, case.paired.challenger), (theirs, case.paired.champion)):
        if not math.isclose(float(np.mean(hits)), evaluation.top1, abs_tol=1e-9):
            return "failed", "the figures don't follow from the hits query by query; run the evaluate stage again"
    return "passed", f"both were asked the same {ours.n} queries under the protocol '{ours.protocol}'"


def _size(case: _Case) -> Outcome:
    size, limit = case.facts.bundle_mb, case.policy.max_bundle_mb
    words = f"the bundle has {size:.1f} MB, of at most {limit}"
    return ("passed" if 0 < size <= limit else "failed"), words


def _blessing(case: _Case) -> Outcome:
    if case.facts.blessed is None:
        return "failed", "the bundle was not loaded and queried, so nobody knows that it works; run the bundle stage again"
    if not case.facts.blessed:
        return "failed", "the bundle could not be loaded and queried in a clean process; see the bundle stage's log"
    return "passed", "the bundle was loaded and answered queries"


def _floor(case: _Case) -> Outcome:
    top1, floor = case.challenger.top1, case.policy.floor_top1
    passed = top1 >= floor
    where = f"{'at or above' if passed else 'below'} the floor of {_percent(floor)}"
    return ("passed" if passed else "failed"), f"the challenger's top-1 is {_percent(top1)} on {case.challenger.n} queries, {where}"


def _gained(case: _Case) -> Outcome:
    if case.first:
        return "not applicable", "there is no champion yet"
    if case.difference is None or case.champion is None:
        return "failed", "the gain could not be measured"
    difference, margin = case.difference, case.policy.margin
    figures = f"top-1 {_percent(case.challenger.top1)} against {_percent(case.champion.top1)}"
    if difference.changed == 0:
        return "failed", f"both models find as many products of every SKU ({figures}), and a tie keeps the champion"
    if not math.isfinite(difference.lower):
        return "failed", f"queries of one SKU alone can't show a gain ({figures})"
    if difference.estimate <= 0:
        return "failed", f"the challenger is no better ({figures}, {_points(difference.estimate)})"
    gain, lower, confidence = _points(difference.estimate), _points(difference.lower), _percent(difference.confidence)
    if difference.lower > margin:
        return (
            "passed",
            f"a gain of {gain} ({figures}), at least {lower} with {confidence} confidence, above the required {_points(margin)}",
        )
    words = f"its lower bound at {confidence} confidence is {lower} and must be above {_points(margin)}"
    return "failed", f"a gain of {gain} ({figures}) is not sure enough: {words}"


def _evidence(case: _Case) -> Outcome:
    if case.first:
        return "not applicable", "there is no champion yet"
    if case.difference is None:
        return "failed", "the gain could not be measured"
    changed, needed = case.difference.changed, statistics.clusters_needed(case.policy.confidence)
    words = f"the models differ on {changed} SKUs, and with fewer than {needed} a gain can be chance"
    return ("passed" if changed >= needed else "failed"), words


# name, verdict if it fails (always "refuse" while there is no champion to keep), rule; the first failure decides
RULES: tuple[tuple[str, Verdict, Callable[[_Case], Outcome]], ...] = (
    ("identity", "keep", _identity),
    ("code", "refuse", _code),
    ("figures", "refuse", _figures),
    ("champion", "refuse", _champion),
    ("pairs", "refuse", _pairs),
    ("size", "refuse", _size),
    ("blessing", "refuse", _blessing),
    ("floor", "keep", _floor),
    ("gain", "keep", _gained),
    ("evidence", "keep", _evidence),
)


def _gain(case: _Case) -> Gain | None:
    found = case.difference
    if found is None or not math.isfinite(found.lower):
        return None
    return Gain(estimate=found.estimate, lower=found.lower, confidence=found.confidence, smallest_detectable=found.smallest_detectable)


def _hashes(case: _Case) -> dict[str, str | None]:
    return {
        "challenger_bundle": case.facts.challenger_bundle,
        "champion_bundle": case.facts.champion_bundle,
        "commit": case.facts.commit,
        "challenger_evaluation": _digest(case.challenger.model_dump_json()),
        "champion_evaluation": None if case.champion is None else _digest(case.champion.model_dump_json()),
        "paired": None if case.paired is None else _digest(_pairs_text(case.paired)),
        "policy": _digest(case.policy.model_dump_json()),
    }


def _pairs_text(paired: PairedHits) -> str:
    return json.dumps([list(map(str, paired.skus)), np.asarray(paired.challenger).tolist(), np.asarray(paired.champion).tolist()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.2f} points"
