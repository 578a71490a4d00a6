"""Near-copies made on purpose, to calibrate and test the search for duplicates."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from skumatch.data.images import decode

KINDS = ("scale", "jpeg", "crop", "brightness", "all")
SCALE = (0.5, 1.5)
QUALITY = (30, 95)
CROP = 0.05  # share of the side, at each edge
BRIGHTNESS = (0.7, 1.3)


def near_copy(image: Image.Image, generator: np.random.Generator, kind: str = "all") -> Image.Image:
    """Return a picture scaled, cropped, lit otherwise or saved as JPEG, or all of these in turn.

    Args:
        image: the RGB picture.
        generator: decides how much it is changed.
        kind: one of KINDS.
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
