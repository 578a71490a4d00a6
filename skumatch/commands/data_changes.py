"""`skumatch data add | retire | relabel | rename | remove | undo | log`: changes of the last data version."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skumatch.commands.data_view import change_lines, left_out_lines, some
from skumatch.commands.options import completed, flag, renamed
from skumatch.config import PARAMS, Settings, check_places, load_params, require_project, user
from skumatch.config import settings as current_settings
from skumatch.data import deltas
from skumatch.data.delivery.additions import add as add_delivery
from skumatch.data.delivery.tables import read_csv
from skumatch.data.products import day
from skumatch.data.shards import ShardStore
from skumatch.data.version import Make, Version
from skumatch.errors import DataError, ParameterError
from skumatch.pipeline import data_versions
from skumatch.pipeline.data_record import Action, DataRecord
from skumatch.pipeline.data_versions import Changed, Reason
from skumatch.pipeline.inputs import data_pointer
from skumatch.pipeline.repository import md5_of
from skumatch.servers.new_data import announce
from skumatch.texts import read_bytes, read_names

console = Console()
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, kept in the record.")]
SkuFile = Annotated[
    Path | None, typer.Option("--skus", metavar="FILE", help="The SKUs in this text file, one a line.")
]
EarlierFile = Annotated[Path | None, typer.Option("--file", hidden=True, help="Earlier name of the list.")]
Skus = Annotated[
    list[str] | None,
    typer.Argument(metavar="SKU", help="Products, in any spelling of case and blanks."),
]
Delivery = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A folder or zip of new pictures: all/<side>/<sku>/<image>, or <sku>/<image>.",
    ),
]
Side = Annotated[
    str,
    typer.Option(
        metavar="SIDE",
        autocompletion=completed("train", "test"),
        help="Where pictures in <sku>/<image> go: train (to match against) or test (to ask).",
    ),
]
Catalogue = Annotated[
    Path | None,
    typer.Option("--catalogue", metavar="FOLDER", help="A folder of catalogue pictures, <sku>.<ext>."),
]
DAY = "YYYY-MM-DD"


def add(delivery: Delivery, side: Side = "train", catalogue: Catalogue = None, why: Why = "") -> None:
    """Add a delivery of new pictures to the data; present pictures stay and aren't read."""
    if side not in ("train", "test"):
        raise ParameterError(f"--side is '{side}'; write train or test.")

    settings = _in_project()
    min_short_side = load_params(settings.project / PARAMS).validation.min_short_side
    erased = DataRecord(settings).erased()
    quarantined, junk = list[dict[str, str]](), dict[str, int]()

    def make(version: Version, store: ShardStore) -> Version:
        added = add_delivery(version, delivery, store, side, min_short_side, catalogue, erased)
        before = version.summary["quarantined"]
        quarantined.extend(entry for entry in added.summary["quarantined"] if entry not in before)
        junk.update(added.summary["junk"])
        return added

    change_data("add", make, why, str(delivery))
    for line in left_out_lines(quarantined, junk):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def retire(
    skus: Skus = None,
    file: SkuFile = None,
    earlier_file: EarlierFile = None,
    until: Annotated[str, typer.Option(metavar=DAY, help="The last day of sale.")] = "",
    back: Annotated[bool, flag("--back", "The other way: retired products are sold again.")] = False,
    why: Why = "",
) -> None:
    """Retire products: after the next refresh no answer names them, and their photos count as unknown.

    Example: `skumatch data retire --skus delisted.txt --until 2026-11-30`
    """
    file = renamed(earlier_file, file, "--file", "--skus")
    names = _names(skus, file)
    if back and until:
        raise ParameterError("--until goes with products that are retired, not with --back; leave one out.")
    if back:
        change_data("bring back", lambda version, _: deltas.bring_back(version, names), why, str(file or ""))
    else:
        change_data("retire", lambda version, _: deltas.retire(version, names, until), why, str(file or ""))


def relabel(
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="A CSV with the columns image (an id or a SHA-256) and sku."),
    ],
    why: Why = "",
) -> None:
    """Give pictures other SKUs, also to split a product into several."""
    _in_project()
    labels = read_csv(read_bytes(table, "a CSV with the columns image and sku"), str(table), "correct it")
    if not {"image", "sku"} <= set(labels.columns):
        listed = ", ".join(map(str, labels.columns[:8]))
        raise DataError(f"{table} lacks a column image or sku (it has: {listed}); correct it.")
    change_data("relabel", lambda version, _: deltas.relabel(version, labels, str(table)), why, str(table))


def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A product.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    merge: Annotated[bool, flag("--merge", "Join it to the product that has this name already.")] = False,
    why: Why = "",
) -> None:
    """Give a product another name; it stays in or out of training as it was."""
    change_data("rename", lambda version, _: deltas.rename(version, old, new, merge), why)


