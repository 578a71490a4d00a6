"""The difference of two pictures after alignment in scale, shift, gain and offset.

Pictures are aligned by Gauss-Newton steps on grey pictures, coarse to fine (Lucas and Kanade 1981; gradients
of the fixed picture, as in Baker and Matthews 2004), over scale and shift of each axis and a common gain and
offset. They are compared in colour, since flavours of one brand often differ in nothing else.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skumatch.config import cores

SIDE, COARSE = 48, 16  # pixels
# Side and number of steps of each round, and pairs at a time: their arrays stay in a core's cache.
ROUNDS = ((COARSE, 4, 128), (SIDE, 2, 32))
UNALIKE = 0.2  # residual of the coarse round from which a pair is dropped; a copy's is at most 0.12
WHITE = 244  # level from which a brighter copy may have lost its detail
NOISE = 0.5  # variance that counts as noise, in squared levels
LEAST_SEEN = 0.05  # least share of colour values that are burnt out in neither picture
GREY = np.array([0.299, 0.587, 0.114], np.float32)
LARGEST_SCALE, LARGEST_SHIFT, STEP = 1.15, 0.13, 0.08  # in half sides

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


def thumbnail(image: Image.Image) -> Pictures:
    """Return the picture resized to 48 x 48 px, whatever its shape, RGB: [48, 48, 3]."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0))


def residuals(first: Pictures, second: Pictures) -> NDArray[np.float64]:
    """Return the share of each pair's variance that differs after alignment.

    Two pictures without any contrast are no copies by this measure.

    Args:
        first: thumbnails, [n, 48, 48, 3].
        second: the other thumbnail of each pair, [n, 48, 48, 3].

    Returns:
        [n]: 0 for copies, about 1 for pictures with nothing in common.
    """
    # Scale and shift of each pair and axis.
    place = np.tile(np.array([1, 0], np.float32), (len(first), 2, 1))
    differences, remaining = np.ones(len(first)), np.arange(len(first))
    with ThreadPoolExecutor(cores()) as pool:
        for side, steps, block in ROUNDS:

            def compare(rows: NDArray[np.int64], side: int = side, steps: int = steps) -> None:
                a, b = _shrunk(first[rows], side), _shrunk(second[rows], side)
                place[rows] = _aligned(_blurred(a @ GREY), _blurred(b @ GREY), place[rows], steps)
                differences[rows] = _difference(a, b, place[rows])

            list(pool.map(compare, [remaining[i : i + block] for i in range(0, len(remaining), block)]))
            remaining = remaining[differences[remaining] < UNALIKE]
    return differences


def _shrunk(pictures: Pictures, side: int) -> Floats:
    ratio = SIDE // side
    if ratio == 1:
        return pictures.astype(np.float32)
    rows = _summed(pictures.reshape(len(pictures), side, ratio, -1), 2)
    sums = _summed(rows.reshape(len(pictures), side, side, ratio, 3), 3)
    return sums.astype(np.float32) / np.float32(ratio**2)


def _summed(values: NDArray[Any], axis: int) -> NDArray[np.uint16]:
    """Sum over a short axis: numpy's own sum is slow there."""
    first, *others = np.moveaxis(values, axis, 0)
    total: NDArray[np.uint16] = first.astype(np.uint16)
    for other in others:
        total += other
    return total


def _blurred(values: Floats) -> Floats:
    """Average each pixel of [n, y, x, ...] with its neighbours, by weights 1-2-1 along each axis."""
    for axis in (1, 2):
        blurred = np.empty_like(values)
        v, around = np.moveaxis(values, axis, 0), np.moveaxis(blurred, axis, 0)
        np.add(v[:-2], v[2:], out=around[1:-1])
        np.add(v[:1], v[1:2], out=around[:1])
        np.add(v[-2:-1], v[-1:], out=around[-1:])
        blurred /= 2
        blurred += values
        blurred /= 2
        values = blurred
    return values


def _widened(flags: Flags) -> Flags:
    """Add to the flagged pixels of [n, y, x, ...] their neighbours, where `_blurred` is above 0."""
    for axis in (1, 2) if flags.any() else ():
        widened = flags.copy()
        f, wide = np.moveaxis(flags, axis, 0), np.moveaxis(widened, axis, 0)
        wide[1:] |= f[:-1]
        wide[:-1] |= f[1:]
        flags = widened
    return flags


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
    burnt = [_widened(v >= WHITE).reshape(n, -1) for v in (warped, b)]
    x, y = _blurred(warped).reshape(n, -1), _blurred(b).reshape(n, -1)
    clean = (seen & ~burnt[0] & ~burnt[1]).astype(np.float32)
    count = clean.sum(axis=1, keepdims=True)
    mean_x, mean_y = ((v * clean).sum(axis=1, keepdims=True) / np.maximum(count, 1) for v in (x, y))
    x -= mean_x
    deviation = x * clean
    covariance = (deviation * y).sum(axis=1, keepdims=True)
    gain = covariance / (_squared(deviation).sum(axis=1, keepdims=True) + count + 1)
    total = seen.sum(axis=1)
    spread = y - (y * seen).sum(axis=1, keepdims=True) / total[:, None]
    spread *= seen
    x *= gain
    y -= mean_y
    y -= x
    # A burnt-out pixel was at least as bright as it looks.
    np.minimum(y, 0, out=y, where=burnt[0])
    np.maximum(y, 0, out=y, where=burnt[1])
    y *= seen
    noise = NOISE * total  # makes the share 1 for two pictures without contrast
    unexplained = (_squared(y).sum(axis=1) + noise) / (_squared(spread).sum(axis=1) + noise)
    return np.where(count[:, 0] < LEAST_SEEN * total, 1.0, unexplained).astype(np.float64)


def _squared(values: NDArray[Any]) -> NDArray[Any]:
    """Square the values in place."""
    np.square(values, out=values)
    return values
