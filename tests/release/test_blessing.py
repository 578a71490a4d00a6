"""The blessing: a bundle that answers is blessed, one that doesn't is a fact for the gate; latency is recorded so that runs repeat."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from skumatch.data.images import Extent, Images
from skumatch.release.blessing import QUERIES, WARM_UP, ask, bless, latency
from skumatch.release.bundle import Gallery

HOUR = 3_600_000


@pytest.fixture
def shown(tmp_path: Path, gallery: Gallery, picture: Callable[[int], Image.Image]) -> tuple[pd.DataFrame, Images]:
    """The gallery's rows and its pictures as files."""
    paths = [tmp_path / f"{number}.png" for number in range(len(gallery.ids))]
    for number, path in enumerate(paths):
        picture(number).save(path)
    names = [str(path) for path in paths]
    rows = pd.DataFrame({"sku": gallery.skus, "pixels": gallery.ids})
    return rows, Images(gallery.ids, gallery.skus, names, [Extent(name) for name in names])


def test_a_bundle_that_finds_its_own_pictures_is_blessed(made: Path, shown: tuple[pd.DataFrame, Images]) -> None:
    assert bless(made, *shown, HOUR) == (True, HOUR)


def test_a_bundle_that_calls_them_something_else_is_not(made: Path, shown: tuple[pd.DataFrame, Images]) -> None:
    rows, pictures = shown
    assert bless(made, rows.assign(sku=rows["sku"].to_numpy()[::-1]), pictures, HOUR) == (False, HOUR)


def test_a_bundle_that_does_not_load_is_not_and_says_why(
    made: Path, shown: tuple[pd.DataFrame, Images], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(made, broken)
    (broken / "gallery.parquet").write_bytes(b"PAR1")
    assert bless(broken, *shown, HOUR) == (False, None)
    assert "gallery.parquet" in capfd.readouterr().err


def test_a_gallery_of_copies_alone_blesses_nothing(made: Path, shown: tuple[pd.DataFrame, Images]) -> None:
    rows, pictures = shown
    assert bless(made, rows.assign(pixels="same"), pictures, HOUR) == (False, None)


@pytest.mark.usefixtures("shown")
def test_each_picture_is_asked_alone_and_timed(made: Path, tmp_path: Path, gallery: Gallery) -> None:
    names = [str(tmp_path / f"{number}.png") for number in range(WARM_UP - 2)]
    answers = ask(made, names)
    assert [answer.sku for answer in answers] == gallery.skus[: len(names)]
    assert all(answer.similarity > 0.999 and answer.seconds > 0 for answer in answers)


@pytest.mark.parametrize(
    ("seconds", "recorded"),
    [
        ([0.01] * QUERIES, 50),  # what it took is not told: the next run would say otherwise
        ([0.01] * 38 + [9.0] * 2, 50),  # two of forty may be slow
        ([0.01] * 37 + [0.0701] * 3, 71),
        ([0.05] * QUERIES, 50),
        ([0.2], 200),
    ],
)
def test_latency_is_the_limit_if_kept_and_else_what_it_took(seconds: list[float], recorded: float) -> None:
    assert latency(seconds, 50) == recorded
