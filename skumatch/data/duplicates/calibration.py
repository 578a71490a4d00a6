"""How alike copies are in this data, and how alike different products: what decides from when on a pair is a copy."""

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

SAMPLE = 256  # pictures looked at
FOUND = 0.99  # share of made copies that the threshold must let pass
APART = 0.5  # of what the nearest other products differ by, at most


@dataclass(frozen=True)
class Calibration:
    """Residuals (share of variance that differs) of a sample of pictures, and the threshold that follows.

    copies: 99th percentile for copies made of them. within, across: 5th percentile for the nearest picture of
    the same SKU and of another one, by hash; None where there is none. recall: share of the copies that hash
    and threshold both find. look_alikes: share of the nearest pictures of other SKUs that the threshold would
    call copies.
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
    """Choose the threshold for pictures with hashes `codes` [n, w], pixel hashes and SKUs, in order of pixel hash.

    It lets 99 % of made copies pass and stays below half of what look-alikes of other SKUs differ by, and below `max_residual`;
    where these contradict, the copies win over the look-alikes and `max_residual` over both.
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
    """Least bits by which any hash of each row of `codes` differs from any of `hashes`."""
    apart = [np.bitwise_count(codes ^ np.uint64(value)).min(axis=1) for value in hashes]
    least: Indices = np.min(apart, axis=0).astype(np.int64)
    return least


def _nearest_residuals(
    codes: Codes, skus: NDArray[Any], sample: Indices, pictures: Images, same: bool
) -> NDArray[np.float64]:
    """Residuals of the sample's pictures and each one's nearest by hash of the same SKU, or of another."""
    pairs = []
    for i in sample.tolist():
        others = np.flatnonzero((skus == skus[i]) == same)
        others = others[others != i]
        if len(others):
            pairs.append((i, int(others[np.argmin(_bits_apart(codes[others], codes[i]))])))
    if not pairs:
        return np.empty(0)
    return residuals(*(np.stack([thumbnail(pictures[pair[end]]) for pair in pairs]) for end in (0, 1)))


def _low(values: NDArray[np.float64]) -> float | None:
    return float(np.quantile(values, 0.05)) if len(values) else None
