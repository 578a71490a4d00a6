"""The gate: may this model become the champion? A pure function of figures, hits, facts and policy, which says no by default.

Rules and guards are asked in order; the first that fails decides, and only if none fails is the model promoted. All are recorded.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from skumatch.params import GateParams
from skumatch.release import guards, rules
from skumatch.release.guards import GUARDS, Guard
from skumatch.release.rules import FULL, RULES, Case, Facts, Slices, Status, Verdict
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Evaluation, PairedHits

__all__ = ["CHECKS", "Check", "Decision", "Described", "Facts", "Gain", "Guard", "Verdict", "decide"]
CHECKS: Final = (*(name for name, _, _ in RULES), *GUARDS)
OPENING = {
    "first": "Accepted as the first champion",
    "promote": "Promoted the challenger",
    "keep": "Kept the champion",
    "refuse": "Refused the challenger",
}
# How a check that failed is told to a person. A model that isn't better is no fault: most are not.
NOT_PASSED = {"identity": "nothing new", "floor": "not reached"} | dict.fromkeys(("gain", "evidence", *GUARDS), "not shown")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Record):
    """One rule's outcome, with the numbers it rests on."""

    name: str
    status: Status
    detail: str

    @property
    def word(self) -> str:
        """The status as a release manager reads it: a gain that isn't there was "not shown", nothing "failed"."""
        return NOT_PASSED.get(self.name, "failed") if self.status == "failed" else self.status


class Gain(_Record):
    """Top-1 of challenger minus champion on the same queries; lower bound at one-sided `confidence`.

    smallest_detectable: the true gain this comparison would show with 80 % power; None where no SKU differs. p: one-sided, that the
    true gain is the margin at most.
    """

    estimate: float
    lower: float
    confidence: float
    smallest_detectable: float | None
    p: float | None = None


class Described(_Record):
    """Queries that only one of the models found, and McNemar's exact p (two-sided), which takes queries as independent.

    They are not, so its p is too small: it decides nothing.
    """

    only_challenger: int
    only_champion: int
    mcnemar_p: float


class Decision(_Record):
    """The verdict, in words and with its reasons; `hashes` name the inputs it was made from."""

    verdict: Verdict
    sentence: str
    checks: tuple[Check, ...]
    gain: Gain | None
    hashes: dict[str, str | None]
    guards: tuple[Guard, ...] = ()
    described: Described | None = None

    @property
    def promotable(self) -> bool:
        return self.verdict in ("first", "promote")


def decide(
    challenger: Evaluation, champion: Evaluation | None, slices: Slices | None, facts: Facts, policy: GateParams, seed: int
) -> Decision:
    """Compare a challenger with the champion (None = there is none yet), both scored on the same queries.

    `slices` holds their hits query by query: `full`, needed wherever there is a champion, and the guards' slices by name. Never raises
    for bad figures: it refuses.
    """
    case = Case(challenger, champion, slices, facts, policy)
    measured: tuple[Guard, ...] = ()
    if slices and rules.pairs(case)[0] == "passed":
        case, measured = replace(case, difference=_difference(slices[FULL], policy, seed)), guards.measure(slices, policy, seed)
    outcomes = [(name, *rule(case)) for name, _, rule in RULES] + [(name, *outcome) for name, outcome in guards.outcomes(case, measured)]
    checks = tuple(Check(name=name, status=status, detail=detail) for name, status, detail in outcomes)
    verdict, reason = _verdict(case, checks)
    return Decision(
        verdict=verdict,
        sentence=f"{OPENING[verdict]}: {reason}.",
        checks=checks,
        gain=_gain(case),
        hashes=_hashes(case),
        guards=measured,
        described=_described(slices[FULL]) if slices and case.difference else None,
    )


def _difference(hits: PairedHits, policy: GateParams, seed: int) -> statistics.Difference:
    return statistics.paired_difference(
        hits.challenger, hits.champion, hits.skus, policy.confidence, seed, policy.resamples, above=policy.margin
    )


def _verdict(case: Case, checks: tuple[Check, ...]) -> tuple[Verdict, str]:
    losses: dict[str, Verdict] = {name: loss for name, loss, _ in RULES}
    for check in checks:
        if check.status == "failed":
            return ("refuse" if case.first else losses.get(check.name, "keep")), check.detail
    details = {check.name: check.detail for check in checks}
    return ("first", details["floor"]) if case.first else ("promote", details["gain"])


def _gain(case: Case) -> Gain | None:
    found = case.difference
    if found is None or not math.isfinite(found.lower):
        return None
    return Gain(
        estimate=found.estimate, lower=found.lower, confidence=found.confidence, smallest_detectable=found.smallest_detectable, p=found.p
    )


def _described(hits: PairedHits) -> Described:
    better, worse, p = statistics.mcnemar(hits.challenger, hits.champion)
    return Described(only_challenger=better, only_champion=worse, mcnemar_p=p)


def _hashes(case: Case) -> dict[str, str | None]:
    return {
        "challenger_bundle": case.facts.challenger_bundle,
        "champion_bundle": case.facts.champion_bundle,
        "commit": case.facts.commit,
        "challenger_evaluation": _digest(case.challenger.model_dump_json()),
        "champion_evaluation": None if case.champion is None else _digest(case.champion.model_dump_json()),
        "paired": None
        if case.slices is None
        else _digest(*(text for name in sorted(case.slices) for text in _texts(name, case.slices[name]))),
        "policy": _digest(case.policy.model_dump_json()),
    }


def _texts(name: str, hits: PairedHits) -> list[str]:
    return [name, *map(str, hits.skus), str(np.asarray(hits.challenger).tolist()), str(np.asarray(hits.champion).tolist())]


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
