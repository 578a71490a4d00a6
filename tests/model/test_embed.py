"""Embedding with a tiny stand-in encoder: order, unit length, batches, workers, broken images."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from skumatch.data.images import Extent, Images, Pixels
from skumatch.errors import DataError, StorageError, WeightsError
from skumatch.model.embed import embed
from skumatch.model.preprocess import Preprocess
from skumatch.params import RuntimeParams

CPU = RuntimeParams(device="cpu", threads=1)


class Stub(nn.Module):
    """A seeded projection of the mean colour; not normalised, with a dropout that must be off."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.preprocess = Preprocess(
            height=8, width=6, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
        )
        self.dim = dim
        self.projection = nn.Sequential(nn.Linear(3, dim, bias=False), nn.Dropout(0.5))
        with torch.no_grad():
            self.projection[0].weight.copy_(torch.randn(dim, 3, generator=torch.Generator().manual_seed(0)))  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 8, 6) and x.dtype == torch.float32
        answer: Tensor = self.projection(x.mean((2, 3)))
        return answer


@pytest.fixture
def images(tmp_path: Path) -> Images:
    generator, paths = np.random.default_rng(0), []
    for i in range(7):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(generator.integers(0, 256, (1, 1, 3), np.uint8)).resize((10 + i, 20)).save(paths[-1])
    return Images(
        [f"test/a/{p.name}" for p in paths],
        ["a"] * 7,
        [p.name for p in paths],
        [Extent(str(p)) for p in paths],
    )


def test_rows_are_unit_vectors_in_the_order_of_the_images(images: Images) -> None:
    rows = embed(Stub(), images, 3, CPU)  # type: ignore[arg-type]
    assert rows.shape == (7, 6) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    alone = [embed(Stub(), images.take([i]), 1, CPU)[0] for i in range(7)]  # type: ignore[arg-type]
    np.testing.assert_allclose(rows, alone, atol=1e-5)


def test_jpegs_are_embedded_as_pillow_shows_them(images: Images, tmp_path: Path) -> None:
    stub, path = Stub(), tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 20, 3), np.uint8)).save(path, quality=80)
    jpeg = Images(["a"], ["a"], ["a"], [Extent(str(path))])
    with torch.inference_mode():
        expected = stub.eval()(stub.preprocess.normalise(stub.preprocess(jpeg[0])[None]))[0].numpy()
    rows = embed(stub, jpeg, 1, CPU)  # type: ignore[arg-type]
    np.testing.assert_allclose(rows[0], expected / np.linalg.norm(expected), atol=0.01)


def test_worker_processes_change_nothing(images: Images) -> None:
    rows = embed(Stub(), images, 3, CPU)  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        embed(Stub(), images, 3, RuntimeParams(device="cpu", threads=1, workers=2)), rows
    )  # type: ignore[arg-type]


def test_no_images_no_rows() -> None:
    assert embed(Stub(), Images([], [], [], []), 3, CPU).shape == (0, 6)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_in_one_sentence(images: Images, workers: int) -> None:
    Path(images.extents[4].path).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"^test/a/4\.png can't be embedded: .*deliver it again\.$"):
        embed(Stub(), images, 3, RuntimeParams(device="cpu", threads=1, workers=workers))  # type: ignore[arg-type]


def test_a_missing_file_is_a_storage_error(images: Images) -> None:
    Path(images.extents[4].path).unlink()
    with pytest.raises(StorageError, match=r"4\.png"):
        embed(Stub(), images, 3, CPU)  # type: ignore[arg-type]


def test_an_encoder_that_answers_no_numbers_is_refused(images: Images) -> None:
    broken = Stub()
    with torch.no_grad():
        broken.projection[0].weight.fill_(torch.nan)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=r"vector of test/a/0\.png is no number"):
        embed(broken, images, 3, CPU)  # type: ignore[arg-type]


def test_progress_counts_every_image(
    images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKUMATCH_EVENTS", "1")
    embed(Stub(), images, 3, CPU, label="embed gallery")  # type: ignore[arg-type]
    last = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("skumatch-progress "))
    assert (last["stage"], last["done"], last["total"]) == ("embed gallery", 7, 7)


class Unmoved(Images):
    """Pictures are read in another process, which must outlive a SIGTERM to the group until all are read."""

    def pixels(self, index: int) -> Pixels:
        assert multiprocessing.parent_process() is not None
        os.kill(os.getpid(), signal.SIGTERM)
        return super().pixels(index)


def test_processes_that_read_pictures_leave_sigterm_to_the_main_one(images: Images) -> None:
    unmoved = Unmoved(images.ids, images.skus, images.names, images.extents)
    read_apart = CPU.model_copy(update={"workers": 1})
    np.testing.assert_array_equal(embed(Stub(), unmoved, 3, read_apart), embed(Stub(), images, 3, CPU))  # type: ignore[arg-type]
