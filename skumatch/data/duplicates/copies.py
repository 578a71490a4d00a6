"""Near-copies made on purpose: what a search for duplicates is calibrated and tested with."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from skumatch.data.images import decode

KINDS = ("scale", "jpeg", "crop", "brightness", "all")
SCALE, QUALITY, CROP, BRIGHTNESS = (
    (0.5, 1.5),
    (30, 95),
    0.05,
    (0.7, 1.3),
)  # CROP: share of the side, at each edge


def near_copy(image: Image.Image, generator: np.random.Generator, kind: str = "all") -> Image.Image:
    """The RGB picture scaled, cropped, lit otherwise or saved as JPEG.

    Or all of these, one after the other.
    """
    if kind in ("scale", "all"):
        scale = generator.uniform(*SCALE)
        image = image.resize(
            (max(32, round(image.width * scale)), max(32, round(image.height * scale))),
            Image.Resampling.BICUBIC,
        )
    if kind in ("crop", "all"):
        left, top, right, bottom = generator.uniform(0, CROP, 4) * (*image.size, *image.size)
        image = image.crop(
            (round(left), round(top), image.width - round(right), image.height - round(bottom))
        )
    if kind in ("brightness", "all"):
        gain = generator.uniform(*BRIGHTNESS)
        image = image.point([min(255, round(gain * level)) for level in range(256)] * 3)
    if kind in ("jpeg", "all"):
        saved = io.BytesIO()
        image.save(saved, "JPEG", quality=int(generator.integers(QUALITY[0], QUALITY[1] + 1)))
        image = decode(saved.getvalue())
    return image
