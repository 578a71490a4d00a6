"""`skumatch bench`: what things cost on this machine, as ratios."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from skumatch.bench.measure import Row
from skumatch.errors import DataError
from skumatch.files import write_text

app = typer.Typer(no_args_is_help=True)
console = Console()


@app.callback()
def bench() -> None:
    """What things cost on this machine, as ratios against a ceiling or a peer in the same run."""


@app.command()
def data(
    images: Annotated[int, typer.Option(min=200, help="Images of the made archive that is imported.")] = 20_000,
    rows: Annotated[int, typer.Option(min=1000, help="Rows of the made manifest that is validated and searched for duplicates.")] = 400_000,
    files: Annotated[int, typer.Option(min=100, help="Loose files that DVC is compared on.")] = 100_000,
    names: Annotated[Path | None, typer.Option(help="A text file of SKU names, one a line; default: made-up Chinese names.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to work; default: a temporary folder. Needs about 5 GB.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, too.")] = None,
) -> None:
    """Import, versioning, validation and the duplicate census on made data of RP2K's shape."""
    from skumatch.bench import archive
    from skumatch.bench.data import bench_data

    skus = _names(names) if names else archive.names(min(2388, images // 8))
    found: list[Row] = []
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for row in bench_data(Path(work), images, rows, files, skus):
            found.append(row)
            console.print(f"  {row.name}: {_figure(row.measured)} {row.unit}", style="dim", highlight=False)
    console.print(_table(found))
    if output:
        write_text(output, json.dumps([asdict(row) | {"holds": row.holds} for row in found], indent=2) + "\n")


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"There is no {path}; give a text file of SKU names, one a line.")
    return [line for line in path.read_text("utf-8").splitlines() if line]


def _table(rows: list[Row]) -> Table:
    table = Table(title=f"What data costs here ({os.cpu_count()} cores)")
    for name, justify in (("", "left"), ("measured", "right"), ("bound", "right"), ("", "center"), ("parts", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        sign = "≤" if row.better == "less" else "≥"
        holds = "[green]✓" if row.holds else "[red]✗"
        table.add_row(row.name, f"[bold]{_figure(row.measured)} {row.unit}", f"{sign} {_figure(row.bound)} {row.unit}", holds, row.parts)
    return table


def _figure(value: float) -> str:
    """Three digits, or all of a larger number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
