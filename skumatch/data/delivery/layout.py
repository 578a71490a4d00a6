"""RP2K's layout, `all/<train|test|catalogue>/<sku>/<image>`: the images and other files of a delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from skumatch.data.delivery.names import check_spelling, unsafe
from skumatch.data.images import SUFFIXES, known_format
from skumatch.errors import DataError
from skumatch.texts import counted

NO_IMAGE = "not-an-image"
SIDES = ("train", "test")
CATALOGUE = "catalogue"
THUMBS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
# Raw files of cameras. By their first bytes they are TIFFs, and Pillow would decode only a thumbnail in them.
RAW = frozenset({".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos"})
RAW |= {".nef", ".nrw", ".pef", ".rwl", ".sr2", ".srw"}
EXPECTED = "expected all/train/<sku>/<image> and all/test/<sku>/<image>"
Place = tuple[str, str, str]  # side, SKU, file name
Locate = Callable[[list[str]], Place | None]


@dataclass(frozen=True, slots=True)
class DeliveredImage:
    """One delivered image.

    Attributes:
        side: `train`, `test` or `catalogue`.
        sku: the SKU's name.
        name: the file's name.
        source: the path or zip entry by which the delivery reads the image.
        size: bytes.
    """

    side: str
    sku: str
    name: str
    source: Any
    size: int

    @property
    def id(self) -> str:
        """The image's id in the manifest: side/sku/name."""
        return f"{self.side}/{self.sku}/{self.name}"


class DeliveredFile(NamedTuple):
    """A file of a delivery.

    Attributes:
        source: the path or zip entry by which the delivery reads the file.
        name: the file's path within the delivery, repaired.
        size: bytes.
        kind: the reason why the file is no image; None for an image. The functions that list files set it
            for links and devices only; `sorted_out` sets it for all.
    """

    source: Any
    name: str
    size: int
    kind: str | None = None


class Arranged(NamedTuple):
    """The files of a delivery, sorted.

    Attributes:
        items: the images, in order of id.
        junk: number of other files, by kind.
        clashes: pairs of images with the same id.
    """

    items: list[DeliveredImage]
    junk: Counter[str]
    clashes: list[tuple[DeliveredImage, DeliveredImage]]


def locate(parts: list[str]) -> Place | None:
    """Return the place of a path in RP2K's own layout, `all` at any depth; None outside it."""
    in_layout = len(parts) >= 4 and parts[-4] == "all" and parts[-3] in (*SIDES, CATALOGUE)
    return (parts[-3], parts[-2], parts[-1]) if in_layout and parts[-2].strip() else None


def sorted_out(files: Iterable[DeliveredFile], head: Callable[[Any], bytes]) -> list[DeliveredFile]:
    """Set each file's `kind`: by its entry, else its name, or its content if its ending is no picture's.

    Args:
        files: as they are listed.
        head: returns a source's first bytes, HEAD of them or more; b"" if they can't be read.
    """
    return [_with_kind(file, head) for file in files]


def _with_kind(file: DeliveredFile, head: Callable[[Any], bytes]) -> DeliveredFile:
    kind = file.kind or kind_by_name(file.name)
    picture = kind is None or (kind == NO_IMAGE and known_format(head(file.source)))
    return file if picture else file._replace(kind=kind)


def kind_by_name(name: str) -> str | None:
    """Return the reason why a file is no image by its name; None if it has a picture's ending.

    The reason is one of `__MACOSX`, `hidden`, `thumbs`, `camera-raw`, `unsafe-name`, `not-an-image`.
    """
    if unsafe(name):
        return "unsafe-name"
    parts = name.split("/")
    if "__MACOSX" in parts:
        return "__MACOSX"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if parts[-1].lower() in THUMBS:
        return "thumbs"
    ending = ending_of(parts[-1])
    if ending in RAW:
        return "camera-raw"
    return None if ending in SUFFIXES else NO_IMAGE


def ending_of(name: str) -> str:
    """Return a file's ending with its dot, in lower case; for a name without a dot, a dot and the name."""
    return "." + name.rpartition(".")[2].lower()


def locate_in(side: str) -> Locate:
    """Return a function that places `<sku>/<image>`, at any depth, on a side.

    If the folder above the SKU's is named as a side, the image goes to that side, so that test photos stay
    test photos.
    """

    def find(parts: list[str]) -> Place | None:
        if len(parts) < 2 or not parts[-2].strip():
            return None
        named = len(parts) > 2 and parts[-3] in (*SIDES, CATALOGUE)
        return (parts[-3] if named else side), parts[-2], parts[-1]

    return find


def arrange(
    files: Iterable[DeliveredFile], where: Path, find: Locate = locate, whole: bool = True
) -> Arranged:
    """Sort files whose `kind` is set into items and junk.

    Args:
        files: the delivery's files.
        where: the delivery, for the sentence of an error.
        find: returns the place of a file's path; None outside the layout.
        whole: True for a whole data set, which needs both sides.

    Raises:
        DataError: if no file lies in the layout, a side is missing, or two SKUs are spelt alike.
    """
    items: dict[str, DeliveredImage] = {}
    junk: Counter[str] = Counter()
    clashes: list[tuple[DeliveredImage, DeliveredImage]] = []
    for file in files:
        place = None if file.kind else find(file.name.split("/"))
        if place is None:
            junk[file.kind or "outside-the-layout"] += 1
            continue
        side, sku, name = place
        # Interned, so that the thousand images of a SKU share one string.
        item = DeliveredImage(intern(side), intern(sku), name, file.source, file.size)
        first = items.setdefault(item.id, item)
        if first is not item:
            clashes.append((first, item))
    _check_sides(items.values(), junk, where, whole)
    check_spelling({item.sku for item in items.values()}, where)
    return Arranged([items[key] for key in sorted(items)], junk, clashes)


def listed(junk: Counter[str]) -> str:
    """Return the kinds and their counts as text, in order of kind."""
    return ", ".join(f"{kind} {count:,}" for kind, count in sorted(junk.items()))


def _check_sides(items: Iterable[DeliveredImage], junk: Counter[str], where: Path, whole: bool) -> None:
    sides = {item.side for item in items}
    if not sides and not junk:
        raise DataError(f"{where} is empty; {EXPECTED}.")
    if not sides:
        raise DataError(
            f"{where} is not in RP2K's layout ({counted(junk.total(), 'other file')} found: {listed(junk)}); "
            f"{EXPECTED}."
        )
    for side in SIDES if whole else ():
        if side not in sides:
            missing = (
                "gallery images to match against"
                if side == "train"
                else "query images, so no model could be judged"
            )
            raise DataError(
                f"{where} has no {side} side: there are no {missing}; add all/{side}/<sku>/<image>."
            )
