"""A small bundle and a folder of pictures to match with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from skumatch.bundle import Bundle, LabelledVectors, write_bundle
from skumatch.data.images import Extent, Images
from skumatch.matching.pictures import list_pictures, open_pictures
from skumatch.model import encoder as encoders
from skumatch.model.embed import embed
from skumatch.params import EncoderParams, RuntimeParams
from tests.conftest import draw

CPU = RuntimeParams(device="cpu", threads=1)


def opened(given: Sequence[Path], aside: Path) -> Images:
    """The pictures that `given` names, opened."""
    return open_pictures(list_pictures(given), aside)


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    return Bundle.load(bundle_folder)


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("matching")
    torch.manual_seed(0)
    spec = EncoderParams(model="smoke", weights="none", height=64, width=64)
    encoders.save(encoders.build(spec, None).eval(), root / "encoder")
    skus = [f"sku {number}" for number in range(6)]
    paths = [draw(root / "gallery" / f"{sku}.png", sku) for sku in skus]
    images = Images(skus, skus, skus, [Extent(str(path)) for path in paths])
    vectors = embed(encoders.load(root / "encoder"), images, 8, CPU)
    write_bundle(
        root / "bundle",
        root / "encoder",
        LabelledVectors(images.ids, images.skus, vectors),
        {"similarity": 0.999},
        images.ids,
    )
    return root / "bundle"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of each product, one of another, and one file that is none."""
    root = tmp_path / "photos"
    for number in range(6):
        for time in ("morning", "night"):
            draw(root / time / f"{number}.png", f"sku {number}")
    draw(root / "other.png", "something else")
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "notes.txt").write_text("nothing")
    return root
