"""Conversion of a Hugging Face CLIP folder, such as FashionCLIP's, to open_clip's image tower.

The folder has the files of transformers' CLIPConfig, CLIPModel and CLIPImageProcessor. A test compares the
results with those of transformers itself.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from skumatch.errors import WeightsError
from skumatch.files import sha256
from skumatch.model.encoder import TINY_TEXT, Encoder, fill, read_tensors
from skumatch.model.hf_forms import (
    CONFIG,
    TENSORS,
    VIEW,
    Config,
    HfPreprocessor,
    HfWeightIndex,
    Tower,
    checked,
    missing,
    read_object,
)
from skumatch.model.preprocess import Preprocess
from skumatch.model.torchvision_ops import open_clip
from skumatch.params import EncoderParams

PICKLE = "pytorch_model.bin"
TEXT = ("text_model.", "text_projection.", "logit_scale")  # names of the text side begin with these
# parts of transformers' names -> open_clip's names, replaced in this order
NAMES = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.": "conv1.",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.pre_layrnorm.": "ln_pre.",
    "vision_model.post_layernorm.": "ln_post.",
    "vision_model.encoder.layers.": "transformer.resblocks.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".self_attn.": ".attn.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    "visual_projection.weight": "proj",
}


def load_clip(folder: Path) -> tuple[Encoder, str]:
    """Load the image encoder of a CLIP folder; only safetensors files are read.

    Returns:
        The encoder in evaluation mode, and the SHA-256 of its weights.

    Raises:
        WeightsError: The folder lacks a file, holds another kind of model, or has tensors that don't fit its
            config.json.
    """
    tower, files = _tower(folder), _tensor_files(folder)
    preprocess = _preprocess(
        checked(HfPreprocessor, read_object(folder / VIEW), folder / VIEW), tower.image_size, folder / VIEW
    )
    visual = _visual(tower)
    state = _converted({name: tensor for path in files for name, tensor in read_tensors(path).items()})
    fill(visual, state, f"The weights in {folder} do not fit its {CONFIG}", "fetch both again from one place")
    canvas = {"height": preprocess.height, "width": preprocess.width, "resize": preprocess.resize}
    spec = EncoderParams.model_validate({"model": f"hf:{folder.name}", "weights": TENSORS} | canvas)
    return Encoder(visual, preprocess, tower.projection_dim, spec).eval(), _digest(files)


def _tower(folder: Path) -> Tower:
    """Read the image tower's configuration from config.json."""
    path = folder / CONFIG
    tree = read_object(path)
    config = checked(Config, tree, path)
    if config.model_type == "clip":
        tree = (config.vision_config_dict or config.vision_config or {}) | {
            "projection_dim": config.projection_dim
        }
    tower = checked(Tower, tree, path)
    if tower.hidden_size % tower.num_attention_heads or tower.image_size < tower.patch_size:
        raise WeightsError(f"{path} describes no CLIP tower: its sizes don't divide; fetch it again.")
    return tower


def _visual(tower: Tower) -> nn.Module:
    """Build open_clip's image tower with the same architecture and random weights."""
    vision = {
        "layers": tower.num_hidden_layers,
        "width": tower.hidden_size,
        "head_width": tower.hidden_size // tower.num_attention_heads,
        # open_clip rounds the product of ratio and width down
        "mlp_ratio": (tower.intermediate_size + 0.5) / tower.hidden_size,
        "patch_size": tower.patch_size,
        "image_size": tower.image_size,
        "norm_kwargs": {"eps": tower.layer_norm_eps},
    }
    visual: nn.Module = open_clip.CLIP(
        tower.projection_dim, vision, TINY_TEXT, quick_gelu=tower.hidden_act == "quick_gelu"
    ).visual
    return visual


def _converted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the image side's tensors under open_clip's names, with query, key and value joined."""
    state = {
        _renamed(name): tensor
        for name, tensor in tensors.items()
        if not name.startswith(TEXT) and not name.endswith(".position_ids")
    }
    for name in [name for name in state if ".q_proj." in name]:
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if all(part in state for part in parts):
            state[name.replace(".q_proj.", ".in_proj_")] = torch.cat([state.pop(part) for part in parts])
    return state | ({"proj": state["proj"].T} if "proj" in state else {})


def _renamed(name: str) -> str:
    for transformers_part, open_clip_part in NAMES.items():
        name = name.replace(transformers_part, open_clip_part)
    return name


def _preprocess(view: HfPreprocessor, side: int, path: Path) -> Preprocess:
    """Convert the processor's settings; raise WeightsError unless it makes pictures of side x side pixels."""
    size = {"shortest_edge": view.size} if isinstance(view.size, int) else view.size
    crop = (
        {"height": view.crop_size, "width": view.crop_size}
        if isinstance(view.crop_size, int)
        else view.crop_size
    )
    square, short = {"height": side, "width": side}, size.get("shortest_edge", 0)
    cropped = size.keys() == {"shortest_edge"} and view.do_center_crop and crop == square and short >= side
    squashed = size == square and (crop == square or not view.do_center_crop)
    if not cropped and not squashed:
        problem = f"{path} does not make pictures of {side} x {side} pixels, which the model sees"
        raise WeightsError(f"{problem}; fetch the folder again.")
    return Preprocess(
        height=side,
        width=side,
        resize="crop" if cropped else "squash",
        short_side=short if cropped else None,
        mean=view.image_mean,
        std=view.image_std,
        interpolation="bicubic" if view.resample == 3 else "bilinear",
    )


def _tensor_files(folder: Path) -> list[Path]:
    """Return model.safetensors, or the parts that its index names; raise WeightsError if there are none."""
    whole, index = folder / TENSORS, folder / f"{TENSORS}.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        parts = checked(HfWeightIndex, read_object(index), index).weight_map.values()
        return [folder / Path(name).name for name in sorted(set(parts))]
    if (folder / PICKLE).is_file():
        convert = (
            "from transformers import AutoModel; "
            f"AutoModel.from_pretrained('{folder}').save_pretrained('{folder}')"
        )
        problem = f"{folder} has its weights as {PICKLE}, a pickle, which may run code and is never opened"
        raise WeightsError(f'{problem}; if you trust it, convert it with `python -c "{convert}"`.')
    raise missing(whole)


def _digest(files: list[Path]) -> str:
    """Hash one file, or the hashes of several."""
    digests = [sha256(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
