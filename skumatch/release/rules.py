"""The gate's rules but for the guards: each looks at the case and says passed, failed or not applicable, with its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from skumatch.params import GateParams
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Evaluation, PairedHits

Verdict = Literal["first", "promote", "refresh", "keep", "refuse"]
Status = Literal["passed", "failed", "not applicable"]
Outcome = tuple[Status, str]
Slices = Mapping[str, PairedHits]
FIGURES = ("top1", "top3", "top5", "image_top1", "image_top3", "image_top5", "macro_top1")
FULL = "full"  # the slice that the gain is measured on
NO_CHAMPION: Outcome = ("not applicable", "there is no champion yet")
UNMEASURED: Outcome = ("failed", "nothing could be compared")


class Facts(BaseModel):
    """What is known beyond the figures.

    blessed: whether the bundle was loaded and queried with success; None = not tried.
    p95_ms: milliseconds of processor time within which 95 of 100 queries were answered; None = not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    challenger_bundle: str
    champion_bundle: str | None
    bundle_mb: float
    blessed: bool | None
    p95_ms: float | None
    dirty_code: bool
    commit: str | None


@dataclass(frozen=True)
class Case:
    """All that the rules look at.

    challenger: the figures of the candidate, which may be a refreshed gallery; `candidate` is its name in
    sentences. difference: the gain in top-1, once pairs were found to be sound.
    """

    challenger: Evaluation
    champion: Evaluation | None
    slices: Slices | None
    facts: Facts
    policy: GateParams
    difference: statistics.Difference | None = None
    candidate: str = "challenger"

    @property
    def first(self) -> bool:
        return self.facts.champion_bundle is None and self.champion is None


def identity(case: Case) -> Outcome:
    if case.first:
        return NO_CHAMPION
    if case.facts.challenger_bundle and case.facts.challenger_bundle == case.facts.champion_bundle:
        return "failed", "the challenger is the same bundle as the champion, so there is nothing to change"
    return "passed", "challenger and champion are different bundles"


def code(case: Case) -> Outcome:
    if case.facts.dirty_code:
        return "failed", "a model from uncommitted code is never promotable; commit and run again"
    if not case.facts.commit:
        cure = "clone the project with git, then run again"
        return "failed", f"the code is under no git commit, so the model could not be made again; {cure}"
    return "passed", f"made by commit {case.facts.commit}"


def figures(case: Case) -> Outcome:
    if not case.facts.challenger_bundle:
        why = "has no bundle hash, so it can't be told which model was judged; run the bundle stage again"
        return "failed", f"the {case.candidate} {why}"
    return _sound(case.challenger, case.candidate)


def champion(case: Case) -> Outcome:
    if case.first:
        return NO_CHAMPION
    if case.champion is None:
        return (
            "failed",
            "the champion could not be read and scored, so nothing can be compared; repair or withdraw it and run again",
        )
    if not case.facts.champion_bundle:
        return (
            "failed",
            "the champion has no bundle hash, so it can't be told which model was compared; run the gate again",
        )
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


def pairs(case: Case) -> Outcome:
    if case.first:
        return NO_CHAMPION
    slices, ours, theirs = case.slices or {}, case.challenger, case.champion
    if theirs is None or FULL not in slices:
        return (
            "failed",
            "the hits of both models, query by query, are missing, so they can't be compared; run the evaluate stage again",
        )
    for name in ("gallery", "queries"):
        if ours.hashes.get(name) != theirs.hashes.get(name):
            return (
                "failed",
                f"challenger and champion were scored on other {name}, so they can't be compared; run the evaluate stage again",
            )
    same = (ours.protocol, ours.n, ours.without_partner, ours.skus) == (
        theirs.protocol,
        theirs.n,
        theirs.without_partner,
        theirs.skus,
    )
    whole = all(_whole(hits) for hits in slices.values())
    if not same or not whole or (len(slices[FULL].skus), len(set(slices[FULL].skus))) != (ours.n, ours.skus):
        return (
            "failed",
            "challenger and champion were not scored on the same queries; run the evaluate stage again",
        )
    if not _follow(ours, theirs, slices):
        return "failed", "the figures don't follow from the hits query by query; run the evaluate stage again"
    return "passed", f"both were asked the same {ours.n} queries under the protocol '{ours.protocol}'"


def _whole(hits: PairedHits) -> bool:
    """A SKU and two hits, each true or false, for every query."""
    lengths = {len(hits.skus), len(hits.challenger), len(hits.champion)}
    return len(lengths) == 1 and all(
        np.isin(found, (0, 1)).all() for found in (hits.challenger, hits.champion)
    )


