"""Validation during training: the same few pictures at every call, and a correct share of hits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skumatch.data.images import Extent, Images
from skumatch.model.encoder import build
from skumatch.params import EncoderParams, RuntimeParams
from skumatch.stages import train
from skumatch.stages.train import Validation
from tests.conftest import draw

CPU = RuntimeParams(device="cpu", threads=1)


def pictures(root: Path, skus: list[str], looks: list[str]) -> Images:
    paths = [draw(root / f"{number}.png", look) for number, look in enumerate(looks)]
    return Images([str(path) for path in paths], skus, skus, [Extent(str(path)) for path in paths])


def test_a_picture_is_right_where_its_nearest_is_of_its_sku(smoke: EncoderParams, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build(smoke, None)
    gallery = pictures(tmp_path / "gallery", ["a", "b", "c", "c"], ["one", "two", "three", "four"])
    queries = pictures(tmp_path / "queries", ["a", "b", "a", "c"], ["one", "two", "three", "four"])
    assert Validation(gallery, queries, 2, CPU, 0)(encoder) == 0.75
    assert not encoder.training


def test_few_are_asked_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "EACH", 2)
    monkeypatch.setattr(train, "QUERIES", 3)
    names = [str(number) for number in range(12)]
    many = Images(names, ["a"] * 7 + ["b"] * 4 + ["c"], names, [Extent(name) for name in names])
    first, again, other = (Validation(many, many, 2, CPU, seed) for seed in (1, 1, 2))
    assert sorted(first.gallery.skus) == ["a", "a", "b", "b", "c"] and len(first.queries) == 3
    assert (first.gallery.ids, first.queries.ids) == (again.gallery.ids, again.queries.ids)
    assert (first.gallery.ids, first.queries.ids) != (other.gallery.ids, other.queries.ids)
