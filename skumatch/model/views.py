"""Training pictures: augmented, and batched with the same bits in this process or in workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skumatch.model.chance import generator
from skumatch.model.geometry import crop_box, moved_corners, warped
from skumatch.model.preprocess import Preprocess
from skumatch.model.runtime import ignore_sigterm
from skumatch.model.schedule import Key, Schedule
from skumatch.params import AugmentParams, TrainParams
from skumatch.progress import Advance

if TYPE_CHECKING:
    from skumatch.data.images import Images, Pixels
import math
from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import simplejpeg
from torch.nn import functional

from skumatch.data.images import Pixels, decode_pixels
from skumatch.model.preprocess import Picture, planes

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


class Views(Dataset[tuple[Tensor, int]]):
    """A data set of views: item `Key` is the image augmented for that epoch, uint8 [3, H, W], and its label.

    Attributes:
        images: The training pictures.
        labels: Each picture's class.
        preprocess: Canvas of the augmented views.
        params: Parameters of the augmentation.
        seed: Seed of the augmentation.
        fix: The first epoch that shows whole pictures as they are served, and their preprocessing; None if
            no epoch does.
    """

    def __init__(
        self,
        images: Images,
        labels: list[int],
        preprocess: Preprocess,
        params: AugmentParams,
        seed: int,
        fix: tuple[int, Preprocess] | None = None,
    ) -> None:
        self.images, self.labels, self.preprocess = images, labels, preprocess
        self.params, self.seed, self.fix = params, seed, fix

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        epoch, index, again = key
        if self.fix and epoch >= self.fix[0]:
            return self.fix[1](self.images.pixels(index)), self.labels[index]
        draws = generator(self.seed, "augment", epoch, index, *([again] if again else []))
        view = augmented(
            self.images.pixels(index),
            self.preprocess,
            self.params,
            draws,
            lambda share: self._other(index, share),
        )
        return view, self.labels[index]

    def _other(self, index: int, share: float) -> Pixels:
        """Return another picture than number `index`; `share`, 0..1, selects one of the others."""
        return self.images.pixels((index + 1 + int(share * (len(self.images) - 1))) % len(self.images))


def batches(
    views: Views, schedule: Schedule, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, int]]:
    """Load the batches of the steps that a schedule has left.

    Args:
        views: The data set.
        schedule: The keys of each batch, for this process.
        workers: Processes that prepare pictures; 0 prepares them in this one.
        device: Batches for a GPU are put into pinned memory.

    Returns:
        An iterable of pixels, uint8 [B, 3, H, W], and labels, int64 [B]. B counts this process's pictures.
    """
    return DataLoader(
        views,
        batch_sampler=schedule,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_sigterm,
    )


def seen(
    images: Images, preprocess: Preprocess, params: TrainParams, seed: int, workers: int, advance: Advance
) -> Iterator[Tensor]:
    """Yield `params.probe.views` views of every picture on the whole canvas, for a probe.

    The first view of each picture is the one that is served; the others are augmented. All first views come
    before all second ones, each time in the order of the pictures.

    Args:
        images: The training pictures.
        preprocess: The whole canvas.
        params: Parameters of the training.
        seed: Seed of the augmentation.
        workers: Processes that prepare pictures; 0 prepares them in this one.
        advance: Called with the number of pictures in each batch.

    Yields:
        uint8 [B, 3, H, W].
    """
    views = Views(images, [0] * len(images), preprocess, params.augment, seed)
    plain = Views(images, views.labels, preprocess, params.augment, seed, fix=(0, preprocess))
    batch_indices = [
        list(range(start, min(start + params.batch, len(images))))
        for start in range(0, len(images), params.batch)
    ]
    for view in range(params.probe.views):
        keys = [[Key(view, index) for index in indices] for indices in batch_indices]
        for pixels, labels in DataLoader(views if view else plain, batch_sampler=keys, num_workers=workers):
            advance(len(labels))
            yield pixels
