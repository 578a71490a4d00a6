"""Tables of the error rates of the rules for a refreshed gallery, as `benchmarks.refresh` simulates them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.gate_table import percent, sign, table
from benchmarks.refresh import Outcome, RefreshYear

FAULTS = {
    "none": "harmless",
    "lost": "2 points of old products lost",
    "swallowed": "a new product takes 90 % of an old product's photos",
    "half swallowed": "... 50 %",
    "not found": "a new product is found in 10 % of its questions",
    "unknown": "5 points more old photos called unknown",
}
WEEK_HEADS = (
    ("week", "left"),
    ("weeks", "right"),
    ("released", "right"),
    ("caught", "right"),
    ("", "left"),
    ("held back", "right"),
)
YEAR_HEADS = (
    ("year", "left"),
    ("years", "right"),
    ("within the margin", "right"),
    ("loss", "right"),
    ("weeks released", "right"),
)


def weeks(outcomes: Sequence[Outcome]) -> Table:
    """Return a table with one row for each kind of week: how often it is released, and its fault caught."""
    rows = table("Refreshed galleries: what the rules release and hold back", WEEK_HEADS)
    rows.caption = (
        "In percent. Released: nothing failed, once products were held back. Caught: stopped, or the faulty "
        "product held back. Held back: new products without a fault that are."
    )
    for outcome in outcomes:
        week = outcome.week
        rows.add_row(
            f"{FAULTS[week.fault]}, {week.shape.name}, {week.clustering.name}",
            str(outcome.trials),
            percent(outcome.released),
            "-" if week.fault == "none" else percent(outcome.caught),
            sign(outcome.holds),
            percent(outcome.held_back),
        )
    return rows


def years(outcomes: Sequence[RefreshYear]) -> Table:
    """Return a table with one row for each kind of year: how often its loss stays within the margin."""
    rows = table("Years of weekly refreshes of one model", YEAR_HEADS)
    rows.caption = "In percent; loss: the mean true loss of old products at the end, in points."
    for outcome in outcomes:
        kind = "harmless weeks" if outcome.step is None else f"{100 * outcome.step:.1f} points lost a week"
        rows.add_row(
            f"{kind}, {outcome.shape.name}, {outcome.clustering.name}",
            str(outcome.years),
            percent(outcome.bounded),
            f"{100 * outcome.loss:.2f}",
            percent(outcome.released),
        )
    return rows
