"""The only place that decodes images: bytes in, RGB pixels out, or a named reason why not."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from skumatch.errors import ImageError, StorageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 64_000_000


def decode(data: bytes) -> Image.Image:
    """Return the picture as RGB, upright by its EXIF orientation, transparency laid on white.

    Raises ImageError with reason `empty`, `unreadable` or `too-large`.
    """
    if not data:
        raise ImageError("empty", "The file is empty; deliver it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of broken EXIF blocks that don't touch the pixels
            return _upright_rgb(data)
    except Image.DecompressionBombError as error:
        raise ImageError("too-large", "The picture claims too many pixels to be a shelf crop; deliver it again.") from error
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError) as error:  # what Pillow's plugins raise on broken files
        raise ImageError("unreadable", "The picture is damaged or of an unknown format; deliver it again.") from error


def _upright_rgb(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            rgba = upright.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return upright.convert("RGB")


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of size and RGB pixels: equal for the same picture in another container."""
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


@dataclass(frozen=True)
class Extent:
    """Where an image's original bytes lie: `length` bytes from `offset` of `path`; whole file if `length` is None."""

    path: str
    offset: int = 0
    length: int | None = None

    def read(self) -> bytes:
        try:
            with Path(self.path).open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size if self.length is None else self.length
                return os.pread(stream.fileno(), size, self.offset)
        except OSError as error:
            raise StorageError(f"Could not read {self.path}: {error.strerror}; check that the data is complete.") from error


class Images(Sequence[Image.Image]):
    """Labelled pictures, decoded when asked for; keeps no open files, so worker processes can share it."""

    def __init__(self, ids: list[str], skus: list[str], names: list[str], extents: list[Extent]) -> None:
        assert len(ids) == len(skus) == len(names) == len(extents)
        self.ids, self.skus, self.names, self.extents = ids, skus, names, extents

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Image.Image:  # type: ignore[override]  # no slices: use take()
        try:
            return decode(self.read_bytes(index))
        except ImageError as error:
            raise ImageError(error.reason, f"{self.ids[index]}: {error}") from error

    def read_bytes(self, index: int) -> bytes:
        return self.extents[index].read()

    def take(self, indices: Sequence[int]) -> Images:
        """The same pictures at `indices`, in that order."""
        return Images(*([column[i] for i in indices] for column in (self.ids, self.skus, self.names, self.extents)))  # type: ignore[arg-type]
