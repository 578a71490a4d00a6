"""Table of the value of assortments, as `benchmarks.assortment` measures it."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from benchmarks.assortment import Worth
from skumatch.retrieval.statistics import Interval
from skumatch.retrieval.thresholds import Thresholds

LINES = (
    ("top-1, whole gallery", "whole"),
    ("top-1, assortment", "restricted"),
    ("... gain, paired (points)", "gain"),
    ("called unknown, whole gallery", "whole_unknown"),
    ("called unknown, assortment that has it", "inside_unknown"),
    ("called unknown, assortment that lacks it", "outside_unknown"),
    ("... by similarity alone", "outside_by_similarity"),
)


def table(rows: Sequence[Worth], thresholds: Thresholds) -> Table:
    """Return a table with a column for each size of assortments, in percent with intervals."""
    first = rows[0]
    title = f"What an assortment is worth ({first.queries:,} photos of {first.skus:,} SKUs)"
    shown = Table(title=title, box=box.SIMPLE, caption=_caption(thresholds))
    shown.add_column("in percent, 95 % interval over SKUs")
    for row in rows:
        shown.add_column(f"{row.size:.1f} SKUs, {row.assortments:,} assortments", justify="right")
    for words, name in LINES:
        shown.add_row(words, *(_figure(getattr(row, name), name == "gain") for row in rows))
    return shown


def _figure(share: Interval, signed: bool) -> str:
    sign = "+" if signed else ""
    return f"{100 * share.value:{sign}.1f} ({100 * share.low:{sign}.1f} to {100 * share.high:{sign}.1f})"


def _caption(thresholds: Thresholds) -> str:
    if not thresholds.fitted:
        return f"No thresholds: fitted on {thresholds.fitted_on}."
    numbers = f"similarity {thresholds.similarity:.3f}, margin {thresholds.margin:.3f}"
    return f"Thresholds of the whole gallery: {numbers}, fitted on {thresholds.pictures:,} gallery photos."
