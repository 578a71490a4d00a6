"""Geometry of augmentation: the part of a picture that a view shows, and its resampling to the canvas."""

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

# [4, 2]: x and y of top left, top right, bottom right, bottom left, in pixels from the picture's corner
Corners = NDArray[np.float64]
FINEST = 2.0  # at most so many pixels of a picture per pixel of the view: bilinear sampling still uses all


class PixelBox(NamedTuple):
    """A rectangle in a picture, in whole pixels.

    Attributes:
        left: Distance from the picture's left edge.
        top: Distance from the picture's top edge.
        width: Width.
        height: Height.
    """

    left: int
    top: int
    width: int
    height: int

    def corners(self) -> Corners:
        """Return the rectangle's corners."""
        right, bottom = self.left + self.width, self.top + self.height
        return np.array(
            [(self.left, self.top), (right, self.top), (right, bottom), (self.left, bottom)], np.float64
        )


def crop_box(
    rows: int, columns: int, params: AugmentParams, place: Sequence[float], shape: float
) -> PixelBox:
    """Return a random crop with at least `params.min_crop` of each side, stretched by up to `params.ratio`.

    Args:
        rows: Height of the picture in pixels.
        columns: Width of the picture in pixels.
        params: Parameters of the augmentation.
        place: Random numbers 0..1 for the size, the place across and the place down.
        shape: Random number 0..1 for the stretch: 0 is tallest, 1 is widest.
    """
    size, across, down = place
    share = params.min_crop + (1 - params.min_crop) * size
    # the width is multiplied by it and the height divided, which keeps the area
    stretch = (1 + params.ratio) ** (shape - 0.5)
    width = max(1, min(columns, round(columns * share * stretch)))
    height = max(1, min(rows, round(rows * share / stretch)))
    return PixelBox(round((columns - width) * across), round((rows - height) * down), width, height)


def moved_corners(box: PixelBox, params: AugmentParams, moves: Sequence[float], turn: float) -> Corners:
    """Move each corner of a box by up to `params.perspective` of its sides, then turn all about its middle.

    Args:
        box: The box.
        params: Parameters of the augmentation.
        moves: Eight random numbers 0..1: x and y of each corner's move.
        turn: Random number 0..1 for the angle, which is at most `params.rotate` degrees either way.
    """
    middle = np.array([box.left + box.width / 2, box.top + box.height / 2])
    away = (2 * np.array(moves).reshape(4, 2) - 1) * params.perspective * (box.width, box.height)
    angle = math.radians(params.rotate) * (2 * turn - 1)
    turned = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners: Corners = (box.corners() + away - middle) @ turned + middle
    return corners


def warped(pixels: Tensor, corners: Corners, height: int, width: int, preprocess: Preprocess) -> Tensor:
    """Resample the quadrilateral between four corners of a picture to a rectangle.

    Places outside the picture get the mean colour. A part that is much larger than the result is first made
    smaller, so that every pixel counts.

    Args:
        pixels: uint8 [3, rows, columns].
        corners: The quadrilateral.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        preprocess: Its mean colour and interpolation are used.

    Returns:
        uint8 [3, height, width].
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
    """Compute grid_sample's grid, float32 [height, width, 2], that maps a canvas onto a quadrilateral.

    The quadrilateral is in shares of the picture's sides. For the projective map see Heckbert, Fundamentals
    of Texture Mapping and Image Warping (1989), 2.2.3.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (2 * quad - 1).tolist()
    sums = np.array([x0 - x1 + x2 - x3, y0 - y1 + y2 - y3])
    sides = np.array([[x1 - x2, x3 - x2], [y1 - y2, y3 - y2]])
    g, h = np.linalg.solve(sides, sums).tolist()
    across = ((torch.arange(width) + 0.5) / width)[None]
    down = ((torch.arange(height) + 0.5) / height)[:, None]
    depth = g * across + h * down + 1
    x = (x1 - x0 + g * x1) * across + (x3 - x0 + h * x3) * down + x0
    y = (y1 - y0 + g * y1) * across + (y3 - y0 + h * y3) * down + y0
    return torch.stack([x / depth, y / depth], dim=-1)
