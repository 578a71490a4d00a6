"""The bench of embedding measures every way in turn, and counts answers that differ."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.embed import Photos, _agreements, _speeds, bench_embed, flops, race
from skumatch.model.encoder import Encoder, build
from skumatch.params import EncoderParams
from tests.model import towers

CPU = torch.device("cpu")


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(1)
    return build(EncoderParams(model="smoke", weights="none", height=32, width=32), None).eval()


def test_each_round_has_every_way_and_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.embed.SIDE", {"cpu": 64})

    def slow(pixels: Tensor) -> Tensor:
        time.sleep(0.05)
        return pixels

    seconds = race({"float32": lambda pixels: pixels, "slow": slow}, torch.zeros(4, 3, 8, 8), 1000, rounds=3)
    assert seconds.keys() == {"float32", "slow", "products"} and all(
        len(each) == 3 for each in seconds.values()
    )
    assert min(seconds["slow"]) >= 0.05


def test_speeds_are_ratios_to_float32_and_to_the_products() -> None:
    seconds = {"float32": (2.0, 4.0, 3.0), "bfloat16": (1.0, 1.0, 1.0), "products": (1.0, 1.0, 1.0)}
    quick, ceiling = _speeds(seconds, batch=6)
    assert (quick.measured, quick.bound, quick.holds) == (
        3.0,
        1.0,
        True,
    ) and quick.parts == "6 images/s; float32 2"
    assert ceiling.measured == pytest.approx(100 / 3)


def test_a_pictures_operations_are_those_of_its_layers() -> None:
    layer = torch.nn.Linear(10, 7)
    assert flops(layer, torch.zeros(3, 10)) == 2 * 10 * 7  # type: ignore[arg-type]


def test_attention_is_counted_too() -> None:
    """A ViT of 3 layers, 32 wide, on 16 patches of 8 x 8 and a class token."""
    encoder, tokens, width = towers.vit().eval(), 17, 32
    block = 2 * tokens * width * width * (3 + 1 + 8) + 2 * 2 * tokens * tokens * width
    expected = 2 * 16 * 3 * 8 * 8 * width + 3 * block + 2 * width * 16
    assert flops(encoder, towers.pixels(encoder, 2)) == expected


def test_answers_that_differ_are_counted() -> None:
    gallery, queries = torch.eye(2), torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, 0.2], [0.3, 1.0]])
    photos = Photos(gallery, queries, ["a", "b"])

    def other(vectors: Tensor) -> Tensor:
        return torch.where(
            vectors.sum(dim=1, keepdim=True) > 1.15, vectors.flip(1), vectors
        )  # the last two queries

    rows = list(
        _agreements({"float32": lambda x: x, "same": lambda x: 2 * x, "other": other}, photos, 4, CPU)
    )
    assert [row.measured for row in rows] == [100, 50]


def test_all_of_it_on_a_folder(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.embed.ROUNDS", 1)
    rng = np.random.default_rng(1)
    for side in ("train", "test"):
        for sku in "ab":
            folder = tmp_path / "all" / side / sku
            folder.mkdir(parents=True)
            for number in range(2):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
                    folder / f"{number}.png"
                )
    rows = {row.name: row for row in bench_embed(encoder, tmp_path, ("others",), images=4, batch=2)}
    assert rows.keys() == {
        "bfloat16 / float32",
        "share of the GEMM ceiling, float32",
        "same top-1 as float32, bfloat16",
    }
    assert rows["same top-1 as float32, bfloat16"].measured >= 50
