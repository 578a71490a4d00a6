"""The gate's rules except the guards.

Each rule is a pure function of the case and returns `passed`, `failed` or `not applicable` with a sentence.
"""

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
from skumatch.texts import counted, queries_of

Verdict = Literal["first", "promote", "refresh", "keep", "refuse"]
Status = Literal["passed", "failed", "not applicable"]
Outcome = tuple[Status, str]
Slices = Mapping[str, PairedHits]
FIGURES = ("top1", "top3", "top5", "image_top1", "image_top3", "image_top5", "macro_top1")
FULL = "full"  # the slice that the gain is measured on
NO_CHAMPION: Outcome = ("not applicable", "there is no champion yet")
UNMEASURED: Outcome = ("failed", "nothing could be compared")
UNREADABLE = (
    "the champion could not be read and scored, so nothing can be compared; "
    "repair or withdraw it and run again"
)
UNTRIED = "the bundle was not loaded and queried, so nobody knows that it works; run the bundle stage again"


class BundleFacts(BaseModel):
    """The gate's inputs beside the figures: facts about the bundle and the code.

    Attributes:
        challenger_bundle: hash of the candidate's bundle.
        champion_bundle: hash of the champion's bundle; None without a champion.
        bundle_mb: size of the candidate's bundle in MB.
        blessed: whether the bundle was loaded and queried with success; None if that was not tried.
        p95_ms: milliseconds of processor time within which 95 of 100 queries were answered; None if not
            measured.
        dirty_code: whether the code differs from its commit.
        commit: the commit of the code; None outside a git repository.
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
    """The input of all rules.

    Attributes:
        challenger: the figures of the candidate, which may be a refreshed gallery.
        champion: the champion's figures; None without a champion, or if it could not be scored.
        slices: the hits of both models query by query; None without a comparison.
        facts: facts about the bundle and the code.
        policy: the section `gate` of the parameters.
        difference: the gain in top-1; None until the rule `pairs` has passed.
        candidate: the candidate's name in sentences.
    """

    challenger: Evaluation
    champion: Evaluation | None
    slices: Slices | None
    facts: BundleFacts
    policy: GateParams
    difference: statistics.Difference | None = None
    candidate: str = "challenger"

    @property
    def first(self) -> bool:
        """True if there is no champion yet."""
        return self.facts.champion_bundle is None and self.champion is None


def identity(case: Case) -> Outcome:
    """Check that challenger and champion are different bundles."""
    if case.first:
        return NO_CHAMPION
    if case.facts.challenger_bundle and case.facts.challenger_bundle == case.facts.champion_bundle:
        return "failed", "the challenger is the same bundle as the champion, so there is nothing to change"
    return "passed", "challenger and champion are different bundles"


def code(case: Case) -> Outcome:
    """Check that the code was committed."""
    if case.facts.dirty_code:
        return "failed", "a model from uncommitted code is never promotable; commit and run again"
    if not case.facts.commit:
        cure = "clone the project with git, then run again"
        return "failed", f"the code is under no git commit, so the model could not be made again; {cure}"
    return "passed", f"made by commit {case.facts.commit}"


def figures(case: Case) -> Outcome:
    """Check that the candidate has a bundle hash and sound figures."""
    if not case.facts.challenger_bundle:
        why = "has no bundle hash, so it can't be told which model was judged; run the bundle stage again"
        return "failed", f"the {case.candidate} {why}"
    return _sound(case.challenger, case.candidate)


def champion(case: Case) -> Outcome:
    """Check that the champion could be scored and has a bundle hash and sound figures."""
    if case.first:
        return NO_CHAMPION
    if case.champion is None:
        return "failed", UNREADABLE
    if not case.facts.champion_bundle:
        why = "has no bundle hash, so it can't be told which model was compared; run the gate again"
        return "failed", f"the champion {why}"
    return _sound(case.champion, "champion")


def _sound(evaluation: Evaluation, role: str) -> Outcome:
    """Check that a model was scored on at least one query and that every share is a number from 0 to 1."""
    if evaluation.n < 1:
        return "failed", f"the {role} was scored on no query at all; check the evaluate stage"
    for name in FIGURES:
        value = getattr(evaluation, name)
        if not 0 <= value <= 1:  # NaN too
            return "failed", f"the {role}'s {name} is {value}, which is no share; check the evaluate stage"
    return "passed", f"the {role} was scored on {queries_of(evaluation.n, evaluation.skus)}"


def pairs(case: Case) -> Outcome:
    """Check that both models answered the same queries on the same gallery, and that figures match hits."""
    if case.first:
        return NO_CHAMPION
    slices, challenger, champion = case.slices or {}, case.challenger, case.champion
    if champion is None or FULL not in slices:
        missing = "the hits of both models, query by query, are missing, so they can't be compared"
        return "failed", f"{missing}; run the evaluate stage again"
    for name in ("gallery", "queries"):
        if challenger.hashes.get(name) != champion.hashes.get(name):
            unlike = f"challenger and champion were scored on other {name}, so they can't be compared"
            return "failed", f"{unlike}; run the evaluate stage again"
    same = _extent(challenger) == _extent(champion)
    whole = all(_whole(hits) for hits in slices.values())
    extent = len(slices[FULL].skus), len(set(slices[FULL].skus))
    if not same or not whole or extent != (challenger.n, challenger.skus):
        unlike = "challenger and champion were not scored on the same queries"
        return "failed", f"{unlike}; run the evaluate stage again"
    if not _follow(challenger, champion, slices):
        return "failed", "the figures don't follow from the hits query by query; run the evaluate stage again"
    same_queries = f"the same {counted(challenger.n, 'query', 'queries')}"
    return "passed", f"both were asked {same_queries} under the protocol '{challenger.protocol}'"


def _extent(evaluation: Evaluation) -> tuple[str, int, int, int]:
    return evaluation.protocol, evaluation.n, evaluation.without_partner, evaluation.skus


def _whole(hits: PairedHits) -> bool:
    """Return whether every query has a SKU and two hits, each true or false."""
    lengths = {len(hits.skus), len(hits.challenger), len(hits.champion)}
    return len(lengths) == 1 and all(
        np.isin(flags, (0, 1)).all() for flags in (hits.challenger, hits.champion)
    )


def _follow(challenger: Evaluation, champion: Evaluation, slices: Slices) -> bool:
    """Return whether the figures are the means of the hits.

    Compared are top-1 of the protocol and, where both models have it, top-1 without near-duplicates.
    """
    shares = {FULL: (challenger.top1, champion.top1)}
    if challenger.near_duplicate_free and champion.near_duplicate_free:
        shares["near_duplicate_free"] = (
            challenger.near_duplicate_free.top1,
            champion.near_duplicate_free.top1,
        )
    return all(
        name in slices
        and math.isclose(_mean(slices[name].challenger), challenger_top1, abs_tol=1e-9)
        and math.isclose(_mean(slices[name].champion), champion_top1, abs_tol=1e-9)
        for name, (challenger_top1, champion_top1) in shares.items()
    )


def _mean(hits: np.ndarray) -> float:
    return float(np.mean(hits)) if len(hits) else math.nan


def size(case: Case) -> Outcome:
    """Check that the bundle isn't empty and not larger than `gate.max_bundle_mb`."""
    bundle_mb, limit_mb = case.facts.bundle_mb, case.policy.max_bundle_mb
    status: Status = "passed" if 0 < bundle_mb <= limit_mb else "failed"
    return status, f"the bundle has {bundle_mb:.1f} MB, of at most {limit_mb}"


