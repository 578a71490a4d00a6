"""Judge whether a refreshed gallery is fit to serve, and name the new products to hold back.

All functions are pure functions of a table of answers.

A refreshed bundle is the champion's encoder on today's gallery, with thresholds fitted anew. It answers the
same questions as the bundle that serves and the bundle of the last model release. All three have the same
encoder, so they answer nearly all questions alike, and a loss concerns a few products. docs/gate.md explains
each rule and its error rates.

The table `answers` has a row for each question:

- query: an id, unique together with `asked_as`.
- asked_as: `photo`, a photo of the test side, or `gallery`, a gallery photo of a new product without photos,
  whose own duplicate group is left out of the search.
- sku: the product shown. group: the question's duplicate group.
- status of that product: `old` (in the served gallery and in today's), `new` (in today's only), `retired` (in
  the served one only), `other` (in neither, so that `unknown` is the right answer).
- served, released, refreshed: the SKU that each bundle answers. served_unknown, released_unknown,
  refreshed_unknown: whether the bundle calls the photo unknown. `released` may be missing or empty where no
  gallery was released since the last model release. A `gallery` row has answers of refreshed (and of a
  challenger) only. It has none if its product has no other gallery photo that could match.

An answer is right if it names the product and doesn't call the photo unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Final, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from skumatch.gate.rules import Status, percent, points
from skumatch.params import RefreshParams
from skumatch.retrieval import statistics
from skumatch.retrieval.clusters import clusters_of
from skumatch.retrieval.metrics import Flags, Places
from skumatch.texts import counted, first_of

__all__ = ["Fitness", "FitnessCheck", "Loss", "Measured", "hold_back", "judge"]
STATUSES: Final = ("old", "new", "retired", "other")
ASKED_AS: Final = ("photo", "gallery")
BASES: Final = {"served": "the gallery that serves", "released": "the last model release"}
CHANCE: Final = 0.25  # share of an average product's photos by which few products may exceed a limit
SHOWN: Final = 5  # products named in a sentence; the others are counted
Base = Literal["served", "released"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Loss(_Record):
    """Photos of an old product that `served` answers right and `refreshed` names as a new product.

    Attributes:
        old: the old product.
        new: the new product that takes the photos.
        photos: how many photos.
    """

    old: str
    new: str
    photos: int


class Measured(_Record):
    """A share of answers with its confidence bounds.

    Attributes:
        against: the bundle that `refreshed` is compared with on the same questions; None for a share of
            `refreshed` alone.
        questions: number of questions.
        skus: number of products among them.
        before: the share (0 to 1) in the bundle `against`; None without one.
        after: the share in `refreshed`.
        change: after - before, computed exactly from the counts; None without a `before`.
        low: one-sided lower bound of the change (of `after`, without a `before`) at the policy's confidence;
            None where all questions are of one product.
        high: the upper bound, likewise.
        limit: the largest change allowed, or the bound of the share.
    """

    against: Base | None
    questions: int
    skus: int
    before: float | None
    after: float
    change: float | None
    low: float | None
    high: float | None
    limit: float


class FitnessCheck(_Record):
    """The outcome of one rule.

    Attributes:
        name: name of the rule.
        status: `passed`, `failed` or `not applicable`.
        detail: the outcome in words.
        measured: the numbers that the outcome rests on.
    """

    name: str
    status: Status
    detail: str
    measured: tuple[Measured, ...] = ()


class Fitness(_Record):
    """The judgement on a refreshed bundle, with its reasons.

    Attributes:
        checks: the outcomes of all rules, in order.
        losses: photos of old products that went to new ones, the largest loss first.
        accepted: products that would be held back if the policy's `accept` didn't list them, each with the
            reason that was overruled.
        unasked: new products without a question, since they have a single gallery photo and no other photo.
        thresholds_note: the kind of pictures that the thresholds were fitted on, before and now; recorded
            only, no rule reads it.
    """

    checks: tuple[FitnessCheck, ...]
    losses: tuple[Loss, ...]
    accepted: dict[str, str]
    unasked: tuple[str, ...]
    thresholds_note: str

    @property
    def fit(self) -> bool:
        """True if no check failed."""
        return all(check.status != "failed" for check in self.checks)

    @property
    def sentence(self) -> str:
        """One sentence: the detail of the first failed check, or that no check failed."""
        failed = [check.detail for check in self.checks if check.status == "failed"]
        return f"Not fit to serve: {failed[0]}." if failed else "Fit to serve: no check failed."


def hold_back(answers: pd.DataFrame, policy: RefreshParams, candidate: str = "refreshed") -> dict[str, str]:
    """Name the new products that should not be released.

    The caller takes them out of the gallery, ranks again and calls again, until the result is empty.

    Args:
        answers: the questions and answers, as described at the top of this module.
        policy: the section `refresh` of the parameters; products in its `accept` are never named.
        candidate: the bundle whose answers are judged: `refreshed`, or a `challenger` with another encoder.

    Returns:
        Each product to hold back, with the reason as a sentence.
    """
    judged = answers.assign(refreshed=answers[candidate], refreshed_unknown=answers[f"{candidate}_unknown"])
    return {sku: reason for sku, reason in _faults(judged, policy).items() if sku not in policy.accept}


def judge(
    answers: pd.DataFrame,
    policy: RefreshParams,
    thresholds_note: str,
    seed: int,
    retired: Collection[str] = (),
) -> Fitness:
    """Judge whether a refreshed bundle is fit to serve, once nothing more is held back.

    Args:
        answers: the questions and answers, as described at the top of this module.
        policy: the section `refresh` of the parameters.
        thresholds_note: the kind of pictures that the thresholds were fitted on, before and now; it is
            recorded only.
        seed: seed of the bootstrap; the same seed gives the same record.
        retired: products of the served gallery that today's lacks and that no question shows, in any order.

    Returns:
        The record of all checks; its `fit` is true if none failed.
    """
    questions = _asked(answers)
    old, new = questions[_old_photos(questions)], questions[questions["status"].eq("new")]
    bases: dict[Base, pd.DataFrame] = {"served": old, "released": _known_to_released(questions, old)}
    is_new, is_retired = (answers["status"].eq(status) for status in ("new", "retired"))
    unasked = sorted(set(answers.loc[is_new, "sku"]) - set(new["sku"]))
    return Fitness(
        checks=(
            *(_old_right(rows, base, policy, seed) for base, rows in bases.items()),
            _new_found(new, unasked, policy, seed),
            _retired_returned(questions["refreshed"], {*retired, *answers.loc[is_retired, "sku"]}),
            _old_unknown(bases, policy, seed),
            _new_unknown(new, policy, seed),
        ),
        losses=_losses(old, set(new["sku"])),
        accepted={sku: reason for sku, reason in _faults(answers, policy).items() if sku in policy.accept},
        unasked=tuple(unasked),
        thresholds_note=thresholds_note,
    )


def _asked(answers: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have an answer: all but gallery photos whose product has no other photo."""
    assert answers["status"].isin(STATUSES).all() and answers["asked_as"].isin(ASKED_AS).all()
    assert not answers.duplicated(["query", "asked_as"]).any(), "a question is asked once"
    return answers[answers["asked_as"].eq("photo") | answers["refreshed"].notna()]


