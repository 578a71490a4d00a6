"""Deliveries that are folders: one in RP2K's layout, one of catalogue pictures. Links are never followed."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skumatch.data.delivery.layout import CATALOGUE, Found, Item, ending_of, sorted_out
from skumatch.data.delivery.names import repair
from skumatch.data.delivery.source import MAX_TABLE_BYTES, Source, check_small
from skumatch.data.images import HEAD, SUFFIXES, Extent
from skumatch.errors import DataError, StorageError


class FolderSource(Source):
    """A folder that holds (somewhere above its images) `all/train` and `all/test`."""

    def __init__(self, root: Path, side: str = "") -> None:
        found, repaired = _found(walk(root))
        super().__init__(found, repaired, root, side)

    def image(self, source: Any) -> bytes:
        return Extent(source).read()

    def head(self, source: Any) -> bytes:
        return head(source)

    def table(self, source: Any) -> bytes:
        return check_small(Extent(source, 0, MAX_TABLE_BYTES + 1).read(), source)


def catalogue_items(folder: Path) -> tuple[list[Item], Counter[str]]:
    """Catalogue pictures `folder`/<sku>.<ext> as items of the side `catalogue`, in order of id.

    And what was left out, by kind.

    A picture whose name has no ending of pictures is named by its SKU alone: `Cola 1.5` has none.
    Raises DataError if there is no such folder, no picture in it, or two with one name.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; give one with a picture <sku>.<ext> for each SKU.")
    found, _ = _found(file for file in walk(folder) if "/" not in file.name)
    files = sorted_out(found, head)
    junk = Counter(file.kind for file in files if file.kind)
    pictures = [file for file in files if not file.kind]
    if not pictures:
        raise DataError(
            f"{folder} has no catalogue picture; give a folder with a picture <sku>.<ext> for each SKU."
        )
    items = (Item(CATALOGUE, _sku_of(file.name), file.name, file.source, file.size) for file in pictures)
    return sorted(items, key=lambda item: item.id), junk


def _sku_of(name: str) -> str:
    return Path(name).stem if ending_of(name) in SUFFIXES else name


def _found(files: Iterator[Found]) -> tuple[list[Found], set[str]]:
    given = list(files)
    names, repaired = repair([file.name for file in given], [True] * len(given))
    return [file._replace(name=name) for file, name in zip(given, names, strict=True)], repaired


def pictures(root: Path) -> list[Found]:
    """The pictures below `root`, in order of their paths from there."""
    found = [file for file in sorted_out(walk(root), head) if not file.kind]
    return sorted(found, key=lambda file: file.name)


def head(source: str) -> bytes:
    """The first bytes of the file at `source`. Raises StorageError where it can't be read."""
    return Extent(source, 0, HEAD).read()


def walk(root: Path) -> Iterator[Found]:
    """Every file below `root`, named by its path from there; `kind` says what it is if no plain file."""
    for folder, folders, names in os.walk(root, onerror=_refuse):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted(names + links):
            path = Path(folder, name)
            status = path.lstat()
            kind = (
                "link"
                if stat.S_ISLNK(status.st_mode)
                else None
                if stat.S_ISREG(status.st_mode)
                else "special"
            )
            yield Found(str(path), path.relative_to(root).as_posix(), status.st_size, kind)


def _refuse(error: OSError) -> None:
    raise StorageError(
        f"Could not read {error.filename}: {error.strerror}; correct its permissions and import again."
    ) from error
