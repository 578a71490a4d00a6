"""Synthetic archive like RP2K's: tall crops, a long tail of SKUs, and Chinese names that become mojibake."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from skumatch.data.packages import catalogue, design
from skumatch.data.sample import photograph
from skumatch.progress import track

BASES = 48  # rendered photos that all crops are cut from
CHUNK = 256
WORDS = ("清风", "冰红茶", "原味", "低糖", "经典", "绿茶", "鲜橙", "香辣", "金装", "星空")
SIZES = ("330ml", "500ml", "1.5L", "100g", "12支装")


class Crop(NamedTuple):
    """One image of the archive.

    Attributes:
        path: its path in the archive.
        seed: of its pixels.
    """

    path: str
    seed: int


def names(count: int) -> list[str]:
    """Return `count` made-up product names in Chinese, all different."""
    kinds = len(WORDS) * len(SIZES)
    return [
        f"{WORDS[i % len(WORDS)]}{SIZES[i // len(WORDS) % len(SIZES)]}（{i // kinds}）" for i in range(count)
    ]


def plan(images: int, skus: Sequence[str], first: int = 0) -> list[Crop]:
    """Plan the crops of an archive, a tenth of them queries.

    The number of crops of a SKU has a long tail like RP2K's. Each SKU has at least two if there are enough.

    Args:
        images: number of crops.
        skus: names of the SKUs.
        first: number and seed of the first crop; later ones count up.
    """
    weights = np.random.default_rng(0).lognormal(0, 1.6, len(skus))
    more = max(images - 2 * len(skus), 0)
    wanted = weights / weights.sum() * more
    spread = np.floor(wanted).astype(int) + 2
    spread[np.argsort(np.floor(wanted) - wanted)[: more - int(np.floor(wanted).sum())]] += 1
    labels = np.repeat(np.arange(len(skus)), spread)[:images]
    sides = ["test" if number % 10 == 1 else "train" for number in range(images)]
    return [
        Crop(f"all/{side}/{skus[sku]}/{first + n:06d}.jpg", first + n)
        for n, (sku, side) in enumerate(zip(labels, sides, strict=True))
    ]


def write_archive(path: Path, crops: Sequence[Crop]) -> int:
    """Write the crops as a zip like RP2K's.

    Returns:
        The size of all images in bytes.
    """
    return write_zip(path, zip((crop.path for crop in crops), encoded(crops), strict=True), len(crops))


def write_zip(path: Path, entries: Iterable[tuple[str, bytes]], count: int) -> int:
    """Write a zip whose UTF-8 names lack the UTF-8 flag, as RP2K's.

    Args:
        path: of the zip.
        entries: path in the zip and content of each file.
        count: number of entries, for the progress report.

    Returns:
        The size of all files in bytes.
    """
    written = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive, track("archive", count) as advance:
        for name, data in entries:
            archive.writestr(_Unflagged(name), data)
            written += len(data)
            advance()
    return written


class _Unflagged(zipfile.ZipInfo):
    # The name is zipfile's; there is no public way to leave the flag out.
    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
        return self.filename.encode("utf-8"), self.flag_bits & ~0x800


def encoded(crops: Sequence[Crop]) -> Iterator[bytes]:
    """Yield the JPEG of each crop, in their order; several threads make them."""
    bases = rendered(min(BASES, len(crops)))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(crops), CHUNK):
            yield from pool.map(lambda crop: _jpeg(bases, crop.seed), crops[start : start + CHUNK])


def rendered(count: int) -> list[Image.Image]:
    """Return one photo of each of `count` made-up packages, from which `shot` cuts parts."""
    shelf = catalogue(count)
    rng = np.random.default_rng(1)
    return [
        photograph(design(sku), [design(shelf[i]) for i in rng.integers(count, size=2)], rng) for sku in shelf
    ]


def _jpeg(bases: Sequence[Image.Image], seed: int) -> bytes:
    rng = np.random.default_rng([2, seed])
    height = int(np.clip(rng.lognormal(6, 0.35), 100, 600))
    size = (max(60, round(height * rng.uniform(0.3, 0.5))), height)
    return shot(bases[seed % len(bases)], size, rng)


def shot(base: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> bytes:
    """Return a JPEG of a random part of a photo, with changed brightness and with grain.

    Args:
        base: the photo.
        size: width and height of the JPEG in pixels.
        rng: draws the part, the brightness and the grain.
    """
    left, top = rng.uniform(0, 0.2, 2) * base.size
    box = (left, top, left + 0.8 * base.width, top + 0.8 * base.height)
    grain = rng.integers(-6, 7, (size[1], size[0], 1), dtype=np.int16)
    pixels = np.asarray(base.resize(size, Image.Resampling.BILINEAR, box)) * rng.uniform(0.8, 1.2) + grain
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()
