from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skumatch.model.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
side = st.integers(1, 90)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@given(width=side, height=side, resize=st.sampled_from(["squash", "pad", "crop"]))
def test_every_picture_fits_the_canvas(width: int, height: int, resize: str) -> None:
    preprocess = Preprocess.model_validate(
        {"height": 40, "width": 24, "resize": resize, "mean": MEAN, "std": STD}
    )
    pixels = preprocess(picture(width, height))
    assert pixels.shape == (3, 40, 24) and pixels.dtype == torch.uint8


@given(width=side, height=side, resize=st.sampled_from(["squash", "pad", "crop"]))
def test_an_array_is_seen_as_pillows_picture_is(width: int, height: int, resize: str) -> None:
    preprocess = Preprocess.model_validate(
        {"height": 40, "width": 24, "resize": resize, "mean": MEAN, "std": STD}
    )
    image = picture(width, height)
    assert preprocess(np.array(image)).equal(preprocess(image))


def test_squash_is_pillows_bicubic_within_one_level() -> None:
    image = picture(90, 120)
    pixels = (
        Preprocess(height=40, width=24, resize="squash", mean=MEAN, std=STD)(image).permute(1, 2, 0).numpy()
    )
    pillows = np.asarray(image.resize((24, 40), Image.Resampling.BICUBIC))
    assert np.abs(pixels.astype(int) - pillows.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("width", "height", "columns", "rows"), [(10, 40, 10, 40), (20, 20, 24, 24), (100, 50, 24, 12)]
)
def test_pad_keeps_the_aspect_and_fills_with_the_mean_colour(
    width: int, height: int, columns: int, rows: int
) -> None:
    preprocess = Preprocess(height=40, width=24, resize="pad", mean=MEAN, std=STD)
    pixels = preprocess(Image.new("RGB", (width, height), (255, 0, 0)))
    red = pixels[0] == 255
    assert (int(red.any(dim=0).sum()), int(red.any(dim=1).sum())) == (columns, rows)
    assert preprocess.normalise(pixels)[:, ~red].abs().max() < 0.01 if (~red).any() else True
    assert red.flip(1).equal(red) and red.flip(0).equal(red)  # centred


@pytest.mark.parametrize("short_side", [None, 40])
def test_crop_keeps_the_aspect_and_shows_the_middle(short_side: int | None) -> None:
    image = Image.new("RGB", (64, 256), (0, 0, 255))
    image.paste((255, 0, 0), (0, 96, 64, 160))  # a square in the middle
    preprocess = Preprocess(height=32, width=32, resize="crop", mean=MEAN, std=STD, short_side=short_side)
    pixels = preprocess(image)
    red = (pixels[0] > 250) & (pixels[2] < 5)
    assert red.all() if short_side else red[1:-1].all()  # at the edges the blue is averaged in
    whole = Preprocess(height=256, width=64, resize="crop", mean=MEAN, std=STD)(image)
    assert whole.permute(1, 2, 0).equal(torch.from_numpy(np.array(image)))


def test_bilinear_is_another_filter() -> None:
    views = [
        Preprocess(height=40, width=24, resize="squash", mean=MEAN, std=STD, interpolation=name)
        for name in ("bicubic", "bilinear")
    ]
    image = picture(90, 120)
    assert not views[0](image).equal(views[1](image))
    pillows = np.asarray(image.resize((24, 40), Image.Resampling.BILINEAR))
    assert np.abs(views[1](image).permute(1, 2, 0).numpy().astype(int) - pillows.astype(int)).max() <= 1


def test_normalise_gives_the_encoders_mean_and_std() -> None:
    preprocess = Preprocess(height=4, width=4, resize="squash", mean=MEAN, std=STD)
    white = preprocess.normalise(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8))
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert white.dtype == torch.float32
    assert torch.allclose(white[1, :, 2, 2], expected)


def test_normalise_leaves_what_it_was_given() -> None:
    preprocess = Preprocess(height=4, width=4, resize="squash", mean=MEAN, std=STD)
    for batch in (torch.full((1, 3, 4, 4), 9, dtype=torch.uint8), torch.full((1, 3, 4, 4), 9.0)):
        normalised = preprocess.normalise(batch)
        assert (batch == 9).all() and normalised.equal(
            (torch.full((1, 3, 4, 4), 9.0) / 255 - torch.tensor(MEAN).view(3, 1, 1))
            / torch.tensor(STD).view(3, 1, 1)
        )


def test_survives_json() -> None:
    preprocess = Preprocess(height=4, width=8, resize="pad", mean=MEAN, std=STD)
    assert Preprocess.model_validate_json(preprocess.model_dump_json()) == preprocess
