"""The rendered sample: the same bytes for the same arguments, RP2K's layout, whole or absent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skumatch.data import sample
from skumatch.data.delivery.archives import folder_images
from skumatch.data.packages import CATALOGUE, catalogue, design
from skumatch.data.sample import render_sample
from skumatch.errors import DataError, ParameterError, StorageError
from skumatch.files import sha256

COUNTS = {"skus": 4, "train": 3, "test": 2}


def hashes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*.jpg")}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "small"
    render_sample(folder, **COUNTS)
    return folder


def test_layout_counts_and_names(small: Path) -> None:
    for side in ("train", "test"):
        images = folder_images(small, side)
        assert len(images) == COUNTS["skus"] * COUNTS[side]
        assert set(images.skus) == {sku.name for sku in catalogue(COUNTS["skus"])}
    assert [path.name for path in small.parent.iterdir()] == ["small"], "no temporary folder stays behind"


def test_photos_look_like_crops(small: Path) -> None:
    photos = [photo for side in ("train", "test") for photo in folder_images(small, side)]
    sizes = np.array([photo.size for photo in photos])
    assert sizes.min() >= 32 and sizes.max() <= 330
    assert np.median(sizes[:, 1] / sizes[:, 0]) > 1.5, "most crops of RP2K are tall"
    assert min(np.asarray(photo.convert("L")).std() for photo in photos) > 8, "a photo is blank"


def test_all_photos_differ_and_the_sides_share_none(small: Path) -> None:
    digests = hashes(small)
    assert len(set(digests.values())) == len(digests) == 20


def test_same_arguments_same_bytes_in_another_process(small: Path, tmp_path: Path) -> None:
    target = repr(str(tmp_path / "again"))
    code = (
        "from pathlib import Path; from skumatch.data.sample import render_sample; "
        f"render_sample(Path({target}), 4, 3, 2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert hashes(tmp_path / "again") == hashes(small)


def test_a_smaller_sample_is_part_of_a_larger_one(small: Path, tmp_path: Path) -> None:
    render_sample(tmp_path / "part", skus=2, train=2, test=1)
    assert hashes(tmp_path / "part").items() < hashes(small).items()


def test_another_seed_gives_other_photos(small: Path, tmp_path: Path) -> None:
    render_sample(tmp_path / "other", skus=1, train=1, test=1, seed=8)
    assert not set(hashes(tmp_path / "other").values()) & set(hashes(small).values())


def test_a_complete_sample_is_left_alone(small: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    render_sample(small, **COUNTS)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    render_sample(tmp_path, skus=1, train=1, test=1)
    assert len(hashes(tmp_path)) == 2


@pytest.mark.parametrize("content", ["notes.txt", "sample.json"])
def test_a_foreign_folder_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / content).write_text("mine")
    with pytest.raises(DataError, match="is no rendered sample; remove it or give another folder"):
        render_sample(tmp_path, **COUNTS)
    assert [path.name for path in tmp_path.iterdir()] == [content]


def test_a_sample_of_other_parameters_or_with_a_photo_missing_is_refused(tmp_path: Path) -> None:
    render_sample(tmp_path / "one", skus=1, train=1, test=1)
    with pytest.raises(DataError, match="other parameters"):
        render_sample(tmp_path / "one", skus=1, train=1, test=1, seed=8)
    next((tmp_path / "one").rglob("*.jpg")).unlink()
    with pytest.raises(DataError, match="incomplete"):
        render_sample(tmp_path / "one", skus=1, train=1, test=1)


@pytest.mark.parametrize(
    ("failure", "seen"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), StorageError)],
)
def test_an_interrupted_render_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, seen: type[BaseException]
) -> None:
    real, calls = sample._shoot, []

    def failing(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise failure
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sample, "_shoot", failing)
    with pytest.raises(seen):
        render_sample(tmp_path / "new", **COUNTS)
    assert len(calls) == 3 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("counts", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_counts_below_one_are_refused(tmp_path: Path, counts: tuple[int, int, int]) -> None:
    with pytest.raises(ParameterError, match="at least 1"):
        render_sample(tmp_path / "none", *counts)


def test_catalogue_has_awkward_names_and_goes_on_past_its_end() -> None:
    names = [sku.name for sku in catalogue(2 * CATALOGUE + 1)]
    assert len(set(names)) == len(names)
    joined = "".join(names[:CATALOGUE])
    assert all(sign in joined for sign in (" ", "&", "%", "茶", "é")) and not set(joined) & set('/\\:*?"<>|')


def test_flavours_of_a_brand_differ_in_little_but_do_differ() -> None:
    faces = [np.asarray(design(sku).convert("RGB")).astype(int) for sku in catalogue(CATALOGUE)]
    for first in range(0, CATALOGUE, 3):
        for a, b in ((0, 1), (0, 2), (1, 2)):
            changed = (np.abs(faces[first + a] - faces[first + b]).max(-1) > 24).mean()
            assert 0.02 < changed < 0.2
    edition = np.asarray(design(catalogue(CATALOGUE + 1)[-1]).convert("RGB")).astype(int)
    assert (np.abs(edition - faces[0]).max(-1) > 24).mean() > 0.2
