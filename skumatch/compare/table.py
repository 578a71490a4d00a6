"""A comparison in the terminal: one row a model, each share with its bar and its interval."""

from __future__ import annotations

from rich import box
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skumatch.compare.comparison import Compared, Comparison
from skumatch.compare.wording import asked, points, share, span, spread

BAR = 13  # letters, as many as "97.0 to 100.0"
VERDICTS = {"better": "green", "worse": "red", "may be chance": "dim"}


def table(comparison: Comparison) -> RenderableType:
    """The table and a line that says what was asked."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("model", overflow="fold", min_width=10)
    for name in ("top-1", "top-3", "top-5"):
        grid.add_column(name, width=BAR)
    if len(comparison.models) > 1:
        grid.add_column(Text(f"top-1 against {comparison.models[0].label}"), overflow="fold", min_width=14)
    for i, model in enumerate(comparison.models):
        if i:
            grid.add_row()
        shares = [_share(model, k) for k in (1, 3, 5)]
        grid.add_row(
            Text(model.label, style="bold"),
            *shares,
            *([_difference(model)] if len(comparison.models) > 1 else []),
        )
    return Group(grid, Text(asked(comparison), style="dim"))


def _share(model: Compared, k: int) -> RenderableType:
    value, bounds = getattr(model.evaluation, f"top{k}"), getattr(model.evaluation.interval, f"top{k}")
    return Group(
        Text(share(value), style="bold"),
        Bar(1, 0, value, width=BAR, color="cyan"),
        Text(spread(bounds), style="dim"),
    )


def _difference(model: Compared) -> RenderableType:
    found = model.difference
    if found is None:
        return Text("-", style="dim")
    verdict = Text(found.verdict, style=VERDICTS[found.verdict])
    return Group(
        Text(f"{points(found.top1)} points", style="bold"), verdict, Text(span(found.interval), style="dim")
    )
