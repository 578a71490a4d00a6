"""Recognition of a delivery's edition, one of RP2K's or the plain layout, which decides each file's place."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skumatch.data.delivery.layout import NO_IMAGE, SIDES, DeliveredFile, Locate, Place, locate, locate_in
from skumatch.data.delivery.tables import read_csv
from skumatch.errors import DataError
from skumatch.progress import track
from skumatch.texts import composed, counted

PUBLISHED_BYTES = 6_330_687_649
PUBLISHED_SHA256 = "4c32449993e720285865405c3b46d2958cb36f33a9d7db6c3d70bde49d580205"
CATCH_ALL = "1331"  # the class `others` in the renumbered edition
SIDE_NAMES = {"train": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}
COLUMNS = {
    "path": (
        "image_path",
        "path",
        "file_path",
        "filepath",
        "img_path",
        "image",
        "file",
        "filename",
        "file_name",
    ),
    "class": ("instance_id", "class", "class_name", "label", "category", "sku", "name"),
    "split": ("split", "subset", "set", "side"),
}


@dataclass(frozen=True)
class Edition:
    """The edition of a delivery.

    Attributes:
        title: its name, for people.
        find: returns the place (side, SKU, file name) of a file's path; None for a file outside the layout.
    """

    title: str
    find: Locate


def recognise(
    files: Sequence[DeliveredFile], where: Path, read: Callable[[Any], bytes], side: str = ""
) -> Edition:
    """Recognise the edition by the files' names, a meta.csv, and for RP2K's own zip its size and SHA-256.

    Args:
        files: the delivery's files, with their `kind` set.
        where: the delivery's path.
        read: returns the bytes of a table, given its `source`.
        side: the side of pictures in `<sku>/<image>` without `all/`; empty if these are outside the layout.

    Raises:
        DataError: for a meta.csv that can't be used.
    """
    if any(locate(file.name.split("/")) for file in files):
        meta = _meta_file(files)
        if meta:
            return Kaggle(_read_meta(read(meta.source), f"{where}: {meta.name}"), files).edition
        return Edition(plain_title(where), locate)
    if side:
        return Edition(f"folders of SKUs, on the {side} side", locate_in(side))
    classes = {parts[-2] for parts in map(_parts, files) if _renumbered(parts)}
    if CATCH_ALL in classes:
        return Edition(f"RP2K, renumbered (val is the test side, class {CATCH_ALL} is `others`)", _renumbered)
    return Edition(plain_title(where), locate)


def plain_title(path: Path) -> str:
    """Return the title of a plain delivery; the published zip is recognised by its size and SHA-256."""
    if not path.is_file() or path.stat().st_size != PUBLISHED_BYTES:
        return "plain RP2K layout"
    if _sha256(path) == PUBLISHED_SHA256:
        return "RP2K as published (SHA-256 verified)"
    return (
        "plain RP2K layout (as large as the published RP2K zip, but its SHA-256 differs: it may be damaged)"
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream, track("hash", path.stat().st_size, "bytes") as advance:
        while block := stream.read(1 << 22):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _parts(file: DeliveredFile) -> list[str]:
    return file.name.split("/")


def _renumbered(parts: list[str]) -> Place | None:
    """Return the place of `<train|val>/<number>/<image>`; None for any other path."""
    if len(parts) < 3 or parts[-3] not in SIDE_NAMES or not (parts[-2].isascii() and parts[-2].isdigit()):
        return None
    return SIDE_NAMES[parts[-3]], "others" if parts[-2] == CATCH_ALL else parts[-2], parts[-1]


def _meta_file(files: Sequence[DeliveredFile]) -> DeliveredFile | None:
    """Return the uppermost meta.csv, if images lie below its folder."""
    tables = [file for file in files if _parts(file)[-1] == "meta.csv" and file.kind == NO_IMAGE]
    top = min(tables, key=lambda file: file.name.count("/"), default=None)
    if top is None:
        return None
    above = top.name.removesuffix("meta.csv")
    below = any(file.name.startswith(above) and locate(_parts(file)) for file in files)
    return top if below else None


def _read_meta(data: bytes, where: str) -> pd.DataFrame:
    """Read a meta.csv.

    Returns:
        Columns side, folder, name and sku; side is empty if it is unknown.

    Raises:
        DataError: if the table can't be read or has no column for path or class.
    """
    table = read_csv(data, where, "remove it to go by folder names")
    columns = {key: next((name for name in names if name in table), None) for key, names in COLUMNS.items()}
    if columns["path"] is None or columns["class"] is None:
        present = ", ".join(map(str, table.columns[:8]))
        raise DataError(
            f"{where} has no column for the images' path and class (found: {present}); "
            "remove it to go by folder names."
        )
    paths = [composed(path.replace("\\", "/")).split("/") for path in table[columns["path"]]]
    sides = (
        table[columns["split"]]
        if columns["split"] is not None
        else [parts[-3] if len(parts) > 2 else "" for parts in paths]
    )
    return pd.DataFrame(
        {
            "side": [SIDE_NAMES.get(str(side).strip().lower(), "") for side in sides],
            "folder": [parts[-2] if len(parts) > 1 else "" for parts in paths],
            "name": [parts[-1] for parts in paths],
            "sku": [composed(name.strip()) for name in table[columns["class"]]],
        }
    )


class Kaggle:
    """A tree with a meta.csv that has the class of each image.

    The table restores folder names that were lost in unpacking.

    Attributes:
        by_path: (folder, file name) -> (side, SKU), by the table's rows.
        by_folder: (side, folder) -> SKU, for images that the table doesn't have by path.
        edition: the delivery's edition.
    """

    def __init__(self, meta: pd.DataFrame, files: Sequence[DeliveredFile]) -> None:
        rows = [
            row for row in meta.itertuples(index=False, name=None) if row[0] and row[3] and "/" not in row[3]
        ]
        self.by_path = {(folder, name): (side, sku) for side, folder, name, sku in rows}
        places = [place for place in (locate(_parts(file)) for file in files if not file.kind) if place]
        missing = len(self.by_path.keys() - {place[1:] for place in places})
        self.by_folder = self._votes(rows, places)
        lost = f", {missing:,} of its images not found by path" if missing else ""
        self.edition = Edition(f"RP2K from Kaggle (meta.csv: {counted(len(meta), 'row')}{lost})", self.find)

    def find(self, parts: list[str]) -> Place | None:
        """Return the place of a path: by the table's row, else by its folder's class, else by its folder."""
        place = locate(parts)
        if place is None or place[0] not in SIDES:
            return place
        side, folder, name = place
        side_and_sku = self.by_path.get((folder, name))
        if side_and_sku:
            return (*side_and_sku, name)
        return side, self.by_folder.get((side, folder), folder), name

    @staticmethod
    def _votes(rows: list[tuple[str, str, str, str]], places: list[Place]) -> dict[tuple[str, str], str]:
        """Return the class of each folder, by a vote of the rows with its files' names.

        A row votes for its class. The class with most votes wins, if they are over half the folder's files.
        """
        named: dict[tuple[str, str], set[str]] = defaultdict(set)
        for side, _, name, sku in rows:
            named[side, name].add(sku)
        votes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for side, folder, name in places:
            votes[side, folder].update(named.get((side, name), ()))
            votes[side, folder][""] += 1  # number of the folder's files, in the table or not
        winners = {
            key: max(counts, key=lambda sku: (sku != "", counts[sku], sku)) for key, counts in votes.items()
        }
        return {key: sku for key, sku in winners.items() if sku and 2 * votes[key][sku] > votes[key][""]}
