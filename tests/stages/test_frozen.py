"""Baseline before training: the challenger's queries with the base weights, for any champion."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from skumatch.data.delivery.importer import import_data
from skumatch.files import read_json, sha256
from skumatch.model.weights import fetch_weights
from skumatch.params import EncoderParams, Params
from skumatch.retrieval.figures import Evaluation
from skumatch.stages import frozen, split
from tests.conftest import Delivery

PARAMS = Params(encoder=EncoderParams(model="smoke", weights="none", height=32, width=32))


@pytest.fixture
def workspace(delivery: Delivery, tmp_path: Path) -> Path:
    """Four SKUs of four gallery images and three queries; one query equals a trainable gallery image."""
    folder, root = delivery(test=3), tmp_path / "root"
    for sku in range(4):
        shutil.copyfile(folder / f"all/train/sku {sku}/0.png", folder / f"all/test/sku {sku}/copy.png")
    import_data(folder, root / "data")
    split.run(root, PARAMS)
    fetch_weights(PARAMS.encoder, root / "inputs/weights")
    return root


def test_queries_with_the_pixels_of_a_training_image_are_not_asked(workspace: Path) -> None:
    frozen.run(workspace, PARAMS)
    evaluation = Evaluation.model_validate(read_json(workspace / "out/frozen/frozen.json"))
    shown = read_json(workspace / "out/split/split.json")["queries_with_duplicate"]["train"]
    assert shown > 0 and (evaluation.protocol, evaluation.n) == ("full", 16 - shown)
    assert evaluation.hashes["encoder"] == "none" and {"gallery", "queries"} <= set(evaluation.hashes)
    assert 0 <= evaluation.top1 <= evaluation.top3 <= evaluation.top5 <= 1


def test_the_same_inputs_give_the_same_bytes(workspace: Path) -> None:
    hashes = set()
    for _ in range(2):
        frozen.run(workspace, PARAMS)
        hashes.add(sha256(workspace / "out/frozen/frozen.json"))
    assert len(hashes) == 1
