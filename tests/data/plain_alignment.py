"""The residual of alignment.py written plainly: no threads, no blocks, no work in place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = ((16, 4), (48, 2))
GREY = np.array([0.299, 0.587, 0.114], np.float32)
LARGEST_SCALE, LARGEST_SHIFT, STEP = 1.15, 0.13, 0.08

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


def _aligned(a: Floats, b: Floats, place: Floats, steps: int) -> Floats:
    """Return scale and shift [n, 2, 2] of each axis that align `a` with `b`; both are grey [n, side, side].

    `place` has the values to start from.
    """
    n, side, _ = a.shape
    u = _centres(side)
    slope_y, slope_x = np.gradient(b, axis=1) * side / 2, np.gradient(b, axis=2) * side / 2
    columns = [np.ones_like(b), b, slope_y * u[:, None], slope_y, slope_x * u, slope_x]
    inner = np.zeros((side, side), np.float32)
    inner[1:-1, 1:-1] = 1
    jacobian = np.stack(columns, axis=1).reshape(n, 6, -1)
    for _ in range(steps):
        warped, inside = _warped(a[..., None], place)
        weighted = jacobian * (inside * inner).reshape(n, 1, -1)
        normal = weighted @ jacobian.transpose(0, 2, 1)
        normal += np.eye(6, dtype=np.float32) * (
            1e-5 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-3
        )
        solved = np.linalg.solve(normal, weighted @ warped.reshape(n, -1, 1))[..., 0]
        change = np.clip(solved[:, 2:] / np.maximum(solved[:, 1:2], 0.2), -STEP, STEP).reshape(n, 2, 2)
        scale = place[..., 0] / (1 + change[..., 0])
        shift = place[..., 1] - scale * change[..., 1]
        bounds = (1 / LARGEST_SCALE, -LARGEST_SHIFT), (LARGEST_SCALE, LARGEST_SHIFT)
        place = np.clip(np.stack([scale, shift], axis=-1), *np.array(bounds, np.float32))
    return place


def _centres(side: int) -> Floats:
    """Return the centres of `side` pixels along an axis from -1 to 1."""
    return ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)


def _warped(a: Floats, place: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Sample `a` [n, side, side, channels] at `place`; also return a mask of samples inside `a`."""
    side = a.shape[1]
    at = (_centres(side) * place[..., :1] + place[..., 1:] + 1) / 2 * side - 0.5
    weights = np.maximum(
        0, 1 - np.abs(np.clip(at, 0, side - 1)[..., None] - np.arange(side, dtype=np.float32))
    )
    inside = np.abs(at - (side - 1) / 2) <= side / 2
    rows, columns = weights[:, None, 0], weights[:, None, 1].transpose(0, 1, 3, 2)
    warped = (rows @ a.transpose(0, 3, 1, 2) @ columns).transpose(0, 2, 3, 1)
    return warped, inside[:, 0, :, None] & inside[:, 1, None, :]


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
