"""`skumatch data`: import, sample and inspect; data_changes.py has the commands that change a version."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skumatch.commands.cleanup import erase
from skumatch.commands.data_changes import add, log, relabel, remove, rename, retire, undo
from skumatch.commands.data_view import change_lines, import_lines, quarantine_table, side_table
from skumatch.commands.options import renamed
from skumatch.config import PARAMS, Settings, check_places, load_params, require_project, user
from skumatch.config import settings as current_settings
from skumatch.data.delivery.importer import import_data
from skumatch.data.delivery.replace import exclusive
from skumatch.data.manifest import read_manifest
from skumatch.data.products import read_products, retired
from skumatch.files import read_json
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.data_record import DataRecord
from skumatch.pipeline.data_versions import Reason, begin_import, settle
from skumatch.pipeline.inputs import data_pointer
from skumatch.pipeline.repository import Repository, md5_of
from skumatch.texts import counted, read_names

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Import data, change it, and look at it.")
console = Console()

Delivery = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A folder or zip in RP2K's layout; the whole data set, not only what is new.",
    ),
]
SkuFile = Annotated[
    Path | None,
    typer.Option("--skus", metavar="FILE", help="Only the SKUs in this text file, one a line."),
]
Catalogue = Annotated[
    Path | None,
    typer.Option(
        "--catalogue",
        metavar="FOLDER",
        help="A folder of catalogue pictures, <sku>.<ext>: a second gallery.",
    ),
]


@app.command("import")
def import_(path: Delivery, skus: SkuFile = None, catalogue: Catalogue = None) -> None:
    """Make a data version of a delivery: shards, manifest, quarantine list; stored in the DVC remote.

    Example: `skumatch data import photos.zip --catalogue catalogue`
    """
    _announce(lambda: import_and_store(path, skus, catalogue))


@app.command()
def sample(
    products: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default="24", help="Products to render.")
    ] = None,
    skus: Annotated[int | None, typer.Option(min=1, hidden=True, help="Earlier name of --products.")] = None,
    train: Annotated[int, typer.Option(metavar="N", min=0, help="Gallery photos of each product.")] = 10,
    test: Annotated[int, typer.Option(metavar="N", min=0, help="Query photos of each product.")] = 5,
) -> None:
    """Render a deterministic set of shelf photos and import it: nothing is downloaded."""
    count = renamed(skus, products, "--skus", "--products") or 24
    _announce(lambda: render_and_store(count, train, test))


def render_and_store(skus: int = 24, train: int = 10, test: int = 5) -> str:
    """Render the sample and import it, as `import_and_store` does.

    Args:
        skus: Number of products.
        train: Gallery photos of each product.
        test: Query photos of each product.

    Returns:
        The data version's MD5.
    """
    from skumatch.data.sample import render_sample

    settings = current_settings()
    check_places(settings)
    load_params(settings.project / PARAMS)  # before anything is rendered
    folder = settings.home_dir / f"sample-{skus}-{train}-{test}"
    render_sample(folder, skus, train, test)
    return import_and_store(folder)


@app.command()
def inspect() -> None:
    """Show the current data version, and the pictures that were set aside."""
    project = current_settings().project
    require_project(project)
    root = project / "data"
    manifest, summary = read_manifest(root), read_json(root / "import.json")
    console.print(side_table(manifest, load_params(project / PARAMS).data.others))
    if summary["quarantined"]:
        console.print(quarantine_table(summary["quarantined"]))
    if retired_skus := sorted(retired(read_products(root))):
        words = f"Retired products: {len(retired_skus):,} ({', '.join(retired_skus)})."
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    if summary["junk"]:
        left = ", ".join(f"{kind} {count:,}" for kind, count in summary["junk"].items())
        console.print(f"Other files, left out: {left}.", highlight=False, soft_wrap=True)


@app.command()
def push() -> None:
    """Send the files of data.dvc's version that the DVC remote lacks, from this machine's cache."""
    settings = current_settings()
    check_places(settings)
    require_project(settings.project)
    pointer = data_pointer(settings.project, None)
    version = md5_of(pointer).removesuffix(".dir")[:12]
    with at_work(settings, f"push-{uuid.uuid4().hex[:12]}", "push", lock=pointer):
        sent = Repository(settings.project, settings).restore("data")
    outcome = f"the remote lacked {sent:,} objects and has them now" if sent else "the remote lacked nothing"
    console.print(f"Data version {version}: {outcome}.", highlight=False, soft_wrap=True)


for command in (add, retire, relabel, rename, remove, erase, undo, log):
    app.command()(command)


def import_and_store(path: Path, skus: Path | None = None, catalogue: Path | None = None) -> str:
    """Import a delivery, put it under DVC, and print its contents.

    Args:
        path: A folder or zip in RP2K's layout.
        skus: A file that lists the only SKUs to import, one a line.
        catalogue: A folder of catalogue pictures.

    Returns:
        The data version's MD5.

    Raises:
        DataError: The delivery can't be used.
        StorageError: The disk or the remote refuses.
    """
    settings = current_settings()
    check_places(settings)
    params = load_params(settings.project / PARAMS)
    names = read_names(skus) if skus else None
    _tell_of_absent_version(settings)
    with exclusive(settings.project / "data"):
        before = _pointer_here(settings)
        settle(settings)
        erased = DataRecord(settings).erased()
        min_short_side = params.validation.min_short_side
        imported = import_data(path, settings.project / "data", names, min_short_side, catalogue, erased)
        begin_import(
            settings,
            before,
            Reason(user(), source=str(path)),
            f"{counted(imported.images, 'image')} of {counted(imported.skus, 'SKU')}",
        )
        after = _store(settings)
        settle(settings)
    version = md5_of(after)
    for line in (*import_lines(imported, path, version), *change_lines(imported.changes)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return version


def _announce(store: Callable[[], str]) -> None:
    """Make a data version with `store`; if it is new, tell Airflow and print the outcome."""
    from skumatch.servers.new_data import announce

    settings = current_settings()
    before = _pointer_here(settings)
    version = store()
    if version == (md5_of(before) if before else None):
        return
    if sentence := announce(settings, load_params(settings.project / PARAMS).schedule, version):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _pointer_here(settings: Settings) -> str:
    """Return the text of data.dvc; empty if there is no such file.

    Raises:
        DataError: The file is no pointer.
    """
    if not (settings.project / "data.dvc").is_file():
        return ""
    pointer = data_pointer(settings.project, None)
    md5_of(pointer)
    return pointer


def _store(settings: Settings) -> str:
    """Put data/ under DVC and return its pointer.

    A claim keeps clean-ups from deleting old objects that the new version shares.
    """
    with at_work(settings, f"import-{uuid.uuid4().hex[:12]}", "import") as rest_on:
        pointer = Repository(settings.project, settings).add("data")
        rest_on("", pointer)
    return pointer


def _tell_of_absent_version(settings: Settings) -> None:
    if (settings.project / "data.dvc").is_file() and not (settings.project / "data").exists():
        sentence = (
            "data.dvc names a version that is not in data/, so all is stored anew; "
            "`dvc pull data.dvc` first would add to it."
        )
        console.print(sentence, highlight=False, soft_wrap=True)
