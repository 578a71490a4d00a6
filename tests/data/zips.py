"""Zips as other tools make them."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image


class Raw(zipfile.ZipInfo):
    """An entry whose name is these bytes, without the UTF-8 flag."""

    def __init__(self, name: bytes) -> None:
        super().__init__(name.decode("cp437"))
        self.raw = name

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - zipfile's name
        return self.raw, self.flag_bits & ~0x800


def entry(name: str, kind: int = stat.S_IFREG) -> zipfile.ZipInfo:
    """An entry of a Unix tool: a file, link or device."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o644) << 16
    return info


def write_zip(
    path: Path, entries: Iterable[tuple[str | zipfile.ZipInfo, bytes]], packed: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", packed) as archive:
        for info, data in entries:
            archive.writestr(info, data, packed)
    return path


def mojibake(path: Path, entries: Iterable[tuple[str, bytes]]) -> Path:
    """A zip like RP2K's: names in UTF-8 without the flag for UTF-8."""
    return write_zip(path, ((Raw(name.encode()), data) for name, data in entries))


def picture(seed: int = 0, size: tuple[int, int] = (40, 60)) -> bytes:
    """A PNG of one colour, another one for each seed."""
    stream = io.BytesIO()
    Image.new("RGB", size, (seed % 256, seed // 256 % 256, seed // 65536)).save(stream, "PNG")
    return stream.getvalue()


def both_sides(sku: str = "sku") -> list[tuple[str, bytes]]:
    """The least that can be imported."""
    return [(f"all/train/{sku}/1.png", picture(1)), (f"all/test/{sku}/2.png", picture(2))]
