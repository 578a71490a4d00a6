"""What tells near-copies of a picture apart from other pictures: hashes that change little when the picture changes little."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, KEPT = 64, 8
CUTS = (
    0.0,
    0.025,
    0.05,
)  # share of the side cut off at each edge: a crop of one picture looks like a window of another


class Fingerprint(NamedTuple):
    """Perceptual hashes (64 bits each) of the whole picture and of its middle 95 % and 90 %."""

    phash: int
    phash95: int
    phash90: int


def _cosines(cut: float) -> NDArray[np.float64]:
    """[KEPT, SIDE]: the cosines of lowest frequency over the window that leaves `cut` at either edge, integrated over each pixel."""
    edges = np.clip((np.arange(SIDE + 1) / SIDE - cut) / (1 - 2 * cut), 0, 1)
    frequency = np.arange(1, KEPT)[:, None]
    waves = np.sqrt(2) * np.sin(np.pi * frequency * edges) / (np.pi * frequency)
    return np.diff(np.vstack([edges, waves]), axis=1)


COSINES = np.stack([_cosines(cut) for cut in CUTS])


def fingerprint(image: Image.Image) -> Fingerprint:
    """Which of the 8 x 8 lowest cosine frequencies of the grey picture lie above their median (pHash, Zauner 2010), for each window."""
    grey = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=1.0).convert("L")
    low = (COSINES @ np.asarray(grey, np.float64) @ COSINES.transpose(0, 2, 1)).reshape(len(CUTS), -1)
    low = low.round(6)  # so that the order of a sum's terms, which differs among CPUs, decides no bit
    bits = np.packbits(low > np.sort(low, axis=1)[:, [KEPT * KEPT // 2 - 1]], axis=1)
    return Fingerprint(*(int.from_bytes(row.tobytes()) for row in bits))
