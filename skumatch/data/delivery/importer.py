"""The import of a delivery as a data version: shards of original bytes, a manifest, and a quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from skumatch.data.delivery.archives import open_source
from skumatch.data.delivery.changes import COMPARED, PictureChanges, compare
from skumatch.data.delivery.examine import FACTS_VERSION
from skumatch.data.delivery.folders import catalogue_items
from skumatch.data.delivery.known import COLUMNS, Examination
from skumatch.data.delivery.layout import DeliveredImage
from skumatch.data.delivery.names import check_spelling, chosen
from skumatch.data.delivery.replace import aside, exclusive, swap
from skumatch.data.delivery.rows import Rows
from skumatch.data.delivery.source import Source
from skumatch.data.manifest import SCHEMA
from skumatch.data.products import FILE, named_here, write_products
from skumatch.data.quarantine import QUARANTINE
from skumatch.data.shards import STORED, ShardStore
from skumatch.errors import DataError, StorageError
from skumatch.files import read_json, write_json, write_table
from skumatch.texts import alike

FORMAT = "skumatch-data-2"
COUNTS = ("images", "skus", "junk", "quarantined", "catalogue", "catalogue_only")


@dataclass(frozen=True)
class Imported:
    """Result of an import.

    Attributes:
        images: number of images in the version.
        skus: number of SKUs on the train or test side.
        junk: number of files left out, by kind.
        quarantined: id, reason and sentence of each image that can't be used.
        changed: False if the version at `root` was the same and stayed.
        edition: title of the delivery's edition.
        repaired: kinds of garbled names that were repaired, as `names.repair` calls them.
        catalogue: number of catalogue pictures.
        catalogue_only: number of SKUs that have a catalogue picture only.
        changes: differences from the version before; None if there was none to compare with.
    """

    images: int
    skus: int
    junk: dict[str, int]
    quarantined: list[dict[str, str]]
    changed: bool
    edition: str
    repaired: list[str]
    catalogue: int
    catalogue_only: int
    changes: PictureChanges | None


def import_data(
    path: Path,
    root: Path,
    skus: Mapping[str, str] | None = None,
    min_short_side: int = 32,
    catalogue: Path | None = None,
    erased: Collection[str] = (),
) -> Imported:
    """Import a delivery as the data version at `root`, replacing the one that is there.

    Shards of that version are kept where all their images are wanted again.

    Args:
        path: a folder or zip.
        root: the data version's folder; it stays unchanged if the import fails.
        skus: the only SKUs to take -> file and line that name it, for errors; None takes all.
        min_short_side: pixels; smaller images are quarantined as `tiny`.
        catalogue: a folder of pictures named <sku>.<ext>.
        erased: SHA-256, of bytes or pixels, of pictures that were erased; they are left out.

    Returns:
        Counts of the new version, and its differences from the version before.

    Raises:
        DataError: the delivery can't be used.
        StorageError: the disk refuses.
    """
    try:
        with exclusive(root), aside(root) as folder, Examination(root) as examination:
            delivered = _deliver(
                path,
                root,
                folder,
                skus,
                min_short_side=min_short_side,
                catalogue=catalogue,
                erased=erased,
                examination=examination,
            )
            old, new = _manifest(root, COMPARED), pq.read_table(folder / "manifest.parquet", columns=COMPARED)
            changes = None if old is None else compare(old, new)
            changed = delivered.stored or not _same(folder, root)
            if changed:
                swap(folder, root)
    except OSError as error:
        raise StorageError(
            f"Could not write {root}: {error.strerror or error}; free some space, then import again."
        ) from error
    counts = {name: delivered.summary[name] for name in COUNTS}
    return Imported(
        **counts, changed=changed, edition=delivered.edition, repaired=delivered.repaired, changes=changes
    )


class Delivered(NamedTuple):
    """A data version that was written beside the one at `root`, before it takes its place.

    Attributes:
        summary: the content of import.json.
        edition: title of the delivery's edition.
        repaired: kinds of garbled names that were repaired.
        stored: True if any image's bytes were written to a new shard.
    """

    summary: dict[str, Any]
    edition: str
    repaired: list[str]
    stored: bool


def _deliver(
    path: Path,
    root: Path,
    folder: Path,
    skus: Mapping[str, str] | None,
    min_short_side: int,
    catalogue: Path | None,
    erased: Collection[str],
    examination: Examination,
) -> Delivered:
    with open_source(path) as source:
        items = _wanted(with_catalogue(source, catalogue, path), skus, path)
        known = _manifest(root, STORED)
        store = ShardStore(root, SCHEMA.empty_table() if known is None else known, folder / "shards")
        summary = _write(
            source,
            items,
            store,
            folder,
            path,
            min_short_side=min_short_side,
            erased=erased,
            examination=examination,
            manifest=_with_facts(root),
        )
        return Delivered(summary, source.edition, sorted(source.repaired), bool(store.writer.names))


def with_catalogue(source: Source, folder: Path | None, path: Path) -> list[DeliveredImage]:
    """Return the delivery's items and those of a folder of catalogue pictures, in order of id.

    Files of the folder that are no pictures are counted in `source.junk`.

    Args:
        source: the delivery.
        folder: the catalogue pictures, named <sku>.<ext>; None for none.
        path: the delivery's path, for the sentence of an error.

    Raises:
        DataError: for a folder that can't be used, two files with one id, or two SKUs that are spelt alike.
    """
    if folder is None:
        return source.items
    pictures, junk = catalogue_items(folder)
    source.junk.update(junk)
    ids = Counter(item.id for item in [*source.items, *pictures])
    twice = sorted(name for name, count in ids.items() if count > 1)
    if twice:
        raise DataError(f"Two files of {path} and {folder} are both {twice[0]}; remove one and import again.")
    check_spelling({item.sku for item in [*source.items, *pictures]}, path)
    return sorted([*source.items, *pictures], key=lambda item: item.id)


def _wanted(items: list[DeliveredImage], skus: Mapping[str, str] | None, path: Path) -> list[DeliveredImage]:
    if skus is None:
        return items
    wanted = chosen(skus, {item.sku for item in items}, path)
    return [item for item in items if item.sku in wanted]


def _manifest(root: Path, columns: list[str]) -> pa.Table | None:
    """Read columns of the manifest at `root`; None for no version, a damaged one or another format."""
    try:
        same_format = read_json(root / "import.json")["format"] == FORMAT
        return pq.read_table(root / "manifest.parquet", columns=columns) if same_format else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):  # pyarrow's errors are ValueErrors
        return None


def _with_facts(root: Path) -> pa.Table | None:
    """Read the manifest at `root`; None if its facts are of another FACTS_VERSION than this code's."""
    manifest = _manifest(root, COLUMNS.names)
    if manifest is None or read_json(root / "import.json").get("facts", 1) != FACTS_VERSION:
        return None
    return manifest


