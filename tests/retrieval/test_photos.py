"""Blur and brightness agree with a person: smeared photos are blurred, dark ones dark, at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from skumatch.data.images import Extent, Images
from skumatch.errors import DataError
from skumatch.retrieval.photos import at_one_size, blur, measure
from tests.conftest import draw


def pictures(folder: Path, *made: Image.Image) -> Images:
    paths = [folder / f"{number}.png" for number in range(len(made))]
    for path, picture in zip(paths, made, strict=True):
        picture.save(path)
    return Images(
        [path.name for path in paths],
        [""] * len(paths),
        [""] * len(paths),
        [Extent(str(path)) for path in paths],
    )


@pytest.fixture
def photo(tmp_path: Path) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    with Image.open(draw(tmp_path / "drawn.png", "milk")) as drawn:
        return Image.blend(drawn.convert("RGB").resize((200, 300)), Image.fromarray(noise), 0.3)


def test_a_smeared_photo_is_blurred_and_a_dark_one_is_dark(photo: Image.Image, tmp_path: Path) -> None:
    smeared, dark = photo.filter(ImageFilter.GaussianBlur(3)), ImageEnhance.Brightness(photo).enhance(0.5)
    measured = measure(pictures(tmp_path, photo, smeared, dark))
    assert measured["blur"][1] < measured["blur"][0] / 4
    assert measured["brightness"][2] == pytest.approx(measured["brightness"][0] / 2, rel=0.05)
    assert measured["brightness"][1] == pytest.approx(measured["brightness"][0], rel=0.05)


def test_blur_is_the_variance_of_the_laplacian() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (7, 9)).astype(np.float64)
    laplacian = [
        grey[i - 1, j] + grey[i + 1, j] + grey[i, j - 1] + grey[i, j + 1] - 4 * grey[i, j]
        for i in range(1, 6)
        for j in range(1, 8)
    ]
    assert blur(grey) == pytest.approx(np.var(laplacian))


def test_pictures_of_all_shapes_are_measured_at_one_size(tmp_path: Path) -> None:
    grey = Image.new("RGB", (40, 900), (100, 100, 100))
    assert at_one_size(grey).shape == (256, 256)
    measured = measure(pictures(tmp_path, grey, Image.new("RGB", (500, 31), (100, 100, 100))))
    assert measured[["width", "height"]].to_numpy().tolist() == [[40, 900], [500, 31]]
    assert measured["blur"].tolist() == [0, 0] and measured["brightness"].tolist() == [100, 100]


def test_a_photo_that_can_not_be_decoded_is_named(photo: Image.Image, tmp_path: Path) -> None:
    images = pictures(tmp_path, photo, photo)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png can't be measured"):
        measure(images)


def test_no_photos_make_an_empty_table() -> None:
    assert list(measure(Images([], [], [], [])).columns) == ["width", "height", "blur", "brightness"]
