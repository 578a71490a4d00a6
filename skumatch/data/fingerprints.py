"""Perceptual hashes, which change little when a picture changes little: they find near-copies."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
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


SIDE, KEPT = 64, 8
# Share of the side cut off at each edge: a cropped copy resembles such a window of its original.
CUTS = (0.0, 0.025, 0.05)


class Fingerprint(NamedTuple):
    """Perceptual hashes of a picture, 64 bits each.

    Attributes:
        phash: of the whole picture.
        phash95: of its middle 95 %.
        phash90: of its middle 90 %.
    """

    phash: int
    phash95: int
    phash90: int


def _cosines(cut: float) -> NDArray[np.float64]:
    """Return the cosines of lowest frequency over a window, integrated over each pixel: [KEPT, SIDE].

    The window leaves out the share `cut` of the side at either edge.
    """
    edges = np.clip((np.arange(SIDE + 1) / SIDE - cut) / (1 - 2 * cut), 0, 1)
    frequency = np.arange(1, KEPT)[:, None]
    waves = np.sqrt(2) * np.sin(np.pi * frequency * edges) / (np.pi * frequency)
    return np.diff(np.vstack([edges, waves]), axis=1)


COSINES = np.stack([_cosines(cut) for cut in CUTS])


def fingerprint(image: Image.Image) -> Fingerprint:
    """Return the perceptual hashes of an RGB picture (pHash, Zauner 2010), one for each window.

    A bit is 1 if its coefficient, among the 8 x 8 lowest cosine frequencies of the grey picture, is above
    their median.
    """
    grey = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=1.0).convert("L")
    low = (COSINES @ np.asarray(grey, np.float64) @ COSINES.transpose(0, 2, 1)).reshape(len(CUTS), -1)
    low = low.round(6)  # CPUs differ in the order of a sum's terms; rounded, it decides no bit
    bits = np.packbits(low > np.sort(low, axis=1)[:, [KEPT * KEPT // 2 - 1]], axis=1)
    return Fingerprint(*(int.from_bytes(row.tobytes()) for row in bits))