def _follow(ours: Evaluation, theirs: Evaluation, slices: Slices) -> bool:
    """The figures are the means of the hits: top-1 of the protocol, and where it was found without near-duplicates."""
    told = {FULL: (ours.top1, theirs.top1)}
    if ours.near_duplicate_free and theirs.near_duplicate_free:
        told["near_duplicate_free"] = (ours.near_duplicate_free.top1, theirs.near_duplicate_free.top1)
    return all(
        name in slices
        and math.isclose(_mean(slices[name].challenger), one, abs_tol=1e-9)
        and math.isclose(_mean(slices[name].champion), other, abs_tol=1e-9)
        for name, (one, other) in told.items()
    )


def _mean(hits: np.ndarray) -> float:
    return float(np.mean(hits)) if len(hits) else math.nan


def size(case: Case) -> Outcome:
    found, limit = case.facts.bundle_mb, case.policy.max_bundle_mb
    return (
        "passed" if 0 < found <= limit else "failed"
    ), f"the bundle has {found:.1f} MB, of at most {limit}"


def blessing(case: Case) -> Outcome:
    if case.facts.blessed is None:
        return (
            "failed",
            "the bundle was not loaded and queried, so nobody knows that it works; run the bundle stage again",
        )
    if not case.facts.blessed:
        return (
            "failed",
            "the bundle could not be loaded and queried in a clean process; see the bundle stage's log",
        )
    return "passed", "the bundle was loaded and answered queries"


def latency(case: Case) -> Outcome:
    p95_ms, limit = case.facts.p95_ms, case.policy.max_p95_ms
    if p95_ms is None:
        return "failed", "a bundle without a blessing has no measured latency; run the bundle stage again"
    if 0 < p95_ms <= limit:
        return "passed", f"95 of 100 queries were answered within the limit of {limit:,} ms each"
    return "failed", f"95 of 100 queries took up to {p95_ms:,.0f} ms each, over the limit of {limit:,}"


def floor(case: Case) -> Outcome:
    top1, least = case.challenger.top1, case.policy.floor_top1
    passed = top1 >= least
    where = f"{'at or above' if passed else 'below'} the floor of {percent(least)}"
    return (
        "passed" if passed else "failed"
    ), f"the {case.candidate}'s top-1 is {percent(top1)} on {case.challenger.n} queries, {where}"


def gain(case: Case) -> Outcome:
    if case.first:
        return NO_CHAMPION
    if case.difference is None or case.champion is None:
        return UNMEASURED
    difference, margin = case.difference, case.policy.margin
    told = f"top-1 {percent(case.challenger.top1)} against {percent(case.champion.top1)}"
    if difference.changed == 0:
        return (
            "failed",
            f"both models find as many products of every SKU ({told}), and a tie keeps the champion",
        )
    if not math.isfinite(difference.lower):
        return "failed", f"queries of one SKU alone can't show a gain ({told})"
    if difference.estimate <= 0:
        return "failed", f"the challenger is no better ({told}, {points(difference.estimate)})"
    found, lower, confidence = (
        points(difference.estimate),
        points(difference.lower),
        percent(difference.confidence),
    )
    if difference.lower > margin:
        return (
            "passed",
            f"a gain of {found} ({told}), at least {lower} with {confidence} confidence, above the required {points(margin)}",
        )
    words = f"its lower bound at {confidence} confidence is {lower} and must be above {points(margin)}"
    return "failed", f"a gain of {found} ({told}) is not sure enough: {words}"


def evidence(case: Case) -> Outcome:
    if case.first:
        return NO_CHAMPION
    if case.difference is None:
        return UNMEASURED
    changed, needed = case.difference.changed, statistics.clusters_needed(case.policy.confidence)
    words = f"the models differ on {changed} SKUs, and with fewer than {needed} a gain can be chance"
    return ("passed" if changed >= needed else "failed"), words


# name, verdict if it fails (always "refuse" while there is no champion to keep), rule
RULES: tuple[tuple[str, Verdict, Callable[[Case], Outcome]], ...] = (
    ("identity", "keep", identity),
    ("code", "refuse", code),
    ("figures", "refuse", figures),
    ("champion", "refuse", champion),
    ("pairs", "refuse", pairs),
    ("size", "refuse", size),
    ("blessing", "refuse", blessing),
    ("latency", "refuse", latency),
    ("floor", "keep", floor),
    ("gain", "keep", gain),
    ("evidence", "keep", evidence),
)


# As RULES, of a refreshed gallery beside its fitness: the encoder is the champion's, so no gain is asked for.
REFRESH_RULES: tuple[tuple[str, Verdict, Callable[[Case], Outcome]], ...] = tuple(
    rule for rule in RULES if rule[0] in ("code", "figures", "size", "blessing", "latency", "floor")
)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    return f"{100 * share:+.2f} points"
