"""An evaluation in the terminal: the headline in one line, then the figures of the whole list, the scorers and the slices."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from skumatch.retrieval.figures import Evaluation

DEPTHS = {
    "map_r": "mAP@R",
    "r_precision": "R-precision",
    "mrr": "MRR",
    "macro_top1": "top-1, every SKU alike",
}
SCORERS = {"prototype": "top-1 by prototype", "knn": "top-1 by k-NN vote"}


def headline(evaluation: Evaluation) -> str:
    """Top-1/3/5, under which protocol, of how many."""
    low, high = evaluation.interval.top1
    figures = f"top-1 {100 * evaluation.top1:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    figures += f", top-3 {100 * evaluation.top3:.1f} %, top-5 {100 * evaluation.top5:.1f} %"
    what = f"protocol {evaluation.protocol}, {evaluation.n:,} queries of {evaluation.skus:,} SKUs"
    left_out = (
        f", {evaluation.without_partner} without a gallery image left out"
        if evaluation.without_partner
        else ""
    )
    return f"{figures}, {what}{left_out}"


def tables(evaluation: Evaluation) -> Iterator[RenderableType]:
    """What there is besides the headline."""
    yield _others(evaluation)
    if evaluation.slices:
        yield _slices(evaluation)


def _others(evaluation: Evaluation) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    values = [(name, getattr(evaluation, field)) for field, name in DEPTHS.items()]
    values += [(name, evaluation.scorers.get(field)) for field, name in SCORERS.items()]
    for name, value in values:
        if value is not None:
            table.add_row(name, f"{100 * value:.1f} %")
    return table


def _slices(evaluation: Evaluation) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name, justify in (
        ("by", "left"),
        ("slice", "left"),
        ("top-1", "right"),
        ("interval", "right"),
        ("queries", "right"),
        ("SKUs", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("")
    family = ""
    for one in evaluation.slices:
        bounds = f"{100 * one.interval[0]:.1f} to {100 * one.interval[1]:.1f}"
        shown = Text(one.family if one.family != family else "")
        table.add_row(
            shown,
            Text(one.name),
            f"{100 * one.top1:.1f} %",
            bounds,
            f"{one.n:,}",
            f"{one.skus:,}",
            Text(one.about, style="dim"),
        )
        family = one.family
    return table
