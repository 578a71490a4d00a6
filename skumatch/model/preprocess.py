"""From a picture to pixels an encoder sees: one path for training, embedding and serving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

Colour = tuple[float, float, float]
Picture = Image.Image | NDArray[np.uint8]  # RGB: Pillow's, or [height, width, 3] as `decode_pixels` gives it
Resample = Callable[[int, int], Tensor]  # height and width -> uint8 [3, height, width]


def planes(picture: Picture) -> Tensor:
    """RGB picture -> uint8 [3, height, width]; of an array the same memory."""
    if isinstance(picture, Image.Image):
        assert picture.mode == "RGB", picture.mode
        picture = np.array(picture)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3, picture.shape
    return torch.from_numpy(picture).permute(2, 0, 1)


class Preprocess(BaseModel):
    """Canvas of `height` x `width` pixels, how a picture is brought onto it, and the encoder's mean and std (of values 0..1).

    resize: `squash` forgets the aspect, `pad` shows all of the picture, `crop` its middle: the shorter side becomes `short_side`
    (the canvas is just covered where that is None), and what is over the canvas is cut off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int
    width: int
    resize: Literal["squash", "pad", "crop"]
    mean: Colour
    std: Colour
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    short_side: int | None = None

    def __call__(self, picture: Picture) -> Tensor:
        """RGB picture -> uint8 tensor [3, height, width].

        Antialiased, within one level of Pillow's when shrinking.
        """
        pixels = planes(picture)
        rows, columns = pixels.shape[1:]
        return self.placed(rows, columns, lambda height, width: self.resized(pixels, height, width))

    def placed(self, rows: int, columns: int, resample: Resample) -> Tensor:
        """Lay a picture of `rows` x `columns` on the canvas.

        `resample` brings it to the size that it takes there.
        """
        if self.resize == "squash":
            return resample(self.height, self.width)
        return (
            self._padded(rows, columns, resample)
            if self.resize == "pad"
            else self._cropped(rows, columns, resample)
        )

    def _padded(self, rows: int, columns: int, resample: Resample) -> Tensor:
        """Keep the aspect; centre the picture on a canvas of the mean colour, which is zero after `normalise`."""
        scale = min(self.height / rows, self.width / columns)
        height, width = (
            max(1, min(side, round(length * scale)))
            for side, length in ((self.height, rows), (self.width, columns))
        )
        canvas = self.fill().expand(3, self.height, self.width).clone()
        top, left = (self.height - height) // 2, (self.width - width) // 2
        canvas[:, top : top + height, left : left + width] = resample(height, width)
        return canvas

    def _cropped(self, rows: int, columns: int, resample: Resample) -> Tensor:
        """Keep the aspect; cut the canvas out of the middle, with the rounding of transformers."""
        down, across = (self.short_side, self.short_side) if self.short_side else (self.height, self.width)
        height, width = max(down, int(rows * across / columns)), max(across, int(columns * down / rows))
        top, left = (height - self.height) // 2, (width - self.width) // 2
        return resample(height, width)[:, top : top + self.height, left : left + self.width].contiguous()

    def fill(self) -> Tensor:
        """The mean colour as uint8 [3, 1, 1]."""
        return torch.tensor([round(255 * value) for value in self.mean], dtype=torch.uint8).view(3, 1, 1)

    def normalise(self, batch: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] -> float32 of the same shape with the encoder's mean and std, on the batch's device."""
        mean, std = (
            batch.new_tensor(value, dtype=torch.float32).view(3, 1, 1) for value in (self.mean, self.std)
        )
        return (
            batch.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)
        )  # in place: a third of the time

    def at(self, height: int, width: int) -> Preprocess:
        """The same on another canvas."""
        return self.model_copy(update={"height": height, "width": width})

    def resized(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """uint8 [3, rows, columns] -> uint8 [3, height, width], antialiased."""
        size = (height, width)
        return functional.interpolate(
            pixels[None], size, mode=self.interpolation, antialias=True, align_corners=False
        )[0].contiguous()
