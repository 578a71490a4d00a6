"""Deliveries that are zips: read entry by entry, never unpacked, so that entries' names can do no harm."""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skumatch.data.delivery.folders import FolderSource
from skumatch.data.delivery.layout import EXPECTED, DeliveredFile
from skumatch.data.delivery.names import repair
from skumatch.data.delivery.source import MAX_TABLE_BYTES, Source, check_small
from skumatch.data.images import HEAD, MAX_BYTES, Extent, Images
from skumatch.errors import DataError, ImageError


@contextmanager
def open_source(path: Path, side: str = "") -> Iterator[Source]:
    """Yield the delivery at `path`, a folder or a zip.

    Args:
        path: the delivery.
        side: for a delivery that adds to a data set, see Source; empty for a whole data set.

    Raises:
        DataError: if it is neither, damaged, empty, or of another layout.
    """
    if path.is_dir():
        yield FolderSource(path, side)
    elif not path.exists():
        raise DataError(f"There is no {path}; give a folder or a zip in RP2K's layout.")
    elif path.is_file() and zipfile.is_zipfile(path):
        with open_zip(path) as archive:
            yield ZipSource(archive, path, side)
    elif path.is_file() and _starts_as_zip(path):
        raise DataError(f"{path} is a zip without its end, where the list of its files is; fetch it again.")
    else:
        raise DataError(f"{path} is neither a folder nor a zip; give one in RP2K's layout ({EXPECTED}).")


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def folder_images(root: Path, side: str, others: tuple[str, ...] = ()) -> Images:
    """Return the images of one side of a folder in RP2K's layout, without an import.

    Args:
        root: the folder.
        side: `train` or `test`.
        others: catch-all classes, which are left out.

    Raises:
        DataError: for a zip, a folder of another layout, or no image on the side.
    """
    with open_source(root) as source:
        if not isinstance(source, FolderSource):
            raise DataError(f"{root} is a zip; unpack it, or import it with `skumatch data import`.")
        items = [item for item in source.items if item.side == side and item.sku not in others]
    if not items:
        raise DataError(f"{root} has no images under all/{side}; {EXPECTED}.")
    return Images(
        [i.id for i in items],
        [i.sku for i in items],
        [i.name for i in items],
        [Extent(i.source) for i in items],
    )


# Errors that zipfile raises on damaged archives and entries, and on compression that it doesn't know.
BAD = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    struct.error,
    NotImplementedError,
)
MAX_ENTRIES = 1_000_000


class ZipSource(Source):
    """A zip of a folder in the layout.

    Not safe for threads, since zipfile keeps one position.

    Attributes:
        archive: the open zip.
        where: its path.
    """

    def __init__(self, archive: zipfile.ZipFile, where: Path, side: str = "") -> None:
        self.archive, self.where = archive, where
        files, repaired = _found(archive)
        super().__init__(files, repaired, where, side)

    def image(self, source: Any) -> bytes:
        """Return an image's bytes, at most MAX_BYTES.

        Raises:
            ImageError: for a locked or damaged entry.
        """
        if source.flag_bits & 0x1:
            raise ImageError("locked", "The zip's entry is locked with a password; deliver it without.")
        try:
            return self._bytes(source, MAX_BYTES)
        except BAD as error:
            raise ImageError("damaged-entry", "The zip's entry is damaged; deliver it again.") from error

    def head(self, source: Any) -> bytes:
        """Return the first HEAD bytes of an entry; b"" for a locked or damaged one."""
        try:
            return self._bytes(source, HEAD)
        except (*BAD, RuntimeError):  # damaged or locked, and not named as a picture
            return b""

    def table(self, source: Any) -> bytes:
        """Return the bytes of a table.

        Raises:
            DataError: for a locked, damaged or too large entry.
        """
        try:
            data = self._bytes(source, MAX_TABLE_BYTES + 1)
        except (*BAD, RuntimeError) as error:
            raise DataError(
                f"{self.where}: {source.filename} can't be read ({error}); deliver it again."
            ) from error
        return check_small(data, f"{self.where}: {source.filename}")

    def _bytes(self, source: zipfile.ZipInfo, most: int) -> bytes:
        try:
            with self.archive.open(source) as stream:
                return stream.read(most)
        except OSError as error:
            if error.errno is None:  # bz2 raises it for a damaged entry
                raise EOFError(str(error)) from error
            raise


def _found(archive: zipfile.ZipFile) -> tuple[list[DeliveredFile], set[str]]:
    infos = [info for info in archive.infolist() if not info.filename.endswith(("/", "\\"))]
    # Each file holds its own entry, so the archive's list, of up to a million entries, isn't needed.
    archive.filelist, archive.NameToInfo = [], {}
    names = _with_slashes([info.filename for info in infos])
    names, repaired = repair(names, [bool(info.flag_bits & 0x800) for info in infos])
    files = [
        DeliveredFile(info, name, info.file_size, _kind(info))
        for info, name in zip(infos, names, strict=True)
    ]
    return files, repaired


def _with_slashes(names: list[str]) -> list[str]:
    """Return the names with slashes as separators.

    Some tools of Windows write backslashes instead: then some names have them, and none has a slash.
    """
    windows = any("\\" in name for name in names) and not any("/" in name for name in names)
    return [name.replace("\\", "/") for name in names] if windows else names


def _kind(info: zipfile.ZipInfo) -> str | None:
    if "\0" in info.orig_filename:
        return "unsafe-name"
    mode = stat.S_IFMT(info.external_attr >> 16)
    return "link" if mode == stat.S_IFLNK else None if mode in (0, stat.S_IFREG) else "special"


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip.

    Raises:
        DataError: if its list of entries is damaged or longer than MAX_ENTRIES.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (*BAD, OSError) as error:
        raise DataError(
            f"{path} is a damaged zip: its list of files can't be read ({error}); deliver it again."
        ) from error
    if len(archive.filelist) > MAX_ENTRIES:
        archive.close()
        raise DataError(f"{path} has over {MAX_ENTRIES:,} files; deliver it in parts, as folders.")
    return archive