def _old_photos(answers: pd.DataFrame) -> pd.Series[bool]:
    return answers["status"].eq("old") & answers["asked_as"].eq("photo")


def _unknown(rows: pd.DataFrame, bundle: str) -> Flags:
    """Return for each question [n] whether the bundle calls it unknown; false for a missing answer."""
    return rows[f"{bundle}_unknown"].eq(True).fillna(False).to_numpy(np.bool_)


def _right(rows: pd.DataFrame, bundle: str) -> Flags:
    """Return for each question [n] whether the bundle names its product and doesn't call it unknown."""
    named: Flags = rows[bundle].eq(rows["sku"]).fillna(False).to_numpy(np.bool_)
    return named & ~_unknown(rows, bundle)


def _known_to_released(answers: pd.DataFrame, old: pd.DataFrame) -> pd.DataFrame:
    """Return photos of old products that the last model release can name; none if that release serves.

    Products that were added since would hide the losses of the others. A product that the release never
    answers is not in its gallery, or has nothing to lose.
    """
    if "released" not in answers or answers["released"].isna().all():
        return old.iloc[:0]
    return old[old["released"].notna() & old["sku"].isin(answers["released"].dropna().unique())]


def _faults(answers: pd.DataFrame, policy: RefreshParams) -> dict[str, str]:
    """Return the new products that take an old one's photos or are not found, sorted, with the reason."""
    asked = _asked(answers)
    new = asked[asked["status"].eq("new")]
    reasons = _not_found(new, policy) | _takers(asked, set(new["sku"]), policy)
    return {sku: reasons[sku] for sku in sorted(reasons)}


