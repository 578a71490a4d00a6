"""Where a view lies: crop, shape, rotation and perspective, brought onto the canvas by one resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skumatch.model import views
from skumatch.model.chance import generator
from skumatch.model.geometry import PixelBox, _grid, crop_box, moved_corners, warped
from skumatch.model.preprocess import Preprocess, planes
from skumatch.model.views import Drawn, augmented
from tests.model.plain import mild

CANVAS = Preprocess(height=64, width=48, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
unit = st.floats(0, 1, exclude_max=True)
sides = st.integers(1, 300)


@given(
    rows=sides,
    columns=sides,
    smallest=st.floats(0.1, 1),
    ratio=st.floats(0, 0.9),
    place=st.tuples(unit, unit, unit),
    shape=unit,
)
def test_a_crop_is_inside_large_enough_and_of_a_shape_within_the_ratio(
    rows: int, columns: int, smallest: float, ratio: float, place: tuple[float, float, float], shape: float
) -> None:
    box = crop_box(rows, columns, mild(min_crop=smallest, ratio=ratio), place, shape)
    assert 0 <= box.left <= box.left + box.width <= columns and 0 <= box.top <= box.top + box.height <= rows
    least = smallest / math.sqrt(1 + ratio)
    assert box.width >= max(1, round(least * columns) - 1) and box.height >= max(1, round(least * rows) - 1)
    if min(box) > 30 and box.width < columns and box.height < rows:
        assert 1 / (1 + ratio) * 0.95 <= (box.width / columns) / (box.height / rows) <= (1 + ratio) * 1.05


def test_ratio_makes_crops_wider_and_taller() -> None:
    shapes = [
        crop_box(1000, 1000, mild(min_crop=0.5, ratio=0.5), (0.3, 0.5, 0.5), shape) for shape in (0, 0.5, 1)
    ]
    assert [round(box.width / box.height, 2) for box in shapes] == [0.67, 1.0, 1.5]
    assert len({round(box.width * box.height, -4) for box in shapes}) == 1


@given(
    moves=st.lists(unit, min_size=8, max_size=8),
    turn=unit,
    perspective=st.floats(0, 0.24),
    rotate=st.floats(0, 45),
)
def test_corners_stay_convex_and_within_the_share(
    moves: list[float], turn: float, perspective: float, rotate: float
) -> None:
    box = PixelBox(10, 20, 100, 50)
    still = moved_corners(box, mild(perspective=perspective), moves, turn)
    assert (np.abs(still - box.corners()) <= np.array([100, 50]) * perspective + 1e-9).all()
    moved = moved_corners(box, mild(perspective=perspective, rotate=rotate), moves, turn)
    edges = np.roll(moved, -1, axis=0) - moved
    after = np.roll(edges, -1, axis=0)
    assert (edges[:, 0] * after[:, 1] - edges[:, 1] * after[:, 0] > 0).all()
    distances = [np.linalg.norm(corners - (60, 45), axis=1) for corners in (still, moved)]
    assert np.allclose(*distances)  # a rotation about the middle


@given(moves=st.lists(unit, min_size=8, max_size=8))
def test_the_map_takes_the_canvas_to_the_corners(moves: list[float]) -> None:
    quad = moved_corners(PixelBox(0, 0, 1, 1), mild(perspective=0.2), moves, 0)
    fine = _grid(quad, 200, 200)
    mapped = torch.stack([fine[0, 0], fine[0, -1], fine[-1, -1], fine[-1, 0]]).numpy()
    assert np.abs((mapped + 1) / 2 - quad).max() < 2e-2
    middle = (fine[99, 99] + 1).numpy() / 2
    (a, b), (c, d) = (quad[0], quad[2]), (quad[1], quad[3])  # the diagonals cross where the canvas's do
    at = np.linalg.solve(np.stack([b - a, c - d], axis=1), c - a)[0]
    assert np.abs(middle - (a + at * (b - a))).max() < 1e-2


def photo(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    pixels = np.stack(
        [128 + 100 * np.sin(9 * across), 128 + 100 * np.cos(7 * down), 255 * across * down], axis=-1
    )
    return Image.fromarray(pixels.astype(np.uint8))


def test_corners_that_stand_still_change_nothing() -> None:
    pixels = planes(photo(48, 64))
    assert warped(pixels, PixelBox(0, 0, 48, 64).corners(), 64, 48, CANVAS).equal(pixels)
    inner = warped(pixels, PixelBox(5, 7, 30, 40).corners(), 40, 30, CANVAS)
    assert inner.equal(pixels[:, 7:47, 5:35])


@pytest.mark.parametrize("seed", range(6))
def test_rotate_turns_as_pillow_does(seed: int) -> None:
    params = mild(min_crop=1.0, cutout=0, jitter=0.0, rotate=30)
    view = augmented(photo(48, 64), CANVAS, params, generator(seed)).permute(1, 2, 0).numpy()
    degrees = 30 * (2 * Drawn.of(generator(seed)).rotate[0] - 1)
    by_pillow = np.asarray(photo(48, 64).rotate(degrees, Image.Resampling.BILINEAR))
    difference = np.abs(view.astype(int) - by_pillow)[16:-16, 12:-12]
    assert difference.max() <= 2 and abs(degrees) > 1


def test_perspective_is_pillows() -> None:
    params = mild(min_crop=1.0, cutout=0, jitter=0.0, perspective=0.15)
    drawn = Drawn.of(generator(2))
    quad = moved_corners(PixelBox(0, 0, 48, 64), params, drawn.perspective, 0)
    x, y = (np.array([0.0, 48, 48, 0]), np.array([0.0, 0, 64, 64]))
    rows = [[*(a, b, 1), 0, 0, 0, -a * u, -b * u] for a, b, (u, _) in zip(x, y, quad, strict=True)]
    rows += [[0, 0, 0, *(a, b, 1), -a * v, -b * v] for a, b, (_, v) in zip(x, y, quad, strict=True)]
    solved = np.linalg.solve(np.array(rows), quad.T.ravel())
    by_pillow = photo(48, 64).transform(
        (48, 64), Image.Transform.PERSPECTIVE, solved.tolist(), Image.Resampling.BILINEAR
    )
    view = augmented(photo(48, 64), CANVAS, params, generator(2)).permute(1, 2, 0).numpy()
    assert np.abs(view.astype(int) - np.asarray(by_pillow))[16:-16, 12:-12].max() <= 2


def test_outside_the_picture_is_the_mean_colour() -> None:
    white = planes(Image.new("RGB", (50, 50), "white"))
    view = warped(white, PixelBox(-20, 0, 40, 50).corners(), 50, 40, CANVAS)
    assert (view[:, :, :19] == 128).all() and (view[:, :, 21:] == 255).all()


def test_a_large_picture_is_not_sampled_in_holes() -> None:
    fine = np.indices((900, 900)).sum(axis=0) % 2 * 255
    pixels = planes(Image.fromarray(np.repeat(fine[..., None], 3, axis=2).astype(np.uint8)))
    view = warped(
        pixels, moved_corners(PixelBox(50, 50, 800, 800), mild(rotate=9), [0.5] * 8, 0.9), 64, 48, CANVAS
    )
    assert view.float().std() < 4 and abs(view.float().mean() - 127.5) < 2


@pytest.mark.parametrize(
    "options",
    [
        {"rotate": 10.0},
        {"perspective": 0.1},
        {"rotate": 10.0, "perspective": 0.1, "ratio": 0.4, "min_crop": 0.6},
    ],
)
def test_however_many_options_there_is_one_resampling(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    resized = Preprocess.resized
    monkeypatch.setattr(
        Preprocess, "resized", lambda self, *size: done.append("resized") or resized(self, *size)
    )
    monkeypatch.setattr(views, "warped", lambda *all_of: done.append("warped") or warped(*all_of))
    augmented(photo(80, 90), CANVAS, mild(**options), generator(1))
    augmented(photo(80, 90), CANVAS, mild(ratio=0.4), generator(1))
    assert done == ["warped", "resized"]
