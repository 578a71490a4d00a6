"""Hugging Face's CLIP folders: vectors and pixels equal to transformers', and a sentence for a bad folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from skumatch.errors import WeightsError
from skumatch.files import sha256
from skumatch.model import torchvision_ops  # noqa: F401  # before transformers, which looks for torchvision
from skumatch.model.hf import load_clip

transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")

VISION = {
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
}
Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A small random CLIP as transformers writes it.

    Keywords change its vision_config, `view` its preprocessor.
    """

    def make(
        name: str = "clip", view: dict[str, Any] | None = None, whole: bool = True, **vision: Any
    ) -> Path:
        torch.manual_seed(3)
        tower = VISION | vision
        if whole:
            model = transformers.CLIPModel(
                transformers.CLIPConfig(vision_config=tower, text_config=TEXT, projection_dim=24)
            )
        else:
            model = transformers.CLIPVisionModelWithProjection(
                transformers.CLIPVisionConfig(projection_dim=24, **tower)
            )
        with torch.no_grad():
            for (
                parameter
            ) in model.parameters():  # fresh norms and biases are ones and zeros, which hide a wrong place
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / name)
        side = tower["image_size"]
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        transformers.CLIPImageProcessor(**(sizes | (view or {}))).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def change(path: Path, **facts: Any) -> None:
    tree = json.loads(path.read_text("utf-8"))
    path.write_text(
        json.dumps({name: value for name, value in (tree | facts).items() if value is not None}), "utf-8"
    )


def theirs(folder: Path, pixels: torch.Tensor, whole: bool = True) -> torch.Tensor:
    kind = transformers.CLIPModel if whole else transformers.CLIPVisionModelWithProjection
    model = kind.from_pretrained(folder).eval()
    embeddings = (
        model.get_image_features(pixel_values=pixels).pooler_output
        if whole
        else model(pixel_values=pixels).image_embeds
    )
    return torch.nn.functional.normalize(embeddings, dim=-1)


@pytest.mark.parametrize("whole", [True, False], ids=["CLIPModel", "CLIPVisionModelWithProjection"])
@pytest.mark.parametrize(
    "vision",
    [
        {"hidden_act": "quick_gelu"},
        {"hidden_act": "gelu"},
        {"patch_size": 32},
        {"patch_size": 14, "image_size": 70, "num_attention_heads": 3},
        {"layer_norm_eps": 0.1},
    ],
    ids=lambda vision: " ".join(f"{name}={value}" for name, value in vision.items()),
)
@torch.inference_mode()
def test_vectors_are_transformers_own(folder: Folder, vision: dict[str, Any], whole: bool) -> None:
    path = folder(whole=whole, **vision)
    encoder, digest = load_clip(path)
    side = (VISION | vision)["image_size"]
    pixels = torch.randn(5, 3, side, side, generator=torch.Generator().manual_seed(1))
    expected = theirs(path, pixels, whole)
    assert encoder(pixels).shape == (5, 24) == (5, encoder.dim)
    assert (encoder(pixels) - expected).abs().max() <= 1e-5
    assert (expected[0] - expected[1]).abs().max() > 1e-2  # or anything would be equal
    assert digest == sha256(path / "model.safetensors")


@torch.inference_mode()
def test_an_activation_that_is_another_is_seen(folder: Folder) -> None:
    path = folder(hidden_act="quick_gelu")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = theirs(path, pixels)
    tree = json.loads((path / "config.json").read_text("utf-8"))
    change(path / "config.json", vision_config=tree["vision_config"] | {"hidden_act": "gelu"})
    assert (load_clip(path)[0](pixels) - expected).abs().max() > 1e-4


@pytest.mark.parametrize(
    "view",
    [
        {},
        {"size": {"shortest_edge": 80}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"resample": 2},
        {"size": {"height": 64, "width": 64}},
    ],
    ids=["as CLIP", "larger and own colours", "bilinear", "squashed"],
)
@pytest.mark.parametrize("size", [(301, 117), (90, 205), (65, 64), (128, 128)], ids=str)
def test_pixels_are_transformers_own(folder: Folder, view: dict[str, Any], size: tuple[int, int]) -> None:
    path = folder(view=view)
    preprocess = load_clip(path)[0].preprocess
    coarse = np.random.default_rng(2).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    expected = transformers.CLIPImageProcessor.from_pretrained(path)(images=image, return_tensors="pt")[
        "pixel_values"
    ][0]
    assert (preprocess.normalise(preprocess(image)) - expected).abs().max() <= 1e-5


