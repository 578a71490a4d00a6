"""Augmentation of training pictures: crop, rotation, perspective, occlusion, light, blur, JPEG, cutout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.nn import functional

from skumatch.data.images import Pixels, decode_pixels
from skumatch.model.geometry import crop_box, moved_corners, warped
from skumatch.model.preprocess import Picture, Preprocess, planes
from skumatch.params import AugmentParams

CUTOUT_CANVAS = 224  # train.augment.cutout is in pixels of a canvas with sides of this length
OVERLAP = (0.05, 0.25)  # least and largest share of the view that a neighbour covers
QUALITY = (30, 85)  # least and largest JPEG quality
LONGEST_BLUR = 16  # the longest motion blur is the shorter side divided by this
Neighbour = Callable[[float], Pixels]  # a number 0..1 -> another picture of the training set


class Drawn(NamedTuple):
    """The random numbers 0..1 of one view, a list per option.

    All of them are always drawn, so turning on one option doesn't change the others' numbers.

    Attributes:
        crop: Size, place across and place down of the crop.
        light: Brightness, contrast, and the tint of each of the three channels.
        cutout: Place down and place across of the cutout's centre.
        ratio: Change of the aspect ratio.
        rotate: Angle.
        perspective: Moves of the four corners, x and y of each.
        flip: The view is flipped if this is less than the option's probability.
        occlude: Compared with the probability; then the neighbour, the edge and the depth.
        blur: Compared with the probability; then length and direction.
        jpeg: Compared with the probability; then the quality.
    """

    crop: list[float]
    light: list[float]
    cutout: list[float]
    ratio: list[float]
    rotate: list[float]
    perspective: list[float]
    flip: list[float]
    occlude: list[float]
    blur: list[float]
    jpeg: list[float]

    @classmethod
    def of(cls, draws: torch.Generator) -> Self:
        """Draw the numbers of one view."""
        counts = (3, 5, 2, 1, 1, 8, 1, 4, 3, 2)
        numbers = iter(torch.rand(sum(counts), generator=draws, dtype=torch.float64).tolist())
        return cls(*([next(numbers) for _ in range(count)] for count in counts))


def augmented(
    picture: Picture,
    preprocess: Preprocess,
    params: AugmentParams,
    draws: torch.Generator,
    neighbour: Neighbour | None = None,
) -> Tensor:
    """Preprocess a picture with random changes.

    Args:
        picture: An RGB picture.
        preprocess: The canvas.
        params: Strength or probability of each option; an option at 0 takes no time.
        draws: Source of the random numbers.
        neighbour: Returns another picture for a number 0..1; needed if `params.occlude` is over 0.

    Returns:
        uint8 [3, preprocess.height, preprocess.width].
    """
    drawn = Drawn.of(draws)
    view = _framed(picture, preprocess, params, drawn, neighbour)
    if drawn.flip[0] < params.flip:
        view = view.flip(2)
    if params.jitter:
        view = _lit(view, params.jitter, drawn.light)
    if drawn.blur[0] < params.blur:
        view = _moved(view, *drawn.blur[1:])
    if drawn.jpeg[0] < params.jpeg:
        view = _compressed(view, drawn.jpeg[1])
    return _cut_out(view, params.cutout, preprocess, drawn.cutout) if params.cutout else view


def _framed(
    picture: Picture, preprocess: Preprocess, params: AugmentParams, drawn: Drawn, neighbour: Neighbour | None
) -> Tensor:
    """Lay a crop of the picture on the canvas, maybe rotated, distorted and occluded, resampled once."""
    pixels = planes(picture)
    rows, columns = pixels.shape[1:]
    box = crop_box(rows, columns, params, drawn.crop, drawn.ratio[0])
    corners = (
        moved_corners(box, params, drawn.perspective, drawn.rotate[0])
        if params.rotate or params.perspective
        else None
    )

    def resample(height: int, width: int) -> Tensor:
        if corners is None:
            part = pixels[:, box.top : box.top + box.height, box.left : box.left + box.width]
            view = preprocess.resized(part, height, width)
        else:
            view = warped(pixels, corners, height, width, preprocess)
        if drawn.occlude[0] < params.occlude:
            assert neighbour is not None, "train.augment.occlude needs other pictures"
            _occlude(view, planes(neighbour(drawn.occlude[1])), preprocess, *drawn.occlude[2:])
        return view

    return preprocess.placed(box.height, box.width, resample)


def _occlude(view: Tensor, other: Tensor, preprocess: Preprocess, edge: float, depth: float) -> None:
    """Cover one edge of the view (left, right, top or bottom) with the facing part of another picture.

    `edge` and `depth` are random numbers 0..1.
    """
    share = OVERLAP[0] + depth * (OVERLAP[1] - OVERLAP[0])
    axis, first = (2, 2, 1, 1)[int(4 * edge)], int(4 * edge) % 2 == 0
    covered, shown = (max(1, round(share * tensor.shape[axis])) for tensor in (view, other))
    target = view.narrow(axis, 0 if first else view.shape[axis] - covered, covered)
    part = other.narrow(axis, other.shape[axis] - shown if first else 0, shown)
    target.copy_(preprocess.resized(part, *target.shape[1:]))


def _lit(view: Tensor, strength: float, numbers: list[float]) -> Tensor:
    """Scale brightness and contrast by 1 +- strength, and each channel by 1 +- strength / 4."""
    light, contrast, *tint = (1 + strength * (2 * value - 1) for value in numbers)
    pixels, gain = view.numpy(), light * (1 + (np.array(tint, np.float32) - 1) / 4)
    # a sum of integers: the mean of floats depends on the number of threads
    centre = int(np.add.reduce(pixels.reshape(-1), dtype=np.uint32)) / pixels.size
    levels = (np.arange(256, dtype=np.float32) - np.float32(centre)) * np.float32(contrast) + np.float32(
        centre
    )
    # a table of 256 levels per channel: one look-up per pixel instead of a calculation
    table = (levels * gain[:, None]).round().clip(0, 255).astype(np.uint8)
    lit = b"".join(plane.tobytes().translate(row.tobytes()) for plane, row in zip(pixels, table, strict=True))
    return torch.frombuffer(bytearray(lit), dtype=torch.uint8).view(view.shape)


def _moved(view: Tensor, length: float, direction: float) -> Tensor:
    """Add motion blur: the mean along a line of 3 pixels to a 16th of the shorter side.

    The line has whole pixels, so that any machine computes the same. `length` and `direction` are random
    numbers 0..1.
    """
    longest = max(3, min(view.shape[1:]) // LONGEST_BLUR)
    taps, angle = 3 + int(length * (longest - 2)), math.pi * direction
    steps = [tap - (taps - 1) / 2 for tap in range(taps)]
    reach = taps // 2
    wide = functional.pad(view[None].to(torch.int16), (reach,) * 4, mode="replicate")[0]
    total = torch.zeros_like(view, dtype=torch.int16)
    for step in steps:
        down, across = (reach + math.floor(step * part + 0.5) for part in (math.sin(angle), math.cos(angle)))
        total += wide[:, down : down + view.shape[1], across : across + view.shape[2]]
    return (total.float() / taps).round_().to(torch.uint8)


def _compressed(view: Tensor, quality: float) -> Tensor:
    """Encode as JPEG and decode again; `quality` 0..1 is a JPEG quality of 30 to 85."""
    level = round(QUALITY[0] + quality * (QUALITY[1] - QUALITY[0]))
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(view.permute(1, 2, 0).numpy()), level, "RGB", "420")
    return planes(decode_pixels(data)).contiguous()


def _cut_out(view: Tensor, side: int, preprocess: Preprocess, numbers: list[float]) -> Tensor:
    """Fill a rectangle with the mean colour, its centre anywhere (DeVries & Taylor, arXiv 1708.04552)."""
    down, across = numbers
    rows, columns = preprocess.height * side // CUTOUT_CANVAS, preprocess.width * side // CUTOUT_CANVAS
    top, left = round(down * preprocess.height - rows / 2), round(across * preprocess.width - columns / 2)
    view[:, max(0, top) : max(0, top + rows), max(0, left) : max(0, left + columns)] = preprocess.fill()
    return view
