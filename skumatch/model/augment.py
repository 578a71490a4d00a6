"""What training does to a picture: a crop, light and colour, a grey square. No flips: packages bear text."""

from __future__ import annotations

import hashlib

import torch
from PIL import Image
from torch import Tensor

from skumatch.config import AugmentParams
from skumatch.model.preprocess import Preprocess

CUTOUT_CANVAS = 224  # train.augment.cutout is in pixels of a canvas of this side


def generator(*key: int | str) -> torch.Generator:
    """A random generator that is a pure function of `key`, so that a resumed run draws what the first one would have."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def augmented(image: Image.Image, preprocess: Preprocess, params: AugmentParams, draws: torch.Generator) -> Tensor:
    """RGB picture -> uint8 [3, preprocess.height, preprocess.width], changed as `draws` say."""
    view = preprocess(_crop(image, params.min_crop, draws))
    return _cut_out(_jitter(view, params.jitter, draws), params.cutout, preprocess, draws)


def _uniform(draws: torch.Generator, count: int) -> list[float]:
    values: list[float] = torch.rand(count, generator=draws, dtype=torch.float64).tolist()
    return values


def _crop(image: Image.Image, smallest: float, draws: torch.Generator) -> Image.Image:
    size, across, down = _uniform(draws, 3)
    share = smallest + (1 - smallest) * size
    width, height = (max(1, round(side * share)) for side in image.size)
    left, top = round((image.width - width) * across), round((image.height - height) * down)
    return image.crop((left, top, left + width, top + height))


def _jitter(view: Tensor, strength: float, draws: torch.Generator) -> Tensor:
    """Brightness and contrast within 1 +- strength, each channel within 1 +- strength / 4."""
    light, contrast, *tint = (1 + strength * (2 * value - 1) for value in _uniform(draws, 5))
    gain = light * (1 + (torch.tensor(tint).view(3, 1, 1) - 1) / 4)
    pixels = view.float()
    centre = pixels.mean()
    return ((pixels - centre) * contrast + centre).mul_(gain).round_().clamp_(0, 255).to(torch.uint8)


def _cut_out(view: Tensor, side: int, preprocess: Preprocess, draws: torch.Generator) -> Tensor:
    """One rectangle of the mean colour, its centre anywhere on the canvas (DeVries & Taylor, arXiv 1708.04552)."""
    down, across = _uniform(draws, 2)
    rows, columns = preprocess.height * side // CUTOUT_CANVAS, preprocess.width * side // CUTOUT_CANVAS
    top, left = round(down * preprocess.height - rows / 2), round(across * preprocess.width - columns / 2)
    view[:, max(0, top) : max(0, top + rows), max(0, left) : max(0, left + columns)] = preprocess.fill()
    return view
