"""Where images come from: a folder or zip in RP2K's layout, `all/<train|test>/<sku>/<image>`."""

from __future__ import annotations

import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from skumatch.data.images import SUFFIXES, Extent, Images
from skumatch.errors import DataError, ImageError

SIDES = ("train", "test")
EXPECTED = "expected all/train/<sku>/<image> and all/test/<sku>/<image>"


@dataclass(frozen=True, order=True)
class Item:
    """One delivered image: its side, SKU and file name, and how its source finds it again."""

    side: str
    sku: str
    name: str
    source: str = field(compare=False)

    @property
    def id(self) -> str:
        return f"{self.side}/{self.sku}/{self.name}"


class Source(Protocol):
    """A delivery: its items in order of id, the junk left out (by kind), and each item's original bytes."""

    items: list[Item]
    junk: Counter[str]

    def read(self, item: Item) -> bytes: ...


def repair(name: str) -> str:
    """Undo CP437 mojibake of UTF-8 zip entries without the UTF-8 flag, and compose accents (NFC)."""
    with suppress(UnicodeError):  # not mojibake: the name is as it was meant
        name = name.encode("cp437").decode("utf-8")
    return unicodedata.normalize("NFC", name)


def junk_kind(path: PurePosixPath) -> str | None:
    """Why a file is no image of the data set: `__MACOSX`, `hidden`, `thumbs` or `not-an-image`; None for images."""
    if "__MACOSX" in path.parts:
        return "__MACOSX"
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    if path.name.lower() in ("thumbs.db", "desktop.ini"):
        return "thumbs"
    return None if path.suffix.lower() in SUFFIXES else "not-an-image"


def arrange(paths: list[tuple[str, PurePosixPath]], where: Path, left_out: Counter[str]) -> tuple[list[Item], Counter[str]]:
    """Sort (source, path) pairs into items and junk, which counts what was left out before too.

    Raises DataError if nothing lies in RP2K's layout, a side is missing, or two files claim one place.
    """
    items: dict[str, Item] = {}
    junk = +left_out
    for source, path in paths:
        kind = junk_kind(path)
        if kind or len(path.parts) < 4 or path.parts[-4] != "all" or path.parts[-3] not in SIDES:
            junk[kind or "outside-the-layout"] += 1
            continue
        item = Item(path.parts[-3], path.parts[-2], path.name, source)
        if item.id in items:
            raise DataError(f"Two files of {where} are both named {item.id}; rename one and import again.")
        items[item.id] = item
    _check_sides(items, junk, where)
    return sorted(items.values()), junk


def _check_sides(items: dict[str, Item], junk: Counter[str], where: Path) -> None:
    if not items and not junk:
        raise DataError(f"{where} is empty; {EXPECTED}.")
    if not items:
        raise DataError(f"{where} is not in RP2K's layout ({junk.total()} other files found); {EXPECTED}.")
    for side in SIDES:
        if not any(item.side == side for item in items.values()):
            what = "gallery images to match against" if side == "train" else "query images, so no model could be judged"
            raise DataError(f"{where} has no {side} side: there are no {what}; add all/{side}/<sku>/<image>.")


class FolderSource:
    """A folder that holds (somewhere above its images) `all/train` and `all/test`."""

    def __init__(self, root: Path) -> None:
        files = sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file())
        names = [(str(path), PurePosixPath(unicodedata.normalize("NFC", path.relative_to(root).as_posix()))) for path in files]
        links = Counter({"link": sum(path.is_symlink() for path in files)})  # what a link points to may change behind the import
        self.items, self.junk = arrange([name for name, path in zip(names, files, strict=True) if not path.is_symlink()], root, links)

    def read(self, item: Item) -> bytes:
        return Extent(item.source).read()


class ZipSource:
    """A zip of such a folder, read entry by entry without unpacking."""

    def __init__(self, archive: zipfile.ZipFile, where: Path) -> None:
        self.archive = archive
        found = []
        for info in archive.infolist():
            if not info.is_dir():
                utf8 = bool(info.flag_bits & 0x800)
                found.append((info.filename, PurePosixPath(unicodedata.normalize("NFC", info.filename) if utf8 else repair(info.filename))))
        self.items, self.junk = arrange(found, where, Counter())

    def read(self, item: Item) -> bytes:
        try:
            return self.archive.read(item.source)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # damaged, cut off, or locked with a password
            raise ImageError("unreadable", "The zip's entry is damaged or locked; deliver it again.") from error


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Yield the delivery at `path`, a folder or a zip. Raises DataError if it is neither, empty, or of another layout."""
    if path.is_dir():
        yield FolderSource(path)
    elif not path.exists():
        raise DataError(f"There is no {path}; give a folder or a zip in RP2K's layout.")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield ZipSource(archive, path)
    else:
        raise DataError(f"{path} is neither a folder nor a zip; give one in RP2K's layout ({EXPECTED}).")


def folder_images(root: Path, side: str, others: tuple[str, ...] = ()) -> Images:
    """One side of a folder in RP2K's layout, as it lies there, without importing; classes in `others` are left out."""
    with open_source(root) as source:
        if not isinstance(source, FolderSource):
            raise DataError(f"{root} is a zip; unpack it, or import it with `skumatch data import`.")
        items = [item for item in source.items if item.side == side and item.sku not in others]
    if not items:
        raise DataError(f"{root} has no images under all/{side}; {EXPECTED}.")
    return Images([i.id for i in items], [i.sku for i in items], [i.name for i in items], [Extent(i.source) for i in items])
