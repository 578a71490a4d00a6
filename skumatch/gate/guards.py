"""The gate's guards: slices on which the challenger must be shown to be no worse than the champion.

Each guard is a test of non-inferiority with a margin, by a cluster bootstrap that resamples SKUs. Holm's
correction keeps the error rate of all guards together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from skumatch.gate.rules import FULL, NO_CHAMPION, UNMEASURED, Case, Outcome, Slices, percent, points
from skumatch.params import GateParams
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import PairedHits
from skumatch.retrieval.metrics import Floats
from skumatch.texts import agreeing, counted, queries_of

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
    """The numbers of one guard.

    Attributes:
        name: name of the slice, a key of WORDS.
        n: number of queries.
        skus: number of SKUs among them.
        changed: number of SKUs on which the models differ.
        challenger: the challenger's top-1, 0 to 1.
        champion: the champion's top-1.
        estimate: challenger minus champion.
        margin: the loss that is allowed, as a positive share.
        p: one-sided p-value of the hypothesis that the challenger is worse by the margin or more.
        adjusted: p after Holm's correction; None where there are too few SKUs.
        p_worse: one-sided p-value of the hypothesis that the challenger is not worse by more than the margin,
            so a small one shows harm; computed only where there are too few SKUs for `adjusted`.
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
    """Measure the guards that have queries, and apply Holm's correction to those with enough SKUs.

    Args:
        slices: the hits of both models by name of the slice.
        policy: the section `gate` of the parameters.
        seed: seed of the bootstrap.

    Returns:
        The guards in the order of GUARDS.
    """
    slice_of = {name: FULL if name == MACRO else name for name in GUARDS}
    hits_of = {name: slices[slice_of[name]] for name in GUARDS if slice_of[name] in slices}
    guards = [_measured(name, hits, policy, seed) for name, hits in hits_of.items() if len(hits.skus)]
    judged = [guard for guard in guards if guard.skus >= policy.guard_min_skus]
    adjusted = dict(
        zip((guard.name for guard in judged), statistics.holm([guard.p for guard in judged]), strict=True)
    )
    return tuple(guard.model_copy(update={"adjusted": adjusted.get(guard.name)}) for guard in guards)


def _measured(name: str, hits: PairedHits, policy: GateParams, seed: int) -> Guard:
    margin = getattr(policy.guard_margins, name)
    challenger, champion = hits.challenger.astype(np.float64), hits.champion.astype(np.float64)
    skus = hits.skus
    if name == MACRO:
        challenger = statistics.by_cluster(challenger, skus)
        champion = statistics.by_cluster(champion, skus)
        skus = np.unique(skus)

    def compare(better: Floats, base: Floats, above: float) -> statistics.Difference:
        return statistics.paired_difference(
            better, base, skus, policy.guard_confidence, seed, policy.resamples, above
        )

    difference = compare(challenger, champion, -margin)
    return Guard(
        name=name,
        n=len(hits.skus),
        skus=difference.clusters,
        changed=difference.changed,
        challenger=math.fsum(challenger) / len(challenger),
        champion=math.fsum(champion) / len(champion),
        estimate=difference.estimate,
        margin=margin,
        p=difference.p,
        p_worse=compare(champion, challenger, margin).p
        if difference.clusters < policy.guard_min_skus
        else None,
    )


def outcomes(case: Case, guards: Sequence[Guard]) -> list[tuple[str, Outcome]]:
    """Return each guard's outcome, in order: passed where the challenger was shown to be no worse."""
    if case.first or case.difference is None:
        return [(name, NO_CHAMPION if case.first else UNMEASURED) for name in GUARDS]
    judged = {guard.name: judge(guard, case.policy) for guard in guards}
    return [
        (name, judged.get(name, ("not applicable", f"{WORDS[name]}: there are no such queries")))
        for name in GUARDS
    ]


def judge(guard: Guard, policy: GateParams) -> Outcome:
    """Judge one guard; it passes only if the challenger was shown not to be worse by the margin."""
    shares = f"top-1 {percent(guard.challenger)} against {percent(guard.champion)}"
    measured = f"{WORDS[guard.name]}: {shares}, {points(guard.estimate)}"
    margin, alpha = points(-guard.margin), 1 - policy.guard_confidence
    if guard.adjusted is None:
        few = f"{counted(guard.skus, 'SKU')}, of at least {policy.guard_min_skus} to judge by"
        needed = statistics.clusters_needed(policy.guard_confidence)
        if guard.p_worse is not None and guard.p_worse <= alpha and guard.changed >= needed:
            show = agreeing(guard.skus, "shows", "show")
            harm = f"even {few} {show} that it is worse by more than {points(guard.margin)[1:]}"
            return "failed", f"{measured}, and {harm}"
        return "not applicable", f"{measured}, on {few}"
    extent = queries_of(guard.n, guard.skus)
    words = f"p {_p(guard.adjusted)} of {_p(alpha)} that it is {margin} or worse, {extent}"
    allowed = points(guard.margin)[1:]
    if guard.adjusted <= alpha:
        return "passed", f"{measured}; not worse by {allowed} ({words})"
    return "failed", f"{measured}; it isn't shown that this is not worse by {allowed} ({words})"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "under 0.001"
