"""Deliveries that are folders, in RP2K's layout or of catalogue pictures; links are never followed."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skumatch.data.delivery.layout import CATALOGUE, DeliveredFile, DeliveredImage, ending_of, sorted_out
from skumatch.data.delivery.names import repair
from skumatch.data.delivery.source import MAX_TABLE_BYTES, Source, check_small
from skumatch.data.images import HEAD, SUFFIXES, Extent
from skumatch.errors import DataError, StorageError


class FolderSource(Source):
    """A folder with `all/train` and `all/test` at any depth."""

    def __init__(self, root: Path, side: str = "") -> None:
        files, repaired = _found(walk(root))
        super().__init__(files, repaired, root, side)

    def image(self, source: Any) -> bytes:
        """Return the bytes of the file at the path `source`; raise StorageError if it can't be read."""
        return Extent(source).read()

    def head(self, source: Any) -> bytes:
        """Return the first HEAD bytes of the file; raise StorageError if it can't be read."""
        return head(source)

    def table(self, source: Any) -> bytes:
        """Return the bytes of a table; raise DataError if there are too many."""
        return check_small(Extent(source, 0, MAX_TABLE_BYTES + 1).read(), source)


def catalogue_items(folder: Path) -> tuple[list[DeliveredImage], Counter[str]]:
    """List the catalogue pictures `folder`/<sku>.<ext>.

    If a file's name has no picture's ending, as `Cola 1.5`, the whole name is the SKU.

    Returns:
        Items of the side `catalogue`, in order of id, and the number of other files by kind.

    Raises:
        DataError: if there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; give one with a picture <sku>.<ext> for each SKU.")
    listed, _ = _found(file for file in walk(folder) if "/" not in file.name)
    files = sorted_out(listed, head)
    junk = Counter(file.kind for file in files if file.kind)
    pictures = [file for file in files if not file.kind]
    if not pictures:
        raise DataError(
            f"{folder} has no catalogue picture; give a folder with a picture <sku>.<ext> for each SKU."
        )
    items = (
        DeliveredImage(CATALOGUE, _sku_of(file.name), file.name, file.source, file.size) for file in pictures
    )
    return sorted(items, key=lambda item: item.id), junk


def _sku_of(name: str) -> str:
    return Path(name).stem if ending_of(name) in SUFFIXES else name


def _found(files: Iterator[DeliveredFile]) -> tuple[list[DeliveredFile], set[str]]:
    listed = list(files)
    names, repaired = repair([file.name for file in listed], [True] * len(listed))
    return [file._replace(name=name) for file, name in zip(listed, names, strict=True)], repaired


def pictures(root: Path) -> list[DeliveredFile]:
    """Return the pictures below `root`, in order of their paths from there."""
    files = [file for file in sorted_out(walk(root), head) if not file.kind]
    return sorted(files, key=lambda file: file.name)


def head(source: str) -> bytes:
    """Return the first HEAD bytes of the file at `source`.

    Raises:
        StorageError: if it can't be read.
    """
    return Extent(source, 0, HEAD).read()


def walk(root: Path) -> Iterator[DeliveredFile]:
    """Yield every file below `root`, named by its path from there.

    `kind` is `link` or `special` for a file that is not regular, else None.

    Raises:
        StorageError: for a folder that can't be read.
    """
    for folder, folders, names in os.walk(root, onerror=_refuse):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted(names + links):
            path = Path(folder, name)
            status = path.lstat()
            kind = _kind(status.st_mode)
            yield DeliveredFile(str(path), path.relative_to(root).as_posix(), status.st_size, kind)


def _kind(mode: int) -> str | None:
    if stat.S_ISLNK(mode):
        return "link"
    return None if stat.S_ISREG(mode) else "special"


def _refuse(error: OSError) -> None:
    raise StorageError(
        f"Could not read {error.filename}: {error.strerror}; correct its permissions and import again."
    ) from error
