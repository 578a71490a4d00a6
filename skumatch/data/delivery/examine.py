"""The examination of images: read, hashed, decoded and fingerprinted once each, on all cores.

Results come in order, and memory is bounded.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

from PIL import Image

from skumatch.config import cores
from skumatch.data.delivery.layout import DeliveredImage
from skumatch.data.fingerprints import fingerprint
from skumatch.data.images import opened, pixel_hash, upright_rgb
from skumatch.errors import ImageError

IN_FLIGHT_BYTES = 64_000_000
FACTS_VERSION = 2  # raised where the same bytes give other facts; a test holds the code to it
BATCH, BATCH_BYTES = 16, 4_000_000
BATCHES_A_THREAD = 4


class PictureFacts(NamedTuple):
    """Facts that follow from an image's bytes; each field is a column of the manifest.

    Attributes:
        sha256: of the bytes, in hex.
        pixels: SHA-256 of size and decoded RGB pixels, in hex.
        phash: perceptual hash of the picture, 64 bits.
        phash95: perceptual hash of its middle 95 %.
        phash90: perceptual hash of its middle 90 %.
        width: pixels, after turning upright.
        height: pixels, after turning upright.
        mode: pixel mode before conversion, as Pillow names it.
        format: as Pillow names it.
    """

    sha256: str
    pixels: str
    phash: int
    phash95: int
    phash90: int
    width: int
    height: int
    mode: str
    format: str


class Reader(Protocol):
    """A function that reads the original bytes of an image."""

    def __call__(self, item: DeliveredImage) -> bytes:
        """Return the bytes; raise ImageError if they can't be read."""
        ...


Examined = tuple[DeliveredImage, bytes, PictureFacts | ImageError]
NONE: Mapping[str, PictureFacts] = {}


def examine(data: bytes, min_short_side: int, known: Mapping[str, PictureFacts] = NONE) -> PictureFacts:
    """Hash one image, and decode it unless its facts are known.

    Args:
        data: its bytes.
        min_short_side: pixels; a smaller image can't be used.
        known: facts of images by the SHA-256 of their bytes.

    Raises:
        ImageError: with the reason why the image can't be used.
    """
    facts = known.get(hashlib.sha256(data).hexdigest()) if known else None
    if facts:
        check_size(facts.width, facts.height, min_short_side)
        return facts
    with opened(data) as image:
        try:
            return _facts(image, data, min_short_side)
        finally:
            # Large pictures are decoded in turn; the next may start only when these pixels are freed.
            image.close()


def _facts(image: Image.Image, data: bytes, min_short_side: int) -> PictureFacts:
    mode, container = image.mode, str(image.format)
    picture = upright_rgb(image)
    check_size(*picture.size, min_short_side)
    digest = hashlib.sha256(data).hexdigest()
    return PictureFacts(
        digest, pixel_hash(picture), *fingerprint(picture), picture.width, picture.height, mode, container
    )


def check_size(width: int, height: int, min_short_side: int) -> None:
    """Check that a picture is large enough.

    Args:
        width: pixels.
        height: pixels.
        min_short_side: pixels that the shorter side must have.

    Raises:
        ImageError: `tiny`, for a picture that is too small.
    """
    if min(width, height) < min_short_side:
        raise ImageError(
            "tiny", f"The picture is {width} x {height} px, under {min_short_side}; deliver a larger crop."
        )


def examine_all(
    items: Iterable[DeliveredImage],
    read: Reader,
    min_short_side: int,
    known: Mapping[str, PictureFacts] = NONE,
    threads: int | None = None,
) -> Iterator[Examined]:
    """Yield item, bytes, and facts or an ImageError, in the order of `items`.

    The calling thread does all reading, so that a source need not be safe for threads. At most 64 MB of
    images, or one larger image, are held at a time.

    Args:
        items: the images.
        read: returns an image's bytes.
        min_short_side: pixels; smaller ones can't be used.
        known: facts by the SHA-256 of an image's bytes; those images are not decoded.
        threads: number of threads that hash and decode, in libraries that release Python's global lock; one
            for each core by default.
    """
    count = threads or cores()
    waiting: deque[tuple[int, Future[list[Examined]]]] = deque()
    held = 0
    with ThreadPoolExecutor(count, "examine") as pool:
        for batch, size in _batches(items):
            while waiting and (len(waiting) >= count * BATCHES_A_THREAD or held + size > IN_FLIGHT_BYTES):
                held -= waiting[0][0]
                yield from waiting.popleft()[1].result()
            held += size
            waiting.append(
                (
                    size,
                    pool.submit(_examine_batch, [_read(item, read) for item in batch], min_short_side, known),
                )
            )
        while waiting:
            yield from waiting.popleft()[1].result()


def _batches(items: Iterable[DeliveredImage]) -> Iterator[tuple[list[DeliveredImage], int]]:
    """Yield the items in batches, each with its size in bytes.

    Handing items to threads one by one would cost a tenth of the time.
    """
    batch: list[DeliveredImage] = []
    size = 0
    for item in items:
        if batch and (len(batch) == BATCH or size + item.size > BATCH_BYTES):
            yield batch, size
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch, size


def _read(item: DeliveredImage, read: Reader) -> tuple[DeliveredImage, bytes, ImageError | None]:
    try:
        return item, read(item), None
    except ImageError as error:
        return item, b"", error


def _examine_batch(
    batch: list[tuple[DeliveredImage, bytes, ImageError | None]],
    min_short_side: int,
    known: Mapping[str, PictureFacts],
) -> list[Examined]:
    return [(item, data, error or _tried(data, min_short_side, known)) for item, data, error in batch]


def _tried(data: bytes, min_short_side: int, known: Mapping[str, PictureFacts]) -> PictureFacts | ImageError:
    try:
        return examine(data, min_short_side, known)
    except ImageError as error:
        return error
