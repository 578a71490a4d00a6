"""How a data version and what an import changed look in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table
from rich.text import Text

from skumatch.data.delivery.changes import Changes
from skumatch.data.delivery.importer import Imported
from skumatch.data.delivery.layout import CATALOGUE, SIDES
from skumatch.data.images import REASONS
from skumatch.data.quarantine import set_aside

FEW = 5
MANY = 20


def import_lines(found: Imported, path: Path, version: str) -> Iterator[str]:
    """What an import found, a sentence a line."""
    repaired = f"; names repaired: {', '.join(found.repaired)}" if found.repaired else ""
    yield f"Edition: {found.edition}{repaired}."
    news = "" if found.changed else ", unchanged"
    aside = f", {len(found.quarantined):,} set aside" if found.quarantined else ""
    junk = f", {sum(found.junk.values()):,} other files left out" if found.junk else ""
    name = version.removesuffix(".dir")[:12]
    yield f"Data version {name}{news}: {found.images:,} images of {found.skus:,} SKUs from {path}{aside}{junk}."
    yield from left_out_lines(found.quarantined, found.junk)
    if found.catalogue:
        only = f", {found.catalogue_only:,} of them SKUs with no other image" if found.catalogue_only else ""
        yield f"Catalogue pictures: {found.catalogue:,}{only}."


def left_out_lines(quarantined: Sequence[Mapping[str, str]], junk: Mapping[str, int]) -> Iterator[str]:
    """What a delivery has that is not in the data: pictures set aside by reason, and files left out by kind."""
    if quarantined:
        yield f"Set aside: {_counts(Counter(entry['reason'] for entry in quarantined))}; `skumatch data inspect` lists them."
    if junk:
        yield f"Left out: {_counts(Counter(junk))}."


def change_lines(changes: Changes | None) -> Iterator[str]:
    """What changed against the version that was there, a kind a line; nothing where there was none."""
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
    """The first few, and how many more."""
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW:,} more" if len(names) > FEW else "")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def side_table(manifest: pd.DataFrame) -> Table:
    """Images and SKUs on each side, the largest SKU, and the sizes of the pictures."""
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
            counts = rows.groupby("sku").size()
            short = rows[["width", "height"]].min(axis=1).median()
            spread = f"{counts.min()} / {counts.median():.0f} / {counts.max()}"
            table.add_row(
                side, f"{len(rows):,}", f"{counts.size:,}", spread, Text(str(counts.idxmax())), f"{short:.0f}"
            )
    return table


def quarantine_table(quarantined: list[dict[str, str]]) -> Table:
    """Every reason with what it means and its images, the first of them by name."""
    table = Table(title=f"Set aside: {len(quarantined):,} images", show_lines=True)
    table.add_column("reason", max_width=32)
    table.add_column("images", justify="right")
    table.add_column("which", overflow="fold")
    for reason, ids in set_aside(quarantined).items():
        more = [f"and {len(ids) - MANY:,} more, in data/import.json"] if len(ids) > MANY else []
        what = Text(reason, "bold").append(f"\n{REASONS.get(reason, '')}", "dim")
        table.add_row(what, f"{len(ids):,}", Text("\n".join([*ids[:MANY], *more])))
    return table