def _write(
    source: Source,
    items: list[DeliveredImage],
    store: ShardStore,
    folder: Path,
    path: Path,
    min_short_side: int,
    erased: Collection[str],
    examination: Examination,
    manifest: pa.Table | None,
) -> dict[str, Any]:
    rows = Rows()
    try:
        usable = examination.usable(source, items, min_short_side, erased, manifest, "import")
        for item, data, facts in usable:
            rows.add(item, len(data), facts, store.put(facts.sha256, facts.format, data))
        rows.require_sides(path, examination.quarantined)
        table = rows.table(*store.settle())
    finally:
        store.writer.abandon()
    write_table(folder / "manifest.parquet", table)
    skus = sorted({item.sku for item in items})
    if source.products is not None:
        write_products(folder, named_here(source.products, skus))
    groups = {sku: source.groups[alike(sku)] for sku in skus if alike(sku) in source.groups}
    counts = {**rows.counts(), "junk": dict(sorted(source.junk.items()))}
    summary = {
        "format": FORMAT,
        "facts": FACTS_VERSION,
        **counts,
        "quarantined": examination.quarantined,
        "groups": groups,
    }
    write_json(folder / "import.json", summary)
    write_json(folder / QUARANTINE, examination.pictures.found)
    return summary


def _same(folder: Path, root: Path) -> bool:
    # The shards need no comparison: the manifest has the hash, shard, offset and length of every image, and
    # a shard's name is a hash of its members.
    names = ("manifest.parquet", "import.json", QUARANTINE, FILE)
    return all(_bytes(root / name) == _bytes(folder / name) for name in names)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
