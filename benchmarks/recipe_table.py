"""Table of the comparison of training loops for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.contests import Contest
from benchmarks.recipe import Line
from skumatch.retrieval.statistics import Interval


def recipe_table(contests: list[Contest], lines: list[Line]) -> RenderableType:
    """Return a table with a row for each loop.

    A row has each seed's top-1, their mean with its interval, and the gain over the loop that the others are
    compared with.
    """
    base = next((line.loop for line in lines if line.gain is None), "")
    title, _, fold = contests[0].name.partition(" fold ")
    grid = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=f"{title}, {len(contests)} folds" if fold else title
    )
    for name in ("loop", "top-1 by seed", "top-1", f"against {base}", "images seen", "minutes"):
        grid.add_column(name, justify="left" if name == "loop" else "right")
    for line in lines:
        seeds = "  ".join(f"{100 * value:.1f}" for value in line.seeds.values())
        gain = Text("-", style="dim") if line.gain is None else _interval(line.gain, "+.1f")
        grid.add_row(
            line.loop,
            seeds,
            _interval(line.top1, ".1f"),
            gain,
            f"{line.images:,}",
            f"{line.seconds / 60:.1f}",
        )
    learnt = max(len(contest.learnt) for contest in contests)
    queries = [sku for contest in contests for sku in contest.queries.skus]
    sizes = f"up to {learnt:,} pictures trained on, {len(queries):,} queries of {len(set(queries))} SKUs"
    return Group(grid, Text(f"{sizes}; intervals of 95 % by bootstrap over SKUs", style="dim"))


def _interval(interval: Interval, form: str) -> RenderableType:
    value, low, high = (f"{100 * number:{form}}" for number in (interval.value, interval.low, interval.high))
    good = form == "+.1f" and interval.low > 0
    return Group(Text(value, style="bold green" if good else "bold"), Text(f"{low} to {high}", style="dim"))
