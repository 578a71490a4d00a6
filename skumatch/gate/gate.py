"""The gate: decide whether a challenger or a refreshed gallery may be released.

Pure functions of figures and policy. They release nothing unless every check allows it.

A challenger is a new encoder; it has to beat the champion's encoder on today's gallery. Rules and guards are
evaluated in order. The first that fails decides the verdict, and the model is promoted only if none fails.
Where there is no challenger, or it isn't promoted, the refreshed gallery is released if it is fit to serve.
All checks are recorded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from skumatch.gate import guards, rules
from skumatch.gate.fitness import Fitness
from skumatch.gate.guards import GUARDS, Guard
from skumatch.gate.rules import FULL, REFRESH_RULES, RULES, BundleFacts, Case, Slices, Status, Verdict
from skumatch.params import GateParams
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Evaluation, PairedHits
from skumatch.texts import agreeing, counted, first_of

__all__ = [
    "CHECKS",
    "BundleFacts",
    "Check",
    "Decision",
    "Described",
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
CHANGED: Final = "changed"  # the check that a refreshed gallery differs from the served one
SHOWN: Final = 5  # names in a sentence
# The word that people read for a failed check. A model that isn't better is no fault: most are not.
NOT_PASSED = {"identity": "nothing new", CHANGED: "nothing new", "floor": "not reached"} | dict.fromkeys(
    ("gain", "evidence", *GUARDS), "not shown"
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Record):
    """The outcome of one rule.

    Attributes:
        name: name of the rule, one of CHECKS or of the gallery's checks.
        status: `passed`, `failed` or `not applicable`.
        detail: the outcome in words, with the numbers that it rests on.
    """

    name: str
    status: Status
    detail: str

    @property
    def word(self) -> str:
        """The status as people read it: a missing gain, say, is "not shown" instead of "failed"."""
        return NOT_PASSED.get(self.name, "failed") if self.status == "failed" else self.status


class Gain(_Record):
    """The gain in top-1: challenger minus champion on the same queries.

    Attributes:
        estimate: the difference of the two shares.
        lower: its lower bound at one-sided `confidence`.
        confidence: confidence of `lower`, 0 to 1.
        smallest_detectable: the true gain that this comparison would show with 80 % power; None where no SKU
            differs.
        p: one-sided p-value of the hypothesis that the true gain is at most the margin.
    """

    estimate: float
    lower: float
    confidence: float
    smallest_detectable: float | None
    p: float | None = None


class Described(_Record):
    """McNemar's exact test, for the record only.

    The test takes queries as independent. They are not, so its p is too small, and no rule reads it.

    Attributes:
        only_challenger: queries that only the challenger answers right.
        only_champion: queries that only the champion answers right.
        mcnemar_p: two-sided p-value.
    """

    only_challenger: int
    only_champion: int
    mcnemar_p: float


class Products(_Record):
    """The difference in products between today's gallery and the one that serves.

    Attributes:
        new: number of products in today's gallery only.
        retired: number of products in the served gallery only.
        held: new products that are not released, with the reason; by the challenger's answers if it is
            promoted, else by those of the refreshed gallery.
    """

    new: int
    retired: int
    held: dict[str, str] = {}

    @property
    def sentence(self) -> str:
        """The numbers of products that the served gallery lacks and has in excess, in words."""
        new = f"{counted(self.new, 'product')} of today's data can't be named by what serves"
        gone = f"{self.retired:,} that it names {agreeing(self.retired, 'is', 'are')} no longer in the data"
        return f"{new}, and {gone}" if self.retired else new


class Decision(_Record):
    """The verdict, in words and with its reasons.

    Attributes:
        verdict: first, promote, refresh, keep or refuse.
        sentence: the verdict and its reason in one sentence.
        checks: the challenger's rules and guards; empty without a challenger.
        gain: the challenger's gain in top-1; None without a comparison.
        hashes: hashes of the inputs that the verdict was made from.
        guards: the numbers of the challenger's guards.
        described: McNemar's test, for the record.
        model: the verdict on the challenger alone; None without one.
        refresh: the checks of the refreshed gallery; empty without a champion.
        fitness: the fitness of the refreshed gallery; None without a champion.
        products: the new, retired and held-back products; None without a champion.
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
        """True if the verdict allows a release."""
        return self.verdict in ("first", "promote", "refresh")

    @property
    def bundle(self) -> str | None:
        """Hash of the bundle that the verdict is about.

        The refreshed bundle after the verdict `refresh` or without a challenger, otherwise the challenger's.
        """
        refreshed = self.hashes.get("refreshed_bundle")
        return refreshed if self.verdict == "refresh" else self.hashes["challenger_bundle"] or refreshed

    @property
    def unfit(self) -> bool:
        """True if today's gallery differs, fails one of its checks, and is not released."""
        failed = {check.name for check in self.refresh if check.status == "failed"}
        return self.verdict != "refresh" and bool(failed) and CHANGED not in failed


@dataclass(frozen=True)
class Refreshed:
    """The gate's inputs about the refreshed gallery.

    Attributes:
        evaluation: its figures under the protocol `full`.
        facts: facts about its bundle and the code.
        changed: whether it differs from the served gallery in pictures, products, vectors or thresholds.
        fitness: its fitness to serve.
        products: its new, retired and held-back products.
    """

    evaluation: Evaluation
    facts: BundleFacts
    changed: bool
    fitness: Fitness
    products: Products


def settle(
    model: Decision | None,
    refreshed: Refreshed | None,
    policy: GateParams,
    held_by_challenger: dict[str, str] | None = None,
) -> Decision:
    """Decide between releasing the challenger, releasing the refreshed gallery, and releasing nothing.

    Args:
        model: the decision on the challenger; None in a refresh, which has none.
        refreshed: the refreshed gallery; None where there is no champion.
        policy: the section `gate` of the parameters.
        held_by_challenger: products that the challenger's gallery leaves out, with the reason.
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
    """Return a decision without a challenger: the hashes of its inputs, and no checks."""
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
    words = [counted(released, "new product"), f"{products.retired:,} retired"]
    return ", ".join([*words, _held_words(products)] if products.held else words)


def _held_words(products: Products) -> str:
    return f"{len(products.held):,} held back ({first_of(sorted(products.held), SHOWN)})"


def decide(
    challenger: Evaluation,
    champion: Evaluation | None,
    slices: Slices | None,
    facts: BundleFacts,
    policy: GateParams,
    seed: int,
) -> Decision:
    """Compare a challenger with the champion, both scored on the same queries.

    Bad figures raise nothing; their verdict is a refusal.

    Args:
        challenger: the challenger's figures.
        champion: the champion's figures; None if there is no champion yet.
        slices: the hits of both models query by query: `full`, needed wherever there is a champion, and the
            guards' slices by name.
        facts: facts about the bundle and the code.
        policy: the section `gate` of the parameters.
        seed: seed of the bootstrap; the same seed gives the same decision.
    """
    case = Case(challenger, champion, slices, facts, policy)
    measured: tuple[Guard, ...] = ()
    if slices and rules.pairs(case)[0] == "passed":
        case = replace(case, difference=_difference(slices[FULL], policy, seed))
        measured = guards.measure(slices, policy, seed)
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
    difference = case.difference
    if difference is None or not math.isfinite(difference.lower):
        return None
    return Gain(
        estimate=difference.estimate,
        lower=difference.lower,
        confidence=difference.confidence,
        smallest_detectable=difference.smallest_detectable,
        p=difference.p,
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
