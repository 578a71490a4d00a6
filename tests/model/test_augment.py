from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skumatch.config import AugmentParams
from skumatch.model.augment import augmented, generator
from skumatch.model.preprocess import Preprocess

CANVAS = Preprocess(height=56, width=56, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PLAIN = AugmentParams(min_crop=1.0, cutout=0, jitter=0.0)


def ramp() -> Image.Image:
    """Dark on the left, light on the right; red at the top, blue at the bottom."""
    across, down = np.meshgrid(np.linspace(0, 255, 80), np.linspace(0, 255, 60))
    return Image.fromarray(np.stack([255 - down, across, down], axis=-1).astype(np.uint8))


@given(key=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)))
def test_a_view_is_a_pure_function_of_its_key(key: tuple[int, int, int]) -> None:
    first = augmented(ramp(), CANVAS, AugmentParams(), generator(*key))
    torch.rand(3)  # the global generator plays no part
    assert first.equal(augmented(ramp(), CANVAS, AugmentParams(), generator(*key)))
    assert first.shape == (3, 56, 56) and first.dtype == torch.uint8


def test_views_differ_between_epochs_and_images() -> None:
    views = [augmented(ramp(), CANVAS, AugmentParams(), generator(*key)) for key in [(7, 0, 0), (7, 1, 0), (7, 0, 1), (8, 0, 0)]]
    assert not any(a.equal(b) for i, a in enumerate(views) for b in views[:i])


def test_nothing_turned_on_is_the_preprocessed_picture() -> None:
    assert augmented(ramp(), CANVAS, PLAIN, generator(1)).equal(CANVAS(ramp()))


@given(seed=st.integers(0, 1000))
def test_never_flipped(seed: int) -> None:
    view = augmented(ramp(), CANVAS, AugmentParams(cutout=0), generator(seed)).float()
    assert view[1, :, -10:].mean() > view[1, :, :10].mean()
    assert view[2, -10:].mean() > view[2, :10].mean()


@given(seed=st.integers(0, 1000))
def test_crop_keeps_at_least_the_share_asked_for(seed: int) -> None:
    view = augmented(ramp(), CANVAS, PLAIN.model_copy(update={"min_crop": 0.6}), generator(seed)).float()
    assert view[1].mean(dim=0).max() - view[1].mean(dim=0).min() > 0.55 * 255


def test_cutout_covers_a_square_of_the_mean_colour() -> None:
    white = Image.new("RGB", (60, 60), "white")
    covered = [
        int((augmented(white, CANVAS, PLAIN.model_copy(update={"cutout": 64}), generator(seed))[0] == 128).sum()) for seed in range(50)
    ]
    assert max(covered) == 16 * 16  # 64 px of a 224 canvas
    assert min(covered) >= 8 * 7  # its centre is on the canvas
