"""The threshold for near-copies, calibrated on the residuals of made copies and of different products."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skumatch.data.duplicates.alignment import residuals, thumbnail
from skumatch.data.duplicates.copies import KINDS, near_copy
from skumatch.data.duplicates.neighbours import RADIUS, Codes, Indices
from skumatch.data.fingerprints import fingerprint
from skumatch.data.images import Images

SAMPLE = 256  # number of pictures in the sample
FOUND = 0.99  # share of made copies that the threshold must let pass
APART = 0.5  # the threshold is at most this share of the look-alikes' low residual


@dataclass(frozen=True)
class Calibration:
    """Residuals (share of variance that differs) of a sample of pictures, and the threshold that follows.

    Attributes:
        threshold: largest residual of a copy.
        sample: number of pictures.
        copies: 99th percentile of the residuals of copies made of them.
        within: 5th percentile for the nearest picture of the same SKU, by hash; None if there is none.
        across: 5th percentile for the nearest picture of another SKU, by hash; None if there is none.
        recall: share of the made copies that hash and threshold both find.
        look_alikes: share of the nearest pictures of other SKUs that the threshold calls copies.
    """

    threshold: float
    sample: int
    copies: float
    within: float | None
    across: float | None
    recall: float
    look_alikes: float


def calibrate(
    codes: Codes, pixels: list[str], skus: NDArray[Any], pictures: Images, max_residual: float
) -> Calibration:
    """Choose the threshold for distinct pictures, in order of pixel hash.

    It lets 99 % of made copies pass, and is at most half of the look-alikes' low residual and at most
    `max_residual`. If these contradict, the copies win over the look-alikes, and `max_residual` over both.

    Args:
        codes: perceptual hashes of each picture, [n, w].
        pixels: pixel hashes, in hex.
        skus: the SKU of each picture, [n].
        pictures: the pictures.
        max_residual: upper bound of the threshold.
    """
    sample = np.sort(np.argsort([_draw(digest) for digest in pixels], kind="stable")[:SAMPLE])
    small = np.stack([thumbnail(pictures[i]) for i in sample])
    copies = [
        _copy(pictures, i, pixels[i], KINDS[place % len(KINDS)]) for place, i in enumerate(sample.tolist())
    ]
    differ = residuals(small, np.stack([thumbnail(copy) for copy in copies]))
    hashed = np.array(
        [
            _bits_apart(codes[i : i + 1], fingerprint(copy))[0] <= RADIUS
            for i, copy in zip(sample, copies, strict=True)
        ]
    )
    near = {same: _nearest_residuals(codes, skus, sample, pictures, same) for same in (True, False)}
    high, low = float(np.quantile(differ, FOUND)), _low(near[False])
    threshold = min(max_residual, max(high, APART * (low if low is not None else max_residual)))
    return Calibration(
        threshold=threshold,
        sample=len(sample),
        copies=high,
        within=_low(near[True]),
        across=low,
        recall=float(np.mean(hashed & (differ <= threshold))),
        look_alikes=float(np.mean(near[False] <= threshold)) if len(near[False]) else 0.0,
    )


def _draw(digest: str) -> str:
    return hashlib.sha256(f"calibrate:{digest}".encode()).hexdigest()


def _copy(pictures: Images, i: int, digest: str, kind: str) -> Any:
    seed = list(hashlib.sha256(digest.encode()).digest())
    return near_copy(pictures[i], np.random.default_rng(seed), kind)


def _bits_apart(codes: Codes, hashes: Any) -> Indices:
    """Return the least bits by which any hash of each row of `codes` differs from any of `hashes`."""
    apart = [np.bitwise_count(codes ^ np.uint64(value)).min(axis=1) for value in hashes]
    least: Indices = np.min(apart, axis=0).astype(np.int64)
    return least


def _nearest_residuals(
    codes: Codes, skus: NDArray[Any], sample: Indices, pictures: Images, same: bool
) -> NDArray[np.float64]:
    """Return the residual of each sampled picture and its nearest picture, by hash.

    The nearest picture is one of the same SKU, or of another SKU if `same` is False.
    """
    pairs = []
    for i in sample.tolist():
        others = np.flatnonzero((skus == skus[i]) == same)
        others = others[others != i]
        if len(others):
            pairs.append((i, int(others[np.argmin(_bits_apart(codes[others], codes[i]))])))
    if not pairs:
        return np.empty(0)
    first = np.stack([thumbnail(pictures[sampled]) for sampled, _ in pairs])
    second = np.stack([thumbnail(pictures[nearest]) for _, nearest in pairs])
    return residuals(first, second)


def _low(values: NDArray[np.float64]) -> float | None:
    return float(np.quantile(values, 0.05)) if len(values) else None
