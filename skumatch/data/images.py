"""The only place that decodes images: bytes in, RGB pixels out, or an ImageError with a named reason."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from skumatch.data.jpeg import plain_size
from skumatch.errors import ImageError, StorageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif"})
SUFFIXES |= {".tif", ".tiff"}
MAX_PIXELS = 25_000_000
MAX_BYTES = 50_000_000
LARGE = 2_000_000  # pixels from which pictures are decoded one at a time, so that memory stays bounded
REASONS = {
    "empty": "the file has no bytes",
    "no-image": "of none of the known formats, whatever its name says",
    "truncated": "the end of the file is missing",
    "damaged": "the file's bytes contradict its format",
    "unsupported": "pixels that are no photo's: floating point, 32 bits a channel, Lab, a JPEG of 12 bits",
    "too-large": f"over {MAX_PIXELS // 1_000_000} million pixels or {MAX_BYTES // 1_000_000} MB",
    "tiny": "the shorter side is under `validate.min_short_side`",
    "locked": "an entry of a zip that needs a password",
    "damaged-entry": "an entry of a zip that can't be read",
}
HEAD = 32  # bytes from which a format is known
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
STARTS = (JPEG_START, b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # with +: TIFF beyond 4 GB
BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})  # bytes of a BMP's second header
BITS_PER_SAMPLE = 258  # TIFF's tag
# What Pillow's readers raise on broken files.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    struct.error,
    RuntimeError,
)
_ALONE = threading.Lock()

Pixels = NDArray[np.uint8]
T = TypeVar("T")


class Quiet:
    """Context that silences Pillow's warnings about broken EXIF blocks, which don't touch the pixels.

    It may be entered by several threads at once; `warnings.catch_warnings` alone is not safe for threads.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


QUIET = Quiet()


def decode(data: bytes) -> Image.Image:
    """Return the picture as RGB, upright by its EXIF orientation, transparency laid on white.

    Of a moving picture, return the first frame.

    Raises:
        ImageError: with one of REASONS, for a picture that can't be used.
    """
    with opened(data) as image:
        return upright_rgb(image)


def decode_pixels(data: bytes) -> Pixels:
    """Return the picture of `decode` as an array, uint8 [height, width, 3], as encoders get it.

    Plain JPEGs take a third of the time of `decode`.

    Raises:
        ImageError: as `decode` does.
    """
    # Of larger pictures `opened` reads the header; that time is small beside their decoding.
    size = plain_size(data)
    pixels = _jpeg_pixels(data, *size) if size and size.width * size.height <= LARGE else None
    if pixels is not None:
        return pixels
    with opened(data) as image:
        pixels = _jpeg_pixels(data, *image.size) if _is_upright_jpeg(image) else None
        return np.array(upright_rgb(image)) if pixels is None else pixels


def _is_upright_jpeg(image: Image.Image) -> bool:
    return (
        image.format == "JPEG"
        and image.mode in ("RGB", "L")
        and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    )


def _jpeg_pixels(data: bytes, width: int, height: int) -> Pixels | None:
    """Decode a JPEG with libjpeg-turbo directly, which Pillow uses too, without Pillow's overhead.

    Return None on any fault: Pillow then names the fault, or decodes more than this library does.
    """
    try:
        # libjpeg-turbo may find another header than the one that was checked.
        if simplejpeg.decode_jpeg_header(data)[:2] != (height, width):
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data)
    except ValueError:
        return None
    return pixels


def glimpse(data: bytes) -> Image.Image | None:
    """Return the visible part of a picture that was set aside; None if nothing can be shown.

    This is the whole picture, or the part of a JPEG before it breaks off.
    """
    for attempt in (data, data + JPEG_END) if data.startswith(JPEG_START) else (data,):
        try:
            return decode(attempt)
        # The reason why the picture was set aside is known already.
        except ImageError:
            continue
    return None


def known_format(data: bytes) -> bool:
    """Return True if the bytes begin as a picture of FORMATS does; the first HEAD bytes are enough."""
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    bmp = data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in BMP_HEADERS
    return data.startswith(STARTS) or webp or bmp


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Yield the picture with its header read and its size checked; its `format` is one of FORMATS.

    Pillow's errors within the `with` block become ImageErrors too.

    Raises:
        ImageError: with one of REASONS, for a picture that can't be used.
    """
    if not data:
        raise ImageError("empty", "The file is empty; deliver it again.")
    try:
        with QUIET, _reader(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if image.format == "PNG":
                _check_chunks(data)
            with _ALONE if image.width * image.height > LARGE else nullcontext():
                yield image
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(
            "too-large", "The picture claims too many pixels to be a shelf crop; deliver it again."
        ) from error
    except BROKEN as error:
        if "-bit layers" in str(error):  # as Pillow says of a JPEG
            cure = "deliver it with 8 bits a channel"
            raise ImageError("unsupported", f"The JPEG has more bits a channel; {cure}.") from error
        raise _unreadable(data) from error


def _reader(data: bytes) -> ImageFile.ImageFile:
    """Return Pillow's reader for the picture's format.

    The reader for JPEG is called directly: Image.open would read the index of the pictures that phones and
    cameras put behind the first one (a preview, a gain map, the other eye) and name the file MPO.
    """
    stream = io.BytesIO(data)
    return JpegImageFile(stream) if data.startswith(JPEG_START) else Image.open(stream, formats=FORMATS)


def _check_chunks(data: bytes) -> None:
    # Decoding alone stops at the last row and never compares the checksums.
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _unreadable(data: bytes) -> ImageError:
    if not known_format(data):
        return ImageError("no-image", "The file is no picture of a known format; deliver it again.")
    if _cut(data):
        return ImageError("truncated", "The picture is damaged: its end is missing; deliver it again.")
    return ImageError("damaged", "The picture is damaged; deliver it again.")


def _cut(data: bytes) -> bool:
    """Return True if a broken file lacks its end, by its format's end mark or length field."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-1024:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-1024:]
    if data.startswith(b"GIF8"):
        return not data.rstrip(b"\0").endswith(b";")
    # The offset of the length that RIFF (WebP) and BMP files claim, and the bytes that it leaves out.
    claims = {b"RI": (4, 8), b"BM": (2, 0)}.get(data[:2])
    return (
        claims is not None
        and len(data) < int.from_bytes(data[claims[0] : claims[0] + 4], "little") + claims[1]
    )


