"""A data set of flat colours with a little noise: learnable by the tiny encoder in a few steps."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from skumatch.data.images import Extent, Images
from skumatch.params import EncoderParams

COLOURS = {"cola": (200, 30, 30), "mint": (30, 190, 60), "milk": (40, 60, 200)}


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """27 PNG pictures of 3 SKUs, of different sizes."""
    folder, rng = tmp_path_factory.mktemp("shelf"), np.random.default_rng(5)
    ids, skus = [], []
    for sku, colour in COLOURS.items():
        for number in range(9):
            size = (40 + 3 * number, 50, 1)
            pixels = np.clip(rng.normal(colour, 40, (*size[:2], 3)), 0, 255).astype(np.uint8)
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "PNG")
            (folder / f"{sku}-{number}.png").write_bytes(data.getvalue())
            ids.append(f"{sku}-{number}")
            skus.append(sku)
    return Images(ids, skus, list(ids), [Extent(str(folder / f"{name}.png")) for name in ids])


@pytest.fixture
def smoke() -> EncoderParams:
    return EncoderParams(model="smoke", weights="none", height=32, width=32)
