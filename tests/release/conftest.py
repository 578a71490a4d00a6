"""A small real bundle: random pictures, the smoke encoder with random weights.

Only fixtures that need torch and open_clip import them: most tests of the gate and of promotions don't.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skumatch.bundle import Bundle, LabelledVectors, write_bundle
from skumatch.params import EncoderParams
from skumatch.registry.registry import Registry

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder


def pattern(seed: int) -> Image.Image:
    """A coarse random pattern: even random weights distinguish pictures of different seeds."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((72, 96), Image.Resampling.NEAREST)


def embedded(encoder: Encoder, images: list[Image.Image]) -> NDArray[np.float32]:
    import torch

    see = encoder.preprocess
    with torch.inference_mode():
        vectors: NDArray[np.float32] = encoder(
            see.normalise(torch.stack([see(image) for image in images]))
        ).numpy()
    return vectors


@pytest.fixture(scope="session")
def picture() -> Callable[[int], Image.Image]:
    return pattern


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from skumatch.model import encoder as encoders

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    encoders.save(
        encoders.build(EncoderParams(model="smoke", weights="none", height=64, width=64), None).eval(), folder
    )
    return folder


@pytest.fixture(scope="session")
def gallery(encoder_dir: Path) -> LabelledVectors:
    """Twelve pictures, pattern(0) to pattern(11), of four SKUs."""
    from skumatch.model import encoder as encoders

    encoder = encoders.load(encoder_dir)
    return LabelledVectors(
        [f"train/{i:02}" for i in range(12)],
        [f"sku {i % 4}" for i in range(12)],
        embedded(encoder, [pattern(i) for i in range(12)]),
    )


@pytest.fixture(scope="session")
def made(encoder_dir: Path, gallery: LabelledVectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nobody changes."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(folder, encoder_dir, gallery, {"similarity": 0.9}, gallery.ids[:8])
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture(scope="session")
def loaded(made: Path) -> Bundle:
    return Bundle.load(made)


@pytest.fixture
def registry(mlflow_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Registry:
    """A model of its own for each test."""
    return Registry(mlflow_url, request.node.name.replace("[", "-").rstrip("]"), tmp_path / "locks")


@pytest.fixture
def run_id(registry: Registry) -> str:
    return registry.log_run(registry.model_name, {}, {}, {}, {})


@pytest.fixture(scope="session")
def several(
    encoder_dir: Path, gallery: LabelledVectors, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Three bundles that differ in their threshold, and that nobody changes."""
    folders = [tmp_path_factory.mktemp("several") / f"bundle-{i}" for i in range(3)]
    for i, folder in enumerate(folders):
        write_bundle(folder, encoder_dir, gallery, {"similarity": i / 10}, [])
    return folders