def upright_rgb(image: Image.Image) -> Image.Image:
    """Load a picture that `opened` yielded, and return it as RGB, upright, transparency laid on white.

    Raises:
        ImageError: `unsupported`, for pixels that are no photo's.
    """
    depth = _depth(image)
    image.load()
    _require_photo(image)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> (depth - 8)).astype(np.uint8))
    if image.mode == "La":  # grey, multiplied by its alpha; Pillow converts it to LA only
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _depth(image: Image.Image) -> int:
    """Return the bits of a sample held in 16 bits: 12 for a TIFF of 12 bits, which Pillow doesn't scale."""
    return 12 if isinstance(image, TiffImageFile) and image.tag_v2.get(BITS_PER_SAMPLE) == (12,) else 16


def _require_photo(image: Image.Image) -> None:
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise ImageError(
            "unsupported",
            f"The picture has pixels of the kind {image.mode}; deliver it with 8 bits a channel.",
        )


def pixel_hash(image: Image.Image) -> str:
    """Return the SHA-256 of size and RGB pixels: equal for the same picture in another container."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    rows = max(1, LARGE // image.width)
    for top in range(0, image.height, rows):  # a large picture in strips: no second copy of it
        bottom = min(top + rows, image.height)
        digest.update(
            (image if rows >= image.height else image.crop((0, top, image.width, bottom))).tobytes()
        )
    return digest.hexdigest()


@dataclass(frozen=True)
class Extent:
    """The place of an image's original bytes in a file.

    Attributes:
        path: the file.
        offset: bytes before the image.
        length: bytes of the image; None for all bytes of the file.
    """

    path: str
    offset: int = 0
    length: int | None = None

    def stamp(self) -> tuple[int, int]:
        """Return the file's size in bytes and the time of its last change in ns, to notice a later change.

        Raises:
            StorageError: if the file can't be read.
        """
        try:
            # Path would double the cost, for hundreds of thousands of files.
            status = os.stat(self.path)  # noqa: PTH116
        except OSError as error:
            raise self._unread(error) from error
        return status.st_size, status.st_mtime_ns

    def read(self) -> bytes:
        """Return the image's original bytes.

        Raises:
            StorageError: if the file can't be read.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY)  # a file object would cost more than the reading
            try:
                size = os.fstat(descriptor).st_size if self.length is None else self.length
                return os.pread(descriptor, size, self.offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._unread(error) from error

    def _unread(self, error: OSError) -> StorageError:
        return StorageError(f"Could not read {self.path}: {error.strerror}; check that the data is complete.")


class Images(Sequence[Image.Image]):
    """Labelled pictures, decoded on access; no file stays open, so worker processes can share an instance.

    Attributes:
        ids: the pictures' ids.
        skus: the SKU of each picture.
        names: the file name of each picture.
        extents: the place of each picture's bytes.
        hashes: SHA-256 of each picture's bytes in hex; None where they are unknown. A manifest has them.
    """

    def __init__(
        self,
        ids: list[str],
        skus: list[str],
        names: list[str],
        extents: list[Extent],
        hashes: list[str] | None = None,
    ) -> None:
        assert len(ids) == len(skus) == len(names) == len(extents)
        assert hashes is None or len(hashes) == len(ids)
        self.ids, self.skus, self.names, self.extents, self.hashes = ids, skus, names, extents, hashes

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Image.Image:  # type: ignore[override]  # no slices: use take()
        return self._decoded(index, decode)

    def pixels(self, index: int) -> Pixels:
        """Return the pixels of one picture as `decode_pixels` does, for training and embedding.

        Raises:
            ImageError: for a picture that can't be used.
            StorageError: for a file that can't be read.
        """
        return self._decoded(index, decode_pixels)

    def _decoded(self, index: int, decoder: Callable[[bytes], T]) -> T:
        try:
            return decoder(self.read_bytes(index))
        except ImageError as error:
            raise ImageError(error.reason, f"{self.ids[index]}: {error}") from error

    def read_bytes(self, index: int) -> bytes:
        """Return the original bytes of one picture.

        Raises:
            StorageError: if the file can't be read.
        """
        return self.extents[index].read()

    def labels(self, classes: Sequence[str]) -> list[int]:
        """Return the index of each picture's SKU in `classes`, which must have all of them."""
        place = {sku: number for number, sku in enumerate(classes)}
        return [place[sku] for sku in self.skus]

    def take(self, indices: Sequence[int]) -> Images:
        """Return the pictures at `indices`, in that order."""
        hashes = None if self.hashes is None else [self.hashes[i] for i in indices]
        columns = (self.ids, self.skus, self.names, self.extents)
        ids, skus, names, extents = ([column[i] for i in indices] for column in columns)
        return Images(ids, skus, names, extents, hashes)  # type: ignore[arg-type]
