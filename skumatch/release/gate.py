"""The gate: may this model, or this gallery, be released?

Pure functions of figures and policy, which say no by default.

A challenger, a new encoder, has to beat the champion's encoder on today's gallery. Rules and guards are asked
in order; the first that fails decides, and only if none fails is the model promoted. Where there is no
challenger or it isn't promoted, the refreshed gallery is released if it is fit to serve. All checks are
recorded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from skumatch.params import GateParams
from skumatch.release import guards, rules
from skumatch.release.fitness import Fitness
from skumatch.release.guards import GUARDS, Guard
from skumatch.release.rules import FULL, REFRESH_RULES, RULES, Case, Facts, Slices, Status, Verdict
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Evaluation, PairedHits

__all__ = [
    "CHECKS",
    "Check",
    "Decision",
    "Described",
    "Facts",
    "Gain",
    "Guard",
    "Products",
    "Refreshed",
    "Verdict",
    "decide",
    "settle",
]
CHECKS: Final = (*(name for name, _, _ in RULES), *GUARDS)
OPENING = {
    "first": "Accepted as the first champion",
    "promote": "Promoted the challenger",
    "refresh": "Refreshed the champion's gallery",
    "keep": "Kept the champion",
    "refuse": "Refused the challenger",
}
CHANGED: Final = "changed"  # the check whether a refreshed gallery differs from what serves
SHOWN: Final = 5  # names in a sentence
# How a check that failed is told to a person. A model that isn't better is no fault: most are not.
NOT_PASSED = {"identity": "nothing new", CHANGED: "nothing new", "floor": "not reached"} | dict.fromkeys(
    ("gain", "evidence", *GUARDS), "not shown"
)


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

    smallest_detectable: the true gain this comparison would show with 80 % power; None where no SKU differs.
    p: one-sided, that the true gain is the margin at most.
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


class Products(_Record):
    """How today's gallery differs from the one that serves, in products.

    new, retired: how many are in today's only, and in the served one only. held: new ones that are not
    released, and why: by the challenger's answers if it is promoted, else by those of the refreshed gallery.
    """

    new: int
    retired: int
    held: dict[str, str] = {}

    @property
    def sentence(self) -> str:
        """What the served gallery lacks, and what it has too many."""
        new = f"{self.new:,} product{'s' if self.new != 1 else ''} of today's data can't be named by what serves"
        gone = f"{self.retired:,} that it names {'are' if self.retired != 1 else 'is'} no longer in the data"
        return f"{new}, and {gone}" if self.retired else new


class Decision(_Record):
    """The verdict, in words and with its reasons.

    checks, gain, guards, described: of the challenger; empty where there is none. hashes: the inputs that the
    verdict was made from. model: the verdict on the challenger alone, None without one. refresh, fitness,
    products: of the refreshed gallery; None where there is no champion.
    """

    verdict: Verdict
    sentence: str
    checks: tuple[Check, ...]
    gain: Gain | None
    hashes: dict[str, str | None]
    guards: tuple[Guard, ...] = ()
    described: Described | None = None
    model: Verdict | None = None
    refresh: tuple[Check, ...] = ()
    fitness: Fitness | None = None
    products: Products | None = None

    @property
    def promotable(self) -> bool:
        return self.verdict in ("first", "promote", "refresh")

    @property
    def bundle(self) -> str | None:
        """Hash of the bundle that the verdict is about: the refreshed one's after `refresh`, else the challenger's."""
        refreshed = self.hashes.get("refreshed_bundle")
        return refreshed if self.verdict == "refresh" else self.hashes["challenger_bundle"] or refreshed

    @property
    def unfit(self) -> bool:
        """Whether the gallery would have been refreshed, but is not fit to serve."""
        failed = {check.name for check in self.refresh if check.status == "failed"}
        return self.verdict != "refresh" and bool(failed) and CHANGED not in failed


@dataclass(frozen=True)
class Refreshed:
    """What is known of the refreshed gallery.

    evaluation: its figures under the protocol `full`. facts: of its bundle. changed: whether it differs from
    the gallery that serves in pictures, products, vectors or thresholds.
    """

    evaluation: Evaluation
    facts: Facts
    changed: bool
    fitness: Fitness
    products: Products


def settle(
    model: Decision | None,
    refreshed: Refreshed | None,
    policy: GateParams,
    held_by_challenger: dict[str, str] | None = None,
) -> Decision:
    """Decide what is released: the challenger, the refreshed gallery, or nothing.

    Args:
        model: the decision on the challenger; None in a refresh, which has none.
        refreshed: None where there is no champion.
        policy: the section `gate` of the parameters.
        held_by_challenger: products that the challenger's gallery goes without, and why.
    """
    if refreshed is None:
        assert model, "a run has a challenger or a champion"
        return model.model_copy(update={"model": model.verdict})
    whole = model or _without_challenger(refreshed, policy)
    checks = _refresh_checks(refreshed, policy)
    verdict, sentence = _settled(model, refreshed, checks)
    products = refreshed.products
    if verdict == "promote":
        products = products.model_copy(update={"held": held_by_challenger or {}})
        sentence = f"{sentence.removesuffix('.')}; {_held_words(products)}." if products.held else sentence
    return whole.model_copy(
        update={
            "verdict": verdict,
            "sentence": sentence,
            "model": model.verdict if model else None,
            "refresh": checks,
            "fitness": refreshed.fitness,
            "products": products,
            "hashes": whole.hashes | {"refreshed_bundle": refreshed.facts.challenger_bundle},
        }
    )


def _settled(model: Decision | None, refreshed: Refreshed, checks: tuple[Check, ...]) -> tuple[Verdict, str]:
    if model and model.verdict == "promote":
        return model.verdict, model.sentence
    failed = next((check for check in checks if check.status == "failed"), None)
    about_model = f"{model.sentence.removesuffix('.')}" if model else ""
    if failed is None:
        sentence = f"{OPENING['refresh']}: {_released_words(refreshed.products)}."
        return "refresh", f"{sentence} {about_model}." if model else sentence
    if model:
        return model.verdict, f"{about_model}; its gallery stays: {failed.detail}."
    losses: Mapping[str, Verdict] = {name: loss for name, loss, _ in REFRESH_RULES}
    return losses.get(failed.name, "keep"), f"Kept the champion's gallery: {failed.detail}."


def _without_challenger(refreshed: Refreshed, policy: GateParams) -> Decision:
    """The parts of a decision that a refresh has: hashes of what it was made from, and no check of a challenger."""
    hashes = {
        "challenger_bundle": None,
        "champion_bundle": refreshed.facts.champion_bundle,
        "commit": refreshed.facts.commit,
        "champion_evaluation": _digest(refreshed.evaluation.model_dump_json()),
        "policy": _digest(policy.model_dump_json()),
    }
    return Decision(verdict="keep", sentence="", checks=(), gain=None, hashes=hashes)


def _refresh_checks(refreshed: Refreshed, policy: GateParams) -> tuple[Check, ...]:
    case = Case(refreshed.evaluation, None, None, refreshed.facts, policy, candidate="refreshed gallery")
    same = "today's gallery is the one that serves, so there is nothing to change"
    changed = (
        Check(name=CHANGED, status="passed", detail=refreshed.products.sentence)
        if refreshed.changed
        else None
    )
    outcomes = [(name, *rule(case)) for name, _, rule in REFRESH_RULES]
    return (
        changed or Check(name=CHANGED, status="failed", detail=same),
        *(Check(name=name, status=status, detail=detail) for name, status, detail in outcomes),
        *(
            Check(name=check.name, status=check.status, detail=check.detail)
            for check in refreshed.fitness.checks
        ),
    )


def _released_words(products: Products) -> str:
    released = products.new - len(products.held)
    words = [f"{released:,} new product{'s' if released != 1 else ''}", f"{products.retired:,} retired"]
    return ", ".join([*words, _held_words(products)] if products.held else words)


def _held_words(products: Products) -> str:
    names = ", ".join(sorted(products.held)[:SHOWN]) + (" and more" if len(products.held) > SHOWN else "")
    return f"{len(products.held):,} held back ({names})"


def decide(
    challenger: Evaluation,
    champion: Evaluation | None,
    slices: Slices | None,
    facts: Facts,
    policy: GateParams,
    seed: int,
) -> Decision:
    """Compare a challenger with the champion (None = there is none yet), both scored on the same queries.

    `slices` holds their hits query by query: `full`, needed wherever there is a champion, and the guards'
    slices by name. Never raises for bad figures: it refuses.
    """
    case = Case(challenger, champion, slices, facts, policy)
    measured: tuple[Guard, ...] = ()
    if slices and rules.pairs(case)[0] == "passed":
        case, measured = (
            replace(case, difference=_difference(slices[FULL], policy, seed)),
            guards.measure(slices, policy, seed),
        )
    outcomes = [(name, *rule(case)) for name, _, rule in RULES] + [
        (name, *outcome) for name, outcome in guards.outcomes(case, measured)
    ]
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
        hits.challenger,
        hits.champion,
        hits.skus,
        policy.confidence,
        seed,
        policy.resamples,
        above=policy.margin,
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
        estimate=found.estimate,
        lower=found.lower,
        confidence=found.confidence,
        smallest_detectable=found.smallest_detectable,
        p=found.p,
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
    return [
        name,
        *map(str, hits.skus),
        str(np.asarray(hits.challenger).tolist()),
        str(np.asarray(hits.champion).tolist()),
    ]


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
