"""Terminal views of a data version, and of the changes by an import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table
from rich.text import Text

from skumatch.data.delivery.changes import PictureChanges
from skumatch.data.delivery.importer import Imported
from skumatch.data.delivery.layout import CATALOGUE, SIDES
from skumatch.data.images import REASONS
from skumatch.data.quarantine import set_aside
from skumatch.texts import counted, first_of

FEW = 5
MANY = 20


def import_lines(imported: Imported, path: Path, version: str) -> Iterator[str]:
    """Yield sentences on an import, one a line.

    Args:
        imported: Result of the import.
        path: The delivery.
        version: MD5 of the data version.
    """
    repaired = f"; names repaired: {', '.join(imported.repaired)}" if imported.repaired else ""
    yield f"Edition: {imported.edition}{repaired}."
    news = "" if imported.changed else ", unchanged"
    aside = f", {len(imported.quarantined):,} set aside" if imported.quarantined else ""
    junk = f", {counted(sum(imported.junk.values()), 'other file')} left out" if imported.junk else ""
    name = version.removesuffix(".dir")[:12]
    content = f"{counted(imported.images, 'image')} of {counted(imported.skus, 'SKU')}"
    yield f"Data version {name}{news}: {content} from {path}{aside}{junk}."
    yield from left_out_lines(imported.quarantined, imported.junk)
    if imported.catalogue:
        only = (
            f", {imported.catalogue_only:,} of them of SKUs with no other image"
            if imported.catalogue_only
            else ""
        )
        yield f"Catalogue pictures: {imported.catalogue:,}{only}."


def left_out_lines(quarantined: Sequence[Mapping[str, str]], junk: Mapping[str, int]) -> Iterator[str]:
    """Yield sentences on pictures set aside by reason, and files left out by kind."""
    if quarantined:
        by_reason = _counts(Counter(entry["reason"] for entry in quarantined))
        yield f"Set aside: {by_reason}; `skumatch data inspect` lists them."
    if junk:
        yield f"Left out: {_counts(Counter(junk))}."


def change_lines(changes: PictureChanges | None) -> Iterator[str]:
    """Yield the changes against the earlier version, one kind a line; nothing if there was none."""
    if changes is None:
        return
    kinds = (
        ("images added", changes.added),
        ("images removed", changes.removed),
        ("images relabelled", changes.relabelled),
        ("images moved", changes.moved),
        ("SKUs added", changes.skus_added),
        ("SKUs removed", changes.skus_removed),
    )
    if not changes:
        yield "Against the version that was here: no image changed."
        return
    yield "Against the version that was here:"
    yield from (f"  {kind}: {len(names):,} ({some(names)})" for kind, names in kinds if names)


def some(names: Sequence[str]) -> str:
    """Return the first FEW names, and the number of the others."""
    return first_of(names, FEW)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def side_table(manifest: pd.DataFrame, others: Collection[str]) -> Table:
    """Return a table of each side: images, SKUs, the largest SKU, and the size of the pictures.

    Args:
        manifest: the data version's rows.
        others: the catch-all classes; they count as images only, since they are no SKUs.
    """
    table = Table(title="Data version")
    for name in (
        "side",
        "images",
        "SKUs",
        "a SKU (min / median / max)",
        "largest SKU",
        "median short side, px",
    ):
        table.add_column(name, justify="left" if name in ("side", "largest SKU") else "right")
    for side in (*SIDES, CATALOGUE):
        rows = manifest[manifest["side"].eq(side)]
        if len(rows):
            counts = rows[~rows["sku"].isin(list(others))].groupby("sku").size()
            short = rows[["width", "height"]].min(axis=1).median()
            spread, largest = "-", "-"
            if len(counts):
                spread = f"{counts.min()} / {counts.median():.0f} / {counts.max()}"
                largest = str(counts.idxmax())
            table.add_row(side, f"{len(rows):,}", f"{counts.size:,}", spread, Text(largest), f"{short:.0f}")
    return table


def quarantine_table(quarantined: list[dict[str, str]]) -> Table:
    """Return a table of the reasons, each with its meaning, number of images and first MANY ids."""
    table = Table(title=f"Set aside: {counted(len(quarantined), 'image')}", show_lines=True)
    table.add_column("reason", max_width=32)
    table.add_column("images", justify="right")
    table.add_column("which", overflow="fold")
    for reason, ids in set_aside(quarantined).items():
        more = [f"and {len(ids) - MANY:,} more, in data/import.json"] if len(ids) > MANY else []
        meaning = Text(reason, "bold").append(f"\n{REASONS.get(reason, '')}", "dim")
        table.add_row(meaning, f"{len(ids):,}", Text("\n".join([*ids[:MANY], *more])))
    return table
