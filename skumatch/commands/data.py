"""`skumatch data`: import, sample, inspect."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skumatch.commands.data_view import change_lines, import_lines, quarantine_table, side_table
from skumatch.config import Settings, load_params
from skumatch.config import settings as current_settings
from skumatch.data.delivery.importer import import_data
from skumatch.data.delivery.replace import exclusive
from skumatch.data.manifest import read_manifest
from skumatch.errors import DataError
from skumatch.files import read_json
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.repository import Repository, md5_of

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Import, render or look at a data version.")
console = Console()

Delivery = Annotated[Path, typer.Argument(help="A folder or zip in RP2K's layout; the whole data set, not only what is new.")]
SkuFile = Annotated[Path | None, typer.Option("--skus", help="A text file: only these SKUs, one a line.")]
Catalogue = Annotated[Path | None, typer.Option("--catalogue", help="A folder of catalogue pictures, <sku>.<ext>: a second gallery.")]
Skus = Annotated[int, typer.Option(help="Products to render.")]
Train = Annotated[int, typer.Option(help="Gallery photos a product.")]
Test = Annotated[int, typer.Option(help="Query photos a product.")]


@app.command("import")
def import_(path: Delivery, skus: SkuFile = None, catalogue: Catalogue = None) -> None:
    """Make a data version of PATH: shards, manifest, quarantine list; stored in the DVC remote."""
    import_and_store(path, skus, catalogue)


@app.command()
def sample(skus: Skus = 24, train: Train = 10, test: Test = 5) -> None:
    """Render a deterministic set of shelf photos and import it: nothing is downloaded."""
    from skumatch.data.sample import render_sample

    folder = current_settings().home_dir / f"sample-{skus}-{train}-{test}"
    render_sample(folder, skus, train, test)
    import_and_store(folder)


@app.command()
def inspect() -> None:
    """Show what the current data version holds, and what was set aside."""
    root = current_settings().project / "data"
    manifest, summary = read_manifest(root), read_json(root / "import.json")
    console.print(side_table(manifest))
    if summary["quarantined"]:
        console.print(quarantine_table(summary["quarantined"]))
    if summary["junk"]:
        left = ", ".join(f"{kind} {count:,}" for kind, count in summary["junk"].items())
        console.print(f"Other files, left out: {left}.", highlight=False, soft_wrap=True)


def import_and_store(path: Path, skus: Path | None = None, catalogue: Path | None = None) -> str:
    """Import `path`, put it under DVC, print what was found, and return the data version's hash."""
    settings = current_settings()
    params = load_params(settings.project / "params.yaml")
    _tell_of_absent_version(settings)
    with exclusive(settings.project / "data"):
        found = import_data(path, settings.project / "data", _listed(skus), params.validation.min_short_side, catalogue)
        version = _store(settings)
    for line in (*import_lines(found, path, version), *change_lines(found.changes)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return version


def _store(settings: Settings) -> str:
    """Put data/ under DVC and return its version's hash; a clean-up that deletes would take old objects that the version shares."""
    with at_work(settings, f"import-{uuid.uuid4().hex[:12]}", "import") as rest_on:
        pointer = Repository(settings.project, settings).add("data")
        rest_on("", pointer)
    return md5_of(pointer)


def _tell_of_absent_version(settings: Settings) -> None:
    if (settings.project / "data.dvc").is_file() and not (settings.project / "data").exists():
        sentence = "data.dvc names a version that is not in data/, so all is stored anew; `dvc pull data.dvc` first would add to it."
        console.print(sentence, highlight=False, soft_wrap=True)


def _listed(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    if not path.is_file():
        raise DataError(f"There is no {path}; give a text file with one SKU a line.")
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
