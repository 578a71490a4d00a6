"""Each image once: read, hashed, decoded, fingerprinted, on all cores, with results in order and bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

from PIL import Image

from skumatch.data.delivery.layout import Item
from skumatch.data.fingerprints import fingerprint
from skumatch.data.images import opened, pixel_hash, upright_rgb
from skumatch.errors import ImageError

IN_FLIGHT_BYTES = 64_000_000
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


def examine(data: bytes, min_short_side: int) -> Facts:
    """Hash and decode one image. Raises ImageError with the reason why it can't be used."""
    with opened(data) as image:
        try:
            return _facts(image, data, min_short_side)
        finally:
            image.close()  # large pictures take turns; the next may start only when this one's pixels are gone


def _facts(image: Image.Image, data: bytes, min_short_side: int) -> Facts:
    mode, container = image.mode, str(image.format)
    picture = upright_rgb(image)
    if min(picture.size) < min_short_side:
        size = f"{picture.width} x {picture.height} px"
        raise ImageError("tiny", f"The picture is {size}, under {min_short_side}; deliver a larger crop.")
    digest = hashlib.sha256(data).hexdigest()
    return Facts(digest, pixel_hash(picture), *fingerprint(picture), picture.width, picture.height, mode, container)


def examine_all(items: Iterable[Item], read: Reader, min_short_side: int, threads: int | None = None) -> Iterator[Examined]:
    """Yield item, bytes and facts (or why not) in the order of `items`.

    This thread reads, so that a source need not be safe for several; `threads` (default: one a core) hash and decode, in
    libraries that release Python's lock. At most 64 MB or one image of the delivery are held at a time.
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
            waiting.append((size, pool.submit(_examine_batch, [_read(item, read) for item in batch], min_short_side)))
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


def _examine_batch(batch: list[tuple[Item, bytes, ImageError | None]], min_short_side: int) -> list[Examined]:
    return [(item, data, error or _tried(data, min_short_side)) for item, data, error in batch]


def _tried(data: bytes, min_short_side: int) -> Facts | ImageError:
    try:
        return examine(data, min_short_side)
    except ImageError as error:
        return error
