"""Each image once: read, hashed, decoded, fingerprinted, on all cores, with results in order and bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

from PIL import Image

from skumatch.data.delivery.layout import Item
from skumatch.data.fingerprints import fingerprint
from skumatch.data.images import opened, pixel_hash, upright_rgb
from skumatch.errors import ImageError

IN_FLIGHT_BYTES = 64_000_000
FACTS_VERSION = 2  # raised where the same bytes give other facts; a test holds the code to it
BATCH, BATCH_BYTES = 16, 4_000_000
BATCHES_A_THREAD = 4


class Facts(NamedTuple):
    """What an image's bytes say; the fields are those of the manifest's columns."""

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
    def __call__(self, item: Item) -> bytes: ...


Examined = tuple[Item, bytes, Facts | ImageError]
NONE: Mapping[str, Facts] = {}


def examine(data: bytes, min_short_side: int, known: Mapping[str, Facts] = NONE) -> Facts:
    """Hash one image, and decode it unless its facts are known.

    Args:
        data: its bytes.
        min_short_side: pixels.
        known: facts by the SHA-256 of an image's bytes.

    Raises:
        ImageError: with the reason why it can't be used.
    """
    facts = known.get(hashlib.sha256(data).hexdigest()) if known else None
    if facts:
        check_size(facts.width, facts.height, min_short_side)
        return facts
    with opened(data) as image:
        try:
            return _facts(image, data, min_short_side)
        finally:
            # Large pictures take turns; the next may start only when this one's pixels are gone.
            image.close()


def _facts(image: Image.Image, data: bytes, min_short_side: int) -> Facts:
    mode, container = image.mode, str(image.format)
    picture = upright_rgb(image)
    check_size(*picture.size, min_short_side)
    digest = hashlib.sha256(data).hexdigest()
    return Facts(
        digest, pixel_hash(picture), *fingerprint(picture), picture.width, picture.height, mode, container
    )


def check_size(width: int, height: int, min_short_side: int) -> None:
    """Raise ImageError for a picture that is too small."""
    if min(width, height) < min_short_side:
        raise ImageError(
            "tiny", f"The picture is {width} x {height} px, under {min_short_side}; deliver a larger crop."
        )


def examine_all(
    items: Iterable[Item],
    read: Reader,
    min_short_side: int,
    known: Mapping[str, Facts] = NONE,
    threads: int | None = None,
) -> Iterator[Examined]:
    """Yield item, bytes and facts (or why not) in the order of `items`.

    This thread reads, so that a source need not be safe for several. At most 64 MB or one image are held at a
    time.

    Args:
        items: the images.
        read: returns an image's bytes.
        min_short_side: pixels; smaller ones can't be used.
        known: facts by the SHA-256 of an image's bytes; those images are not decoded.
        threads: that hash and decode, in libraries that release Python's lock; one a core by default.
    """
    count = threads or os.cpu_count() or 1
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


def _batches(items: Iterable[Item]) -> Iterator[tuple[list[Item], int]]:
    """Items in their order, a few at a time, with the bytes of all: handing over one by one costs a tenth of the time."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and (len(batch) == BATCH or size + item.size > BATCH_BYTES):
            yield batch, size
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch, size


def _read(item: Item, read: Reader) -> tuple[Item, bytes, ImageError | None]:
    try:
        return item, read(item), None
    except ImageError as error:
        return item, b"", error


def _examine_batch(
    batch: list[tuple[Item, bytes, ImageError | None]], min_short_side: int, known: Mapping[str, Facts]
) -> list[Examined]:
    return [(item, data, error or _tried(data, min_short_side, known)) for item, data, error in batch]


def _tried(data: bytes, min_short_side: int, known: Mapping[str, Facts]) -> Facts | ImageError:
    try:
        return examine(data, min_short_side, known)
    except ImageError as error:
        return error
