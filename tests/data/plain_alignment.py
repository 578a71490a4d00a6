"""The residual of alignment.py written plainly: no threads, no blocks, no work in place.

What fits one picture to the other is alignment.py's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skumatch.data.duplicates.alignment import _aligned, _warped

STEPS = ((16, 4), (48, 2))
GREY = np.array([0.299, 0.587, 0.114], np.float32)

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float32]


def plain_residuals(first: Pictures, second: Pictures) -> NDArray[np.float64]:
    # Scale and shift of each pair and axis.
    place = np.tile(np.array([1, 0], np.float32), (len(first), 2, 1))
    differences = np.ones(len(first))
    remaining = np.arange(len(first))
    for side, steps in STEPS:
        a, b = _shrunk(first[remaining], side), _shrunk(second[remaining], side)
        place = _aligned(_blurred(a @ GREY), _blurred(b @ GREY), place, steps)
        differences[remaining] = _difference(a, b, place)
        near = differences[remaining] < 0.2
        remaining, place = remaining[near], place[near]
        if not len(remaining):
            break
    return differences


def _shrunk(pictures: Pictures, side: int) -> Floats:
    ratio = 48 // side
    blocks = pictures.reshape(len(pictures), side, ratio, side, ratio, 3)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float32))


def _blurred(values: Floats) -> Floats:
    """Average each pixel of [n, y, x, ...] with its neighbours, by weights 1-2-1 along each axis."""
    for axis in (1, 2):
        first, last = (values.take([end], axis=axis) for end in (0, -1))
        before = np.concatenate([first, values], axis=axis)
        after = np.concatenate([values, last], axis=axis)
        around = before.take(range(values.shape[axis]), axis=axis) + after.take(
            range(1, values.shape[axis] + 1), axis=axis
        )
        values = (values + around / 2) / 2
    return values


def _difference(a: Floats, b: Floats, place: Floats) -> NDArray[np.float64]:
    """Return the share of the variance of `b` that a gain and an offset of `a` don't explain, in colour.

    Only pixels that lie inside both pictures count.
    """
    warped, inside = _warped(a, place)
    n = len(a)
    seen = np.repeat(inside.reshape(n, -1), 3, axis=1)
    burnt = [_blurred((v >= 244).astype(np.float32)).reshape(n, -1) > 0 for v in (warped, b)]
    x, y = _blurred(warped).reshape(n, -1), _blurred(b).reshape(n, -1)
    clean = (seen & ~burnt[0] & ~burnt[1]).astype(np.float32)
    count = clean.sum(axis=1, keepdims=True)
    mean_x, mean_y = ((v * clean).sum(axis=1, keepdims=True) / np.maximum(count, 1) for v in (x, y))
    deviation = (x - mean_x) * clean
    gain = (deviation * y).sum(axis=1, keepdims=True) / (
        (deviation**2).sum(axis=1, keepdims=True) + count + 1
    )
    error = y - mean_y - gain * (x - mean_x)
    # A burnt-out pixel was at least as bright as it looks.
    error = np.where(burnt[0], np.minimum(error, 0), error)
    error = np.where(burnt[1], np.maximum(error, 0), error) * seen
    total = seen.sum(axis=1)
    spread = (y - (y * seen).sum(axis=1, keepdims=True) / total[:, None]) * seen
    noise = 0.5 * total  # makes the share 1 for two pictures without contrast
    unexplained = ((error**2).sum(axis=1) + noise) / ((spread**2).sum(axis=1) + noise)
    return np.where(count[:, 0] < 0.05 * total, 1.0, unexplained).astype(np.float64)