def remove(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="Pictures: ids or SHA-256 of manifest rows."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--images", metavar="FILE", help="The pictures in this text file, one a line."),
    ] = None,
    earlier_file: EarlierFile = None,
    sku: Annotated[
        list[str] | None,
        typer.Option("--sku", metavar="SKU", help="With --before: a product with new packaging; repeatable."),
    ] = None,
    before: Annotated[
        str,
        typer.Option(metavar=DAY, help="With --sku: gallery pictures that were there on this day."),
    ] = "",
    why: Why = "",
) -> None:
    """Take pictures out of the data, by name, or a product's old ones; earlier versions keep them.

    Example: `skumatch data remove --sku "Cola Classic 1 L" --before 2026-11-30`
    """
    file = renamed(earlier_file, file, "--file", "--images")
    if bool(sku) != bool(before) or sum(map(bool, (images, file, sku))) != 1:
        raise ParameterError(
            "Name pictures, or a file that lists them with --images, or a product with --sku and --before."
        )
    if sku:
        known = data_versions.pictures_on(
            _in_project(), date.fromisoformat(day(before, "The day of --before"))
        )
        names = dict.fromkeys(sku, "the command")
        change_data(
            "remove",
            lambda version, _: deltas.remove(version, deltas.older_gallery(version, names, known)),
            why,
        )
        return
    listed = read_names(file) if file else dict.fromkeys(images or [], "the command")
    change_data(
        "remove",
        lambda version, _: deltas.remove(version, deltas.ids_of(version, listed)),
        why,
        str(file or ""),
    )


def undo(why: Why = "") -> None:
    """Go back to the data version before the last change."""
    settings = _in_project()
    _say(data_versions.undo(settings, Reason(user(), why)))


def log() -> None:
    """Show who changed the data when, why and how, newest first."""
    settings = current_settings()
    require_project(settings.project)
    version = md5_of(data_pointer(settings.project, None))
    table = Table(title="Changes of the data, newest first")
    for name in ("version", "when (UTC)", "action", "what", "who", "why"):
        table.add_column(name, overflow="fold")
    for change in DataRecord(settings).chain(version):
        when = f"{change.when:%Y-%m-%d %H:%M}"
        source = f"\nfrom {change.source}" if change.source else ""
        table.add_row(
            change.after[:12],
            when,
            change.action,
            Text(change.summary + source),
            Text(change.who),
            Text(change.why),
        )
    if not table.row_count:
        console.print(
            "No change that led to this data version is on record; "
            "`skumatch data import` and the like record theirs."
        )
        return
    console.print(table)


def change_data(
    action: Action,
    make: Make,
    why: str,
    source: str = "",
    erased: Mapping[str, str] | None = None,
    undone: bool = True,
) -> Changed:
    """Change the data, print the outcome, and tell Airflow of the new version.

    Args:
        action: Name of the change in the record.
        make: Returns the next version from the current one.
        why: Reason, kept in the record.
        source: Delivery or table that the change comes from.
        erased: SHA-256 of the bytes of each picture that is erased -> SHA-256 of its pixels.
        undone: Whether the change can be undone.

    Raises:
        ParameterError: The folder is no project, or its parameters are wrong.
    """
    settings = _in_project()
    params = load_params(settings.project / PARAMS)
    reason = Reason(user(), why, source)
    changed = data_versions.change(settings, action, make, reason, params.data.others, erased)
    _say(changed, undone)
    return changed


def _say(changed: Changed, undone: bool = True) -> None:
    if not changed.changed:
        console.print(f"Data version {changed.version}: nothing changed.", highlight=False)
        return
    console.print(f"Data version {changed.version}, after {changed.before[:12]}.", highlight=False)
    for line in change_lines(changed.pictures) if changed.pictures else ():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for kind, skus in (("retired", changed.retired), ("sold again", changed.back)):
        if skus:
            console.print(
                f"  products {kind}: {len(skus):,} ({some(skus)})",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    settings = current_settings()
    back = "; `skumatch data undo` goes back." if undone else ". It can't be undone."
    console.print(f"Commit data.dvc to keep this version{back}", highlight=False, soft_wrap=True)
    if sentence := announce(settings, load_params(settings.project / PARAMS).schedule, changed.after):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _names(skus: list[str] | None, file: Path | None) -> dict[str, str]:
    """Return product names, each with its place in the file.

    Raises:
        ParameterError: No names are given, or names and a file.
    """
    if bool(skus) == bool(file):
        raise ParameterError("Name products, or a file that lists them with --skus; one of the two.")
    return read_names(file) if file else dict.fromkeys(skus or [], "the command")


def _in_project() -> Settings:
    """Return this machine's settings; raise ParameterError outside a project, or for places that can't be."""
    settings = current_settings()
    require_project(settings.project)
    check_places(settings)
    return settings