def test_old_folders_say_sizes_as_numbers_and_leave_defaults_out(folder: Folder) -> None:
    path = folder(
        image_size=224,
        patch_size=32,
        hidden_act="quick_gelu",
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
    )
    before = load_clip(path)[0]
    change(path / "config.json", vision_config={"num_hidden_layers": 3}, model_type="clip")
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "do_resize": True}
    (path / "preprocessor_config.json").write_text(json.dumps(old), "utf-8")
    after = load_clip(path)[0]
    assert after.preprocess == before.preprocess
    pixels = torch.zeros(1, 3, 224, 224)
    assert after(pixels).equal(before(pixels))


def test_weights_in_parts_are_the_same_encoder(folder: Folder) -> None:
    path = folder()
    pixels = torch.ones(1, 3, 64, 64)
    whole = load_clip(path)[0](pixels)
    tensors = load_file(path / "model.safetensors")
    parts = {
        "model-00001-of-00002.safetensors": sorted(tensors)[::2],
        "model-00002-of-00002.safetensors": sorted(tensors)[1::2],
    }
    for name, names in parts.items():
        save_file({key: tensors[key] for key in names}, path / name)
    index = {"weight_map": {key: name for name, names in parts.items() for key in names}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    (path / "model.safetensors").unlink()
    assert load_clip(path)[0](pixels).equal(whole)
    (path / "model.safetensors.index.json").write_text('{"weight_map": [1]}', "utf-8")
    with pytest.raises(WeightsError, match="index.json says weight_map is"):
        load_clip(path)
    (path / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="model-00002-of-00002.safetensors can't be read"):
        load_clip(path)


def test_a_pickle_is_never_opened(folder: Folder) -> None:
    path = folder()
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model.bin, a pickle.*save_pretrained"):
        load_clip(path)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_that_is_missing_or_broken(folder: Folder, name: str) -> None:
    path = folder()
    (path / name).write_bytes(b"{")
    with pytest.raises(WeightsError, match=f"{name} (is not valid JSON|can't be read)"):
        load_clip(path)
    (path / name).unlink()
    with pytest.raises(WeightsError, match=f"There is no .*{name}; fetch config.json"):
        load_clip(path)


@pytest.mark.parametrize(
    ("file", "facts", "sentence"),
    [
        ("config.json", {"model_type": "siglip"}, "model_type is 'siglip', which this version can't convert"),
        ("config.json", {"model_type": None}, "model_type is None"),
        ("config.json", {"vision_config": [1]}, r"vision_config is \[1\]"),
        (
            "config.json",
            {"vision_config": VISION | {"hidden_act": "gelu_new"}},
            "hidden_act is 'gelu_new', which this version can't",
        ),
        ("config.json", {"vision_config": VISION | {"num_channels": 4}}, "num_channels is 4"),
        ("config.json", {"vision_config": VISION | {"hidden_size": 10**9}}, "hidden_size is 1000000000"),
        ("config.json", {"vision_config": VISION | {"num_attention_heads": 5}}, "describes no CLIP tower"),
        (
            "config.json",
            {"vision_config": VISION | {"num_hidden_layers": 2}},
            "do not fit its config.json: 12 tensors",
        ),
        (
            "config.json",
            {"vision_config": VISION | {"patch_size": 32}},
            "do not fit its config.json: 2 tensors",
        ),
        (
            "preprocessor_config.json",
            {"crop_size": {"height": 32, "width": 32}},
            "does not make pictures of 64 x 64",
        ),
        ("preprocessor_config.json", {"size": {"shortest_edge": 48}}, "does not make pictures of 64 x 64"),
        ("preprocessor_config.json", {"do_center_crop": False}, "does not make pictures of 64 x 64"),
        ("preprocessor_config.json", {"resample": 1}, "resample is 1"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize is False"),
        (
            "preprocessor_config.json",
            {"image_processor_type": "ViTImageProcessor"},
            "image_processor_type is 'ViTImageProcessor'",
        ),
    ],
)
def test_a_model_that_cant_be_converted(
    folder: Folder, file: str, facts: dict[str, Any], sentence: str
) -> None:
    path = folder()
    change(path / file, **facts)
    with pytest.raises(WeightsError, match=sentence):
        load_clip(path)
