"""`skumatch data`: import, sample, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from skumatch.config import load_params
from skumatch.config import settings as current_settings
from skumatch.data.importer import Imported, import_data
from skumatch.data.manifest import read_manifest
from skumatch.errors import DataError
from skumatch.files import read_json
from skumatch.pipeline.repository import Repository, md5_of

app = typer.Typer(no_args_is_help=True)
console = Console()

SkuFile = Annotated[Path | None, typer.Option("--skus", help="A text file: only these SKUs, one a line.")]


@app.command("import")
def import_(path: Annotated[Path, typer.Argument(help="A folder or zip in RP2K's layout.")], skus: SkuFile = None) -> None:
    """Make a data version of PATH: shards, manifest, quarantine list; stored in the DVC remote."""
    import_and_store(path, skus)


@app.command()
def sample(skus: int = 24, train: int = 10, test: int = 5) -> None:
    """Render a deterministic set of shelf photos and import it: nothing is downloaded."""
    from skumatch.data.sample import render_sample

    folder = current_settings().home_dir / f"sample-{skus}-{train}-{test}"
    render_sample(folder, skus, train, test)
    import_and_store(folder)


@app.command()
def inspect() -> None:
    """Show what the current data version holds."""
    root = current_settings().project / "data"
    console.print(describe(read_manifest(root)))
    quarantined = read_json(root / "import.json")["quarantined"]
    for entry in quarantined[:20]:
        console.print(f"  set aside: {entry['id']} ({entry['reason']})", markup=False)


def import_and_store(path: Path, skus: Path | None = None) -> str:
    """Import `path`, put it under DVC, print what was found, and return the data version's hash."""
    settings = current_settings()
    params = load_params(settings.project / "params.yaml")
    found = import_data(path, settings.project / "data", _listed(skus), params.validation.min_short_side)
    version = md5_of(Repository(settings.project, settings).add("data"))
    console.print(_sentence(found, path, version), markup=False, highlight=False, soft_wrap=True)
    return version


def _listed(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    if not path.is_file():
        raise DataError(f"There is no {path}; give a text file with one SKU a line.")
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]


def _sentence(found: Imported, path: Path, version: str) -> str:
    news = "" if found.changed else ", unchanged"
    aside = f", {len(found.quarantined)} set aside" if found.quarantined else ""
    junk = f", {sum(found.junk.values())} other files left out" if found.junk else ""
    return (
        f"Data version {version.removesuffix('.dir')[:12]}{news}: {found.images:,} images of {found.skus:,} SKUs from {path}{aside}{junk}."
    )


def describe(manifest: pd.DataFrame) -> Table:
    """Images and SKUs on each side, and the sizes of the pictures."""
    table = Table(title="Data version")
    for name in ("side", "images", "SKUs", "images a SKU (min / median / max)", "short side, px (median)"):
        table.add_column(name, justify="left" if name == "side" else "right")
    for side, rows in manifest.groupby("side"):
        counts = rows.groupby("sku").size()
        short = rows[["width", "height"]].min(axis=1).median()
        spread = f"{counts.min()} / {counts.median():.0f} / {counts.max()}"
        table.add_row(str(side), f"{len(rows):,}", f"{counts.size:,}", spread, f"{short:.0f}")
    return table