def _takers(questions: pd.DataFrame, new: set[str], policy: RefreshParams) -> dict[str, str]:
    """Return new products that take too large a share of one old product's rightly answered photos.

    Only photos that `served` answers right count, and duplicates count as one photo. A single photo may be
    chance, so it counts only if the old product has no more than two. Photos that `refreshed` calls unknown
    count too: a mislabelled product is as near as the right one, so that the threshold on the margin often
    hides its name.
    """
    right = questions[_old_photos(questions)]
    right = right[_right(right, "served")]
    photos = right.groupby("sku")["group"].nunique()
    pairs = right[right["refreshed"].isin(new)].groupby(["refreshed", "sku"])
    losses = pairs["group"].nunique().reset_index(name="n")
    losses["of"] = losses["sku"].map(photos).astype(np.int64)
    losses["share"] = losses["n"] / losses["of"]
    enough = losses["n"].ge(2) | losses["of"].le(2)
    worst = losses[enough & losses["share"].ge(policy.max_taken)].sort_values(["share", "n", "sku"])
    limit, reasons = percent(policy.max_taken), {}
    for row in worst.to_dict("records"):
        photos_taken = f"{row['n']:,} of {counted(row['of'], 'photo')} of the old product {row['sku']}"
        words = f"that are answered right today ({percent(row['share'])}; {limit} is too much)"
        reasons[row["refreshed"]] = f"it takes {photos_taken} {words}"
    return reasons


def _not_found(new: pd.DataFrame, policy: RefreshParams) -> dict[str, str]:
    """Return new products whose share of right answers is clearly below the floor.

    Duplicates count as one question. Clearly means that even the upper confidence bound is below the floor.
    """
    right = pd.Series(_right(new, "refreshed").astype(np.float64), new.index)
    shares = right.groupby([new["sku"], new["group"]]).mean().groupby(level=0).agg(["sum", "count"])
    floor, sure, reasons = policy.min_new_found, percent(policy.confidence), {}
    for sku, hits, questions in shares.itertuples():
        high = statistics.highest_share(hits, questions, 1 - policy.confidence)
        if high < floor:
            share = f"{percent(hits / questions)} of its own {counted(questions, 'question')}"
            bound = f"at most {percent(high)} with {sure} confidence"
            reasons[sku] = f"it is found in {share} ({bound}), below the floor of {percent(floor)}"
    return reasons


def _losses(old: pd.DataFrame, new: set[str]) -> tuple[Loss, ...]:
    """Count the photos that `served` answers right and `refreshed` names as a new product.

    The largest loss comes first; equal ones are in order of their names.
    """
    lost = old[_right(old, "served") & old["refreshed"].isin(new).to_numpy(np.bool_)]
    counts = lost.groupby(["sku", "refreshed"]).size().reset_index(name="n").to_dict("records")
    losses = [Loss(old=row["sku"], new=row["refreshed"], photos=row["n"]) for row in counts]
    return tuple(sorted(losses, key=lambda loss: (-loss.photos, loss.old, loss.new)))


