"""Where a training view lies in its picture, and the one resampling that brings it from there onto the canvas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from skumatch.model.preprocess import Preprocess
from skumatch.params import AugmentParams

Corners = NDArray[
    np.float64
]  # [4, 2]: x and y of top left, top right, bottom right, bottom left, in pixels from the picture's corner
FINEST = 2.0  # pixels of a picture for one of the view, of which bilinear sampling still sees all


class Box(NamedTuple):
    """A part of a picture, in whole pixels."""

    left: int
    top: int
    width: int
    height: int

    def corners(self) -> Corners:
        right, bottom = self.left + self.width, self.top + self.height
        return np.array(
            [(self.left, self.top), (right, self.top), (right, bottom), (self.left, bottom)], np.float64
        )


def crop_box(rows: int, columns: int, params: AugmentParams, place: Sequence[float], shape: float) -> Box:
    """A box of at least `min_crop` of each side, made wider or taller by up to `ratio`.

    place (size, across, down) and shape are drawn numbers 0..1.
    """
    size, across, down = place
    share = params.min_crop + (1 - params.min_crop) * size
    stretch = (1 + params.ratio) ** (
        shape - 0.5
    )  # of the width, and its inverse of the height: the area stays
    width = max(1, min(columns, round(columns * share * stretch)))
    height = max(1, min(rows, round(rows * share / stretch)))
    return Box(round((columns - width) * across), round((rows - height) * down), width, height)


def moved_corners(box: Box, params: AugmentParams, moves: Sequence[float], turn: float) -> Corners:
    """The box's corners, each moved by up to `perspective` of the sides, then turned about the middle.

    moves (8) and turn are drawn numbers 0..1.
    """
    middle = np.array([box.left + box.width / 2, box.top + box.height / 2])
    away = (2 * np.array(moves).reshape(4, 2) - 1) * params.perspective * (box.width, box.height)
    angle = math.radians(params.rotate) * (2 * turn - 1)
    turned = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    found: Corners = (box.corners() + away - middle) @ turned + middle
    return found


def warped(pixels: Tensor, corners: Corners, height: int, width: int, preprocess: Preprocess) -> Tensor:
    """What lies between `corners` of uint8 [3, rows, columns], as uint8 [3, height, width].

    The mean colour where there is no picture.

    A much larger part is first made smaller, so that no pixel is left out.
    """
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
    part = pixels[:, top:bottom, left:right]
    sides, limits = np.array(part.shape[:0:-1]), np.ceil(FINEST * np.array([width, height])).astype(int)
    smaller = np.minimum(sides, limits)
    if (smaller < sides).any():
        part = preprocess.resized(part, int(smaller[1]), int(smaller[0]))
    grid = _grid((corners - (left, top)) / sides, height, width)
    fill = preprocess.fill()
    sampled = functional.grid_sample((part.float() - fill)[None], grid[None], align_corners=False)[0]
    return sampled.add_(fill).round_().clamp_(0, 255).to(torch.uint8)


def _grid(quad: Corners, height: int, width: int) -> Tensor:
    """The projective map of a canvas onto a quadrilateral (in shares of the picture), as grid_sample wants it, float32 [height, width, 2].

    Heckbert, Fundamentals of Texture Mapping and Image Warping (1989), 2.2.3.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (2 * quad - 1).tolist()
    sums, sides = (
        np.array([x0 - x1 + x2 - x3, y0 - y1 + y2 - y3]),
        np.array([[x1 - x2, x3 - x2], [y1 - y2, y3 - y2]]),
    )
    g, h = np.linalg.solve(sides, sums).tolist()
    across, down = (((torch.arange(side) + 0.5) / side) for side in (width, height))
    across, down = across[None], down[:, None]
    depth = g * across + h * down + 1
    x = (x1 - x0 + g * x1) * across + (x3 - x0 + h * x3) * down + x0
    y = (y1 - y0 + g * y1) * across + (y3 - y0 + h * y3) * down + y0
    return torch.stack([x / depth, y / depth], dim=-1)
