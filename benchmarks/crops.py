"""Archive of a rehearsal: RP2K's form and proportions at any share of its size, with cheap small crops.

As in RP2K: the layout, the number of SKUs, a long tail of pictures a SKU, a catch-all class that is larger
than any SKU, a tenth of the pictures queries, crops two to three times as tall as wide, and names that the
zip garbles. Assumed, since it isn't published: a hundredth of the pictures are recompressed copies, and one
of 500 is a broken file. Not as in RP2K: crops have 100 to 400 pixels on their longer side and show
colour fields, so they are smaller and compress better than photos, and nothing is learnt from them.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks import archive
from benchmarks.archive import Crop
from skumatch.files import replacing
from skumatch.texts import read_names

IMAGES, SKUS = 384_311, 2_388  # RP2K's
OTHERS = "others"
OTHERS_SHARE = 0.03
NEW = "新品"
DELTA_SHARE = 0.01
QUESTIONS = 2_000
COPY_EVERY, BROKEN_EVERY = 99, 500  # crops; 99, so that some copies of gallery crops are queries
LIKENESS = 0.55  # weight of the SKU's own picture in a crop; the rest is the crop's alone


def skus_of(images: int, names: Path | None = None) -> list[str]:
    """Return the SKUs of an archive: all 2,388 if there are two pictures of each, else fewer.

    Args:
        images: number of crops in the archive.
        names: a text file of SKU names, one a line; None: made-up ones.
    """
    known = list(read_names(names)) if names else archive.names(SKUS)
    return known[: (images - round(OTHERS_SHARE * images)) // 2]


def delivery(images: int, skus: Sequence[str]) -> list[Crop]:
    """Plan the first delivery: the SKUs' crops, and those of the catch-all class."""
    others = round(OTHERS_SHARE * images)
    catch_all = archive.plan(others, [OTHERS], first=images - others)
    return [*archive.plan(images - others, skus), *catch_all]


def delta(images: int, skus: Sequence[str]) -> list[Crop]:
    """Plan a week's delivery: a hundredth more crops, of some known SKUs and of a few new ones."""
    count = max(round(DELTA_SHARE * images), 4)
    known = skus[: max(count // 8, 1)]
    new = [f"{NEW}{number}" for number in range(max(len(known) // 20, 1))]
    return archive.plan(count, [*known, *new], first=images)


def write_deliveries(folder: Path, images: int, names: Path | None = None) -> None:
    """Write `archive.zip`, `week.zip` and the folder `questions` of single pictures.

    Args:
        folder: the folder to write into.
        images: number of crops in the archive.
        names: a text file of SKU names, one a line; None: made-up ones.
    """
    skus = skus_of(images, names)
    folder.mkdir(parents=True, exist_ok=True)
    for name, crops in (("archive.zip", delivery(images, skus)), ("week.zip", delta(images, skus))):
        with replacing(folder / name) as aside:
            archive.write_zip(aside, encoded(crops), len(crops))
    questions = folder / "questions"
    questions.mkdir(exist_ok=True)
    for number in range(min(QUESTIONS, images)):
        sku = skus[number % len(skus)]
        (questions / f"{number:04d}.jpg").write_bytes(draw(sku, 2 * images + number))


def encoded(crops: Sequence[Crop]) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of each crop; a few are copies of the crop before, or broken."""
    for crop in crops:
        sku = crop.path.split("/")[2]
        if crop.seed % BROKEN_EVERY == BROKEN_EVERY // 2:
            kind = crop.seed // BROKEN_EVERY % 3
            whole = draw(sku, crop.seed)
            yield crop.path, (b"", whole[: len(whole) // 2], b"no picture")[kind]
        elif crop.seed % COPY_EVERY == 1:
            yield crop.path, draw(sku, crop.seed - 1, quality=60)
        else:
            yield crop.path, draw(sku, crop.seed)


def draw(sku: str, seed: int, quality: int = 85) -> bytes:
    """Return the JPEG of a made crop: the SKU's colour fields, mixed with some of the crop's own, and grain.

    Args:
        sku: name of the SKU.
        seed: of the crop.
        quality: of the JPEG, 1 to 100.
    """
    look = np.random.default_rng([3, zlib.crc32(sku.encode())]).integers(0, 256, (12, 5, 3))
    rng = np.random.default_rng([4, seed])
    height = int(np.clip(rng.lognormal(5.1, 0.35), 100, 400))
    width = max(40, round(height * rng.uniform(0.3, 0.5)))
    fields = LIKENESS * look + (1 - LIKENESS) * rng.integers(0, 256, (12, 5, 3))
    small = Image.fromarray(fields.astype(np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += rng.integers(-6, 7, (height, width, 1), dtype=np.int16)
    return bytes(simplejpeg.encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8), quality=quality))


if __name__ == "__main__":
    write_deliveries(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None)