def _old_right(rows: pd.DataFrame, base: Base, policy: RefreshParams, seed: int) -> FitnessCheck:
    """Check that the share of old products' photos answered right fell by less than the margin."""
    name = {"served": "old_vs_served", "released": "old_vs_release"}[base]
    if rows.empty and base == "released":
        return _check(name, None, "the last model release is what serves, or knows none of the old products")
    if rows.empty:
        return _check(name, False, "there is no photo of an old product, so a loss can't be seen")
    before, after = _right(rows, base), _right(rows, "refreshed")
    measured = _compare(rows, base, before, after, policy.max_drop, policy, seed)
    limit = f"at most {_points(measured.limit)} may be lost"
    words = f"photos of old products answered right: {_told(measured)}, {limit}"
    return _check(name, not _too_much(measured, -1, policy), words, measured)


def _old_unknown(bases: dict[Base, pd.DataFrame], policy: RefreshParams, seed: int) -> FitnessCheck:
    """Check that the share of old products' photos called unknown rose by less than the margin."""
    name, limit = "old_unknown", policy.max_unknown_rise
    measurements = [
        _compare(rows, base, _unknown(rows, base), _unknown(rows, "refreshed"), limit, policy, seed)
        for base, rows in bases.items()
        if len(rows)
    ]
    if not measurements:
        return _check(name, None, "there is no photo of an old product")
    passed = not any(_too_much(measured, 1, policy) for measured in measurements)
    words = "; ".join(_told(measured) for measured in measurements)
    words = f"photos of old products called unknown: {words}, at most {_points(limit)} more"
    return _check(name, passed, words, *measurements)


def _new_found(new: pd.DataFrame, unasked: Collection[str], policy: RefreshParams, seed: int) -> FitnessCheck:
    """Check that the share of new products' questions answered right isn't shown to be below the floor."""
    unasked_note = f"; no question can be asked of {first_of(sorted(unasked), SHOWN)}" if unasked else ""
    if new.empty:
        return _check("new_found", None, f"no question can be asked of a new product{unasked_note}")
    measured = _share(new, _right(new, "refreshed"), policy.min_new_found, policy, seed)
    passed = measured.high is None or measured.high >= measured.limit
    floor = f"the floor is {percent(measured.limit)}"
    words = f"questions of new products answered right: {_told(measured)}, {floor}{unasked_note}"
    return _check("new_found", passed, words, measured)


def _new_unknown(new: pd.DataFrame, policy: RefreshParams, seed: int) -> FitnessCheck:
    """Check that the share of new products' questions called unknown isn't shown to be over its limit."""
    if new.empty:
        return _check("new_unknown", None, "no question can be asked of a new product")
    measured = _share(new, _unknown(new, "refreshed"), policy.max_new_unknown, policy, seed)
    passed = measured.low is None or measured.low <= measured.limit
    limit = f"at most {percent(measured.limit)} allowed"
    words = f"questions of new products called unknown: {_told(measured)}, {limit}"
    return _check("new_unknown", passed, words, measured)


def _retired_returned(names: pd.Series[str], retired: set[str]) -> FitnessCheck:
    """Check that no answer names a retired product, called unknown or not; today's gallery lacks it."""
    if not retired:
        return _check("retired_returned", None, "no product was retired")
    returned = names[names.isin(retired)]
    returned_names = f" ({first_of(sorted(set(returned)), SHOWN)})" if len(returned) else ""
    products = counted(len(retired), "retired product")
    words = f"answers that name one of {products}: {len(returned):,}{returned_names}"
    return _check("retired_returned", returned.empty, words)


