"""The gate's guards: slices in which a challenger must be shown not to be worse than the champion by more than a margin.

Each is a test of non-inferiority (a cluster bootstrap by SKU); Holm's correction makes all that is said of them true at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from skumatch.params import GateParams
from skumatch.release.rules import FULL, NO_CHAMPION, UNMEASURED, Case, Outcome, Slices, percent, points
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import PairedHits
from skumatch.retrieval.metrics import Floats

WORDS = {
    "macro": "the mean over products, each counted alike",
    "tail": "products with few gallery images",
    "unseen": "products never trained on",
    "near_duplicate_free": "queries whose own duplicates are passed over",
    "k5": "at most five images of a product",
}
GUARDS = tuple(WORDS)
MACRO = "macro"


class Guard(BaseModel):
    """One guard's numbers: top-1 of both models, their difference, by how much it may be negative, and what speaks for that.

    p: one-sided, that the challenger is worse by the margin or more. adjusted: p after Holm's correction. p_worse: one-sided, that it is
    not worse by more than the margin, so a small one shows harm; asked where there are too few SKUs for an adjusted p.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    n: int
    skus: int
    changed: int
    challenger: float
    champion: float
    estimate: float
    margin: float
    p: float
    adjusted: float | None = None
    p_worse: float | None = None


def measure(slices: Slices, policy: GateParams, seed: int) -> tuple[Guard, ...]:
    """The guards that have queries, in order. Those of enough SKUs are corrected for how many these are."""
    asked = {
        name: slices[FULL if name == MACRO else name]
        for name in GUARDS
        if (FULL if name == MACRO else name) in slices
    }
    found = [_measured(name, hits, policy, seed) for name, hits in asked.items() if len(hits.skus)]
    judged = [guard for guard in found if guard.skus >= policy.guard_min_skus]
    adjusted = dict(
        zip((guard.name for guard in judged), statistics.holm([guard.p for guard in judged]), strict=True)
    )
    return tuple(guard.model_copy(update={"adjusted": adjusted.get(guard.name)}) for guard in found)


def _measured(name: str, hits: PairedHits, policy: GateParams, seed: int) -> Guard:
    margin = getattr(policy.guard_margins, name)
    ours, theirs, skus = hits.challenger.astype(np.float64), hits.champion.astype(np.float64), hits.skus
    if name == MACRO:
        ours, theirs, skus = (
            statistics.by_cluster(ours, skus),
            statistics.by_cluster(theirs, skus),
            np.unique(skus),
        )

    def compare(better: Floats, base: Floats, above: float) -> statistics.Difference:
        return statistics.paired_difference(
            better, base, skus, policy.guard_confidence, seed, policy.resamples, above
        )

    kept = compare(ours, theirs, -margin)
    return Guard(
        name=name,
        n=len(hits.skus),
        skus=kept.clusters,
        changed=kept.changed,
        challenger=math.fsum(ours) / len(ours),
        champion=math.fsum(theirs) / len(theirs),
        estimate=kept.estimate,
        margin=margin,
        p=kept.p,
        p_worse=compare(theirs, ours, margin).p if kept.clusters < policy.guard_min_skus else None,
    )


def outcomes(case: Case, guards: Sequence[Guard]) -> list[tuple[str, Outcome]]:
    """What each guard says, in order: passed where the challenger was shown not to be worse by the margin."""
    if case.first or case.difference is None:
        return [(name, NO_CHAMPION if case.first else UNMEASURED) for name in GUARDS]
    found = {guard.name: judge(guard, case.policy) for guard in guards}
    return [
        (name, found.get(name, ("not applicable", f"{WORDS[name]}: there are no such queries")))
        for name in GUARDS
    ]


def judge(guard: Guard, policy: GateParams) -> Outcome:
    """One guard's outcome: passed only if it was shown that the challenger is not worse by the margin."""
    told = f"{WORDS[guard.name]}: top-1 {percent(guard.challenger)} against {percent(guard.champion)}, {points(guard.estimate)}"
    margin, alpha = points(-guard.margin), 1 - policy.guard_confidence
    if guard.adjusted is None:
        few = f"{guard.skus} SKUs, of at least {policy.guard_min_skus} to judge by"
        if (
            guard.p_worse is not None
            and guard.p_worse <= alpha
            and guard.changed >= statistics.clusters_needed(policy.guard_confidence)
        ):
            return (
                "failed",
                f"{told}, and even {few} show that it is worse by more than {points(guard.margin)[1:]}",
            )
        return "not applicable", f"{told}, on {few}"
    words = f"p {_p(guard.adjusted)} of {_p(alpha)} that it is {margin} or worse, {guard.n} queries of {guard.skus} SKUs"
    if guard.adjusted <= alpha:
        return "passed", f"{told}; not worse by {points(guard.margin)[1:]} ({words})"
    return "failed", f"{told}; it isn't shown that this is not worse by {points(guard.margin)[1:]} ({words})"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "under 0.001"
