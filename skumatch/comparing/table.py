"""A comparison in the terminal: one row per model, each share with its bar and its interval."""

from __future__ import annotations

from rich import box
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skumatch.comparing.comparison import Compared, Comparison, points, scope, share, span, spread

BAR = 13  # letters, as many as "97.0 to 100.0"
VERDICTS = {"better": "green", "worse": "red", "may be chance": "dim"}


def table(comparison: Comparison) -> RenderableType:
    """Return the table and a line about protocol, queries and intervals."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("model", overflow="fold", min_width=10)
    for name in ("top-1", "top-3", "top-5"):
        grid.add_column(name, width=BAR)
    if len(comparison.models) > 1:
        grid.add_column(Text(f"top-1 against {comparison.models[0].label}"), overflow="fold", min_width=14)
    for i, model in enumerate(comparison.models):
        if i:
            grid.add_row()
        cells: list[RenderableType] = [
            Text(model.label, style="bold"),
            *(_share(model, k) for k in (1, 3, 5)),
        ]
        if len(comparison.models) > 1:
            cells.append(_difference(model))
        grid.add_row(*cells)
    return Group(grid, Text(scope(comparison), style="dim"))


def _share(model: Compared, k: int) -> RenderableType:
    value, bounds = getattr(model.evaluation, f"top{k}"), getattr(model.evaluation.interval, f"top{k}")
    return Group(
        Text(share(value), style="bold"),
        Bar(1, 0, value, width=BAR, color="cyan"),
        Text(spread(bounds), style="dim"),
    )


def _difference(model: Compared) -> RenderableType:
    difference = model.difference
    if difference is None:
        return Text("-", style="dim")
    return Group(
        Text(f"{points(difference.top1)} points", style="bold"),
        Text(difference.verdict, style=VERDICTS[difference.verdict]),
        Text(span(difference.interval), style="dim"),
    )