def blessing(case: Case) -> Outcome:
    """Check that a clean process could load the bundle and find gallery pictures again."""
    if case.facts.blessed is None:
        return "failed", UNTRIED
    if not case.facts.blessed:
        why = "could not be loaded and queried in a clean process; see the bundle stage's log"
        return "failed", f"the bundle {why}"
    return "passed", "the bundle was loaded and answered queries"


def latency(case: Case) -> Outcome:
    """Check that 95 of 100 queries took at most `gate.max_p95_ms`."""
    p95_ms, limit = case.facts.p95_ms, case.policy.max_p95_ms
    if p95_ms is None:
        return "failed", "a bundle without a blessing has no measured latency; run the bundle stage again"
    if 0 < p95_ms <= limit:
        return "passed", f"95 of 100 queries were answered within the limit of {limit:,} ms each"
    return "failed", f"95 of 100 queries took up to {p95_ms:,.0f} ms each, over the limit of {limit:,}"


def floor(case: Case) -> Outcome:
    """Check that the candidate's top-1 is at least `gate.floor_top1`."""
    top1, least = case.challenger.top1, case.policy.floor_top1
    passed = top1 >= least
    where = f"{'at or above' if passed else 'below'} the floor of {percent(least)}"
    status: Status = "passed" if passed else "failed"
    queries = counted(case.challenger.n, "query", "queries")
    return status, f"the {case.candidate}'s top-1 is {percent(top1)} on {queries}, {where}"


def gain(case: Case) -> Outcome:
    """Check that the lower bound of the gain in top-1 is above `gate.margin`."""
    if case.first:
        return NO_CHAMPION
    if case.difference is None or case.champion is None:
        return UNMEASURED
    difference, margin = case.difference, case.policy.margin
    shares = f"top-1 {percent(case.challenger.top1)} against {percent(case.champion.top1)}"
    if difference.changed == 0:
        tie = f"both models find as many products of every SKU ({shares}), and a tie keeps the champion"
        return "failed", tie
    if not math.isfinite(difference.lower):
        return "failed", f"queries of one SKU alone can't show a gain ({shares})"
    if difference.estimate <= 0:
        return "failed", f"the challenger is no better ({shares}, {points(difference.estimate)})"
    estimate, lower = points(difference.estimate), points(difference.lower)
    confidence = percent(difference.confidence)
    if difference.lower > margin:
        bound = f"at least {lower} with {confidence} confidence, above the required {points(margin)}"
        return "passed", f"a gain of {estimate} ({shares}), {bound}"
    bound = f"its lower bound at {confidence} confidence is {lower} and must be above {points(margin)}"
    return "failed", f"a gain of {estimate} ({shares}) is not sure enough: {bound}"


def evidence(case: Case) -> Outcome:
    """Check that the models differ on enough SKUs to show a gain at the policy's confidence."""
    if case.first:
        return NO_CHAMPION
    if case.difference is None:
        return UNMEASURED
    changed, needed = case.difference.changed, statistics.clusters_needed(case.policy.confidence)
    words = (
        f"the models differ on {counted(changed, 'SKU')}, and with fewer than {needed} a gain can be chance"
    )
    return ("passed" if changed >= needed else "failed"), words


# Each rule's name, the verdict if it fails, its function. Without a champion the verdict is always "refuse".
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


# The rules for a refreshed gallery, beside its fitness. Its encoder is the champion's, so no gain is needed.
REFRESH_RULES: tuple[tuple[str, Verdict, Callable[[Case], Outcome]], ...] = tuple(
    rule for rule in RULES if rule[0] in ("code", "figures", "size", "blessing", "latency", "floor")
)


def percent(share: float) -> str:
    """Write a share as a percentage: 0.9612 is "96.1 %"."""
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    """Write a difference of shares in points, with its sign: 0.005 is "+0.50 points"."""
    return f"{100 * share:+.2f} points"