def _compare(
    rows: pd.DataFrame,
    base: Base,
    before: Flags,
    after: Flags,
    limit: float,
    policy: RefreshParams,
    seed: int,
) -> Measured:
    """Measure the change of a share on the same questions, with a bootstrap that resamples whole products."""
    change = after.astype(np.float64) - before.astype(np.float64)
    if not change.any():  # nothing that chance could have moved
        same = statistics.Interval(0.0, 0.0, 0.0)
        return _measured(rows, base, float(before.mean()), float(after.mean()), same, limit)
    sides = 2 * policy.confidence - 1  # each side of the interval has the policy's confidence
    interval = statistics.change_interval(change, _clusters(rows), sides, seed, policy.resamples)
    return _measured(rows, base, float(before.mean()), float(after.mean()), interval, limit)


def _share(rows: pd.DataFrame, flags: Flags, limit: float, policy: RefreshParams, seed: int) -> Measured:
    """Measure a share of `refreshed` alone, with a bootstrap that resamples whole products."""
    sides = 2 * policy.confidence - 1
    values = flags.astype(np.float64)
    interval = statistics.mean_interval(values, _clusters(rows), sides, seed, policy.resamples)
    return _measured(rows, None, None, float(flags.mean()), interval, limit)


def _measured(
    rows: pd.DataFrame,
    against: Base | None,
    before: float | None,
    after: float,
    interval: statistics.Interval,
    limit: float,
) -> Measured:
    low, high = (bound if math.isfinite(bound) else None for bound in (interval.low, interval.high))
    return Measured(
        against=against,
        questions=len(rows),
        skus=int(rows["sku"].nunique()),
        before=before,
        after=after,
        change=None if before is None else interval.value,
        low=low,
        high=high,
        limit=limit,
    )


def _clusters(rows: pd.DataFrame) -> Places:
    return clusters_of(rows["sku"].to_numpy(object), rows["group"].to_numpy(object))


def _too_much(measured: Measured, worse: Literal[-1, 1], policy: RefreshParams) -> bool:
    """Return whether a share changed for the worse by more than its limit.

    With at least `policy.min_skus` products the bounds have to rule that out, so the worse bound is compared
    with the limit. With fewer, no bounds are that narrow: the change itself is compared, and may exceed the
    limit by CHANCE of an average product's photos.

    Args:
        measured: the change.
        worse: the sign of a change for the worse: -1 where the share should be high, 1 where low.
        policy: the section `refresh` of the parameters.
    """
    assert measured.change is not None
    if measured.skus < policy.min_skus:
        return worse * measured.change > measured.limit + CHANCE / measured.skus
    most = measured.high if worse > 0 else measured.low
    return most is None or worse * most >= measured.limit


def _check(name: str, passed: bool | None, detail: str, *measured: Measured) -> FitnessCheck:
    """Return the record of one check; `passed` is None where there is nothing to judge."""
    status: Status = "not applicable"
    if passed is not None:
        status = "passed" if passed else "failed"
    return FitnessCheck(name=name, status=status, detail=detail, measured=measured)


def _told(measured: Measured) -> str:
    """Put a measurement in words: the share, its base, its bounds and its numbers of questions and SKUs."""
    extent = f"{counted(measured.questions, 'question')} of {counted(measured.skus, 'SKU')}"
    if measured.against is None or measured.before is None or measured.change is None:
        return f"{percent(measured.after)} ({_range(measured, percent)}, {extent})"
    change = points(measured.change)
    other = f"{percent(measured.before)} of {BASES[measured.against]}"
    return f"{percent(measured.after)} against {other}, {change} ({_range(measured, points)}, {extent})"


def _range(measured: Measured, written: Callable[[float], str]) -> str:
    if measured.low is None or measured.high is None:
        return "no bounds"
    return f"bounds {written(measured.low)} and {written(measured.high)}"


def _points(limit: float) -> str:
    return points(limit)[1:]
