"""RP2K's layout, `all/<train|test|catalogue>/<sku>/<image>`: which file of a delivery is which image, and which is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from skumatch.data.delivery.names import unsafe
from skumatch.data.images import SUFFIXES
from skumatch.errors import DataError

SIDES = ("train", "test")
CATALOGUE = "catalogue"
EXPECTED = "expected all/train/<sku>/<image> and all/test/<sku>/<image>"
Place = tuple[str, str, str]  # side, SKU, file name
Locate = Callable[[list[str]], Place | None]


@dataclass(frozen=True, slots=True)
class Item:
    """One delivered image: its side, SKU and file name, how its source finds it again, and its size in bytes."""

    side: str
    sku: str
    name: str
    source: Any
    size: int

    @property
    def id(self) -> str:
        return f"{self.side}/{self.sku}/{self.name}"


class Found(NamedTuple):
    """A file of a delivery, its name repaired; `kind` says why it is no image, if that is plain from its entry."""

    source: Any
    name: str
    size: int
    kind: str | None = None


class Arranged(NamedTuple):
    """Items in order of id, other files by kind, and pairs of files that claim one place."""

    items: list[Item]
    junk: Counter[str]
    clashes: list[tuple[Item, Item]]


def locate(parts: list[str]) -> Place | None:
    """The place of a path in RP2K's own layout, `all` at any depth."""
    known = len(parts) >= 4 and parts[-4] == "all" and parts[-3] in (*SIDES, CATALOGUE)
    return (parts[-3], parts[-2], parts[-1]) if known and parts[-2].strip() else None


def junk_kind(name: str) -> str | None:
    """Why a file is no image of the data set: `__MACOSX`, `hidden`, `thumbs`, `unsafe-name` or `not-an-image`; None for images."""
    if unsafe(name):
        return "unsafe-name"
    parts = name.split("/")
    if "__MACOSX" in parts:
        return "__MACOSX"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if parts[-1].lower() in ("thumbs.db", "desktop.ini"):
        return "thumbs"
    return None if "." + parts[-1].rpartition(".")[2].lower() in SUFFIXES else "not-an-image"


def arrange(files: Iterable[Found], where: Path, find: Locate = locate) -> Arranged:
    """Sort files into items and junk. Raises DataError if none lies in the layout, a side is missing, or SKUs differ only in case."""
    items: dict[str, Item] = {}
    junk: Counter[str] = Counter()
    clashes: list[tuple[Item, Item]] = []
    for file in files:
        kind = file.kind or junk_kind(file.name)
        place = None if kind else find(file.name.split("/"))
        if place is None:
            junk[kind or "outside-the-layout"] += 1
            continue
        side, sku, name = place
        item = Item(intern(side), intern(sku), name, file.source, file.size)  # one string for a thousand images of a SKU
        first = items.setdefault(item.id, item)
        if first is not item:
            clashes.append((first, item))
    _check_sides(items.values(), junk, where)
    check_case({item.sku for item in items.values()}, where)
    return Arranged([items[key] for key in sorted(items)], junk, clashes)


def listed(junk: Counter[str]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in sorted(junk.items()))


def _check_sides(items: Iterable[Item], junk: Counter[str], where: Path) -> None:
    sides = {item.side for item in items}
    if not sides and not junk:
        raise DataError(f"{where} is empty; {EXPECTED}.")
    if not sides:
        raise DataError(f"{where} is not in RP2K's layout ({junk.total():,} other files found: {listed(junk)}); {EXPECTED}.")
    for side in SIDES:
        if side not in sides:
            what = "gallery images to match against" if side == "train" else "query images, so no model could be judged"
            raise DataError(f"{where} has no {side} side: there are no {what}; add all/{side}/<sku>/<image>.")


def check_case(skus: set[str], where: Path) -> None:
    """Raise DataError if two SKUs differ only in upper and lower case: most often one product, spelt in two ways."""
    spelt: dict[str, str] = {}
    for sku in sorted(skus):
        other = spelt.setdefault(sku.casefold(), sku)
        if other != sku:
            raise DataError(f"Two SKUs of {where} differ only in case: '{other}' and '{sku}'; rename one and import again.")
