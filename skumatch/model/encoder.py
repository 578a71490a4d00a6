"""The encoder: open_clip's image tower, its preprocessing and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from skumatch.errors import ParameterError, WeightsError
from skumatch.files import read_json, replacing, sha256, write_json
from skumatch.model.positions import patch, resized, table
from skumatch.model.preprocess import Preprocess
from skumatch.model.projection import Projection
from skumatch.model.torchvision_ops import open_clip
from skumatch.params import EncoderParams
from skumatch.texts import counted, did_you_mean, visible

FORMAT = 1
CANVAS = "canvas"  # in the metadata of our safetensors files
PROJECTION = "projection."  # prefix of the names of the projection's tensors
OWN_MODELS = tuple(sorted(path.stem for path in (Path(__file__).parent / "configs").glob("*.json")))
Resize = Literal["squash", "pad", "crop"]
# open_clip's names of the ways to resize, and ours
RESIZE: dict[str, Resize] = {
    "squash": "squash",
    "longest": "pad",
    "shortest": "crop",
}
# open_clip always builds an image and a text tower; the text tower is dropped, so a tiny one will do
TINY_TEXT = {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}


class Encoder(nn.Module):
    """Image tower with an optional trained projection and its preprocessing.

    If `spec.dim` isn't 0, a trained projection maps the tower's features to embeddings of that length. Else
    the embeddings are the tower's `width` features. The tensors always have the channels-last layout: it
    makes convolutions on a CPU a third faster, and a single layout gives a single set of bits.

    Attributes:
        tower: open_clip's image tower.
        preprocess: Canvas and normalisation of the pictures that the tower sees.
        width: Length of the tower's features.
        spec: The parameters that the encoder was built from.
        dim: Length of the embeddings.
        projection: The trained map from features to embeddings, or None.
    """

    def __init__(self, tower: nn.Module, preprocess: Preprocess, width: int, spec: EncoderParams) -> None:
        super().__init__()
        tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.tower, self.preprocess, self.width, self.spec = tower, preprocess, width, spec
        self.dim = spec.dim or width
        self.projection = Projection(width, spec.dim) if spec.dim else None

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pixels, float32 [B, 3, H, W], to embeddings of length 1, float32 [B, dim]."""
        return self.projected(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """Map normalised pixels, float32 [B, 3, H, W], to the tower's features, float32 [B, width]."""
        features: Tensor = self.tower(pixels.contiguous(memory_format=torch.channels_last)).float()
        return features

    def projected(self, features: Tensor) -> Tensor:
        """Map the tower's features, [B, width], to embeddings of length 1, float32 [B, dim]."""
        return functional.normalize(self.projection(features) if self.projection else features, dim=-1)

    def views(self, share: float) -> Preprocess:
        """Return the preprocessing for training views with sides of this share of the canvas's sides.

        The sides are rounded to multiples of 8 pixels. A tower that takes one size only gets the whole
        canvas. Random crops enlarge the products they show, so smaller views match the scale of whole
        pictures on the canvas (Touvron et al., arXiv 1906.06423), and cost less.
        """
        if self.fixed_canvas:
            return self.preprocess
        return self.preprocess.at(
            *(max(32, round(share * side / 8) * 8) for side in (self.spec.height, self.spec.width))
        )

    @property
    def fixed_canvas(self) -> bool:
        """True if the tower is a vision transformer, which takes one canvas size only."""
        return patch(self.tower) is not None


def build(spec: EncoderParams, weights: Path | None) -> Encoder:
    """Build an encoder on the CPU with weights from a safetensors file, or with random ones.

    Args:
        spec: Model, canvas and length of the embeddings.
        weights: A safetensors file, whose fp16 tensors become float32, or None for random weights.

    Raises:
        ParameterError: The model is unknown or can't take the canvas.
        WeightsError: The file doesn't fit the model.
    """
    encoder = _empty(spec)
    if table(encoder.tower):
        # before the weights are read, because reading resamples their position table to the canvas
        _set_canvas(encoder)
    if weights is not None:
        _fill(encoder, read_tensors(weights), weights, canvas_of(weights))
    _set_canvas(encoder)
    return encoder


def published(spec: EncoderParams) -> EncoderParams:
    """Return `spec` with the canvas that its model was published with.

    The way to resize is that of the weights' tag, if open_clip knows it.

    Raises:
        ParameterError: The model is unknown.
    """
    size = _config(spec.model)["vision_cfg"].get("image_size", 224)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    resize = RESIZE.get(_tag(spec).get("resize_mode", ""), spec.resize)
    return EncoderParams(model=spec.model, weights=spec.weights, height=height, width=width, resize=resize)


def save(encoder: Encoder, folder: Path) -> None:
    """Write encoder.safetensors, then encoder.json, which holds its SHA-256."""
    path = folder / "encoder.safetensors"
    with replacing(path) as aside:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(encoder).items()}
        save_file(tensors, aside, metadata={CANVAS: f"{encoder.spec.height}x{encoder.spec.width}"})
    facts = {
        "spec": encoder.spec.model_dump(mode="json"),
        "preprocess": encoder.preprocess.model_dump(mode="json"),
        "dim": encoder.dim,
    }
    write_json(folder / "encoder.json", {"format": FORMAT, "sha256": sha256(path), **facts})


def load(folder: Path) -> Encoder:
    """Load the encoder that `save` wrote, in evaluation mode, after checking its hash.

    Raises:
        WeightsError: The folder has no encoder, has another format, or was changed since it was written.
    """
    facts, path = _facts(folder), folder / "encoder.safetensors"
    if not path.is_file() or sha256(path) != facts["sha256"]:
        raise WeightsError(
            f"{path} is missing or was changed since it was written; restore it or run the training again."
        )
    try:
        encoder = _empty(EncoderParams.model_validate(facts["spec"]))
        encoder.preprocess = Preprocess.model_validate(facts["preprocess"])
    except ValidationError as error:
        problem = f"{folder / 'encoder.json'} was written by another version of skumatch"
        raise WeightsError(f"{problem}; load it with that version.") from error
    _set_canvas(encoder)
    tensors = read_tensors(path)
    if encoder.projection and not _of_projection(tensors):
        problem = f"{path} has no projection, which its encoder.json names (dim)"
        raise WeightsError(f"{problem}; restore it or run the training again.")
    _fill(encoder, tensors, path, (encoder.spec.height, encoder.spec.width))
    return encoder.eval()


def canvas_of(path: Path) -> tuple[int, int] | None:
    """Read the canvas of a safetensors file, (height, width) in pixels, from its metadata.

    Only files that `save` wrote name their canvas. Return None for others.
    """
    with safe_open(path, framework="pt") as file:
        canvas = (file.metadata() or {}).get(CANVAS, "")
    height, _, width = canvas.partition("x")
    return (int(height), int(width)) if height.isdecimal() and width.isdecimal() else None


def _of_projection(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(PROJECTION): tensor
        for name, tensor in tensors.items()
        if name.startswith(PROJECTION)
    }


def _tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Return the tensors of the tower, under its own names, and of the projection, with a prefix."""
    projection = encoder.projection.state_dict(prefix=PROJECTION) if encoder.projection else {}
    return {**encoder.tower.state_dict(), **projection}


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / "encoder.json"
    if not path.is_file():
        raise WeightsError(
            f"There is no encoder in {folder}; name a folder that holds encoder.json and encoder.safetensors."
        )
    try:
        facts: dict[str, Any] = dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path} can't be read; restore it or run the training again.") from error
    if facts.get("format") != FORMAT:
        problem = f"{path} has format {facts.get('format')}, this version reads {FORMAT}"
        raise WeightsError(f"{problem}; load it with the version that wrote it.")
    return facts


def _empty(spec: EncoderParams) -> Encoder:
    """Build an encoder with random weights; a tower from timm still has its default canvas."""
    config = _config(spec.model)
    if isinstance(config["vision_cfg"].get("layers"), list):
        problem = f"{spec.model} is one of open_clip's own ResNets, which see squares of one size only"
        models = f"a ViT, a model that open_clip has from timm, or one of {', '.join(OWN_MODELS)}"
        raise ParameterError(f"{problem}; use {models} (encoder.model).")
    vision = config["vision_cfg"] | {"timm_model_pretrained": False, "output_tokens": False}
    if "timm_model_name" not in vision:
        vision["image_size"] = (spec.height, spec.width)  # timm's towers are resized by _set_canvas
    if spec.dim > config["embed_dim"]:
        problem = (
            f"encoder.dim is {spec.dim}, but {spec.model} says {config['embed_dim']} numbers of a picture"
        )
        raise ParameterError(f"{problem}; set it to at most as many, or to 0 for all of them.")
    tower = open_clip.CLIP(
        config["embed_dim"], vision, TINY_TEXT, quick_gelu=config.get("quick_gelu", False)
    ).visual
    return Encoder(tower, _preprocess(spec, tower), config["embed_dim"], spec)


def _config(model: str) -> dict[str, Any]:
    config: dict[str, Any] | None = open_clip.get_model_config(model)
    if config is None:
        choices = f"{', '.join(OWN_MODELS)} or a name from open_clip.list_models()"
        hint = did_you_mean(model, [*OWN_MODELS, *open_clip.list_models()])
        raise ParameterError(f"{hint}There is no encoder '{visible(model)}' (encoder.model); use {choices}.")
    return config


def _preprocess(spec: EncoderParams, tower: Any) -> Preprocess:
    """Return the preprocessing of a tower on the spec's canvas.

    For the models in `OWN_MODELS` the mean and std are timm's and the interpolation is bicubic. For
    open_clip's models all three are those of the weights' tag.
    """
    own = spec.model in OWN_MODELS
    facts = tower.trunk.default_cfg if own else _tag(spec)
    mean = facts.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = facts.get("std") or open_clip.OPENAI_DATASET_STD
    interpolation = "bilinear" if not own and facts.get("interpolation") == "bilinear" else "bicubic"
    canvas = {"height": spec.height, "width": spec.width, "resize": spec.resize}
    return Preprocess(**canvas, mean=mean, std=std, interpolation=interpolation)


def _tag(spec: EncoderParams) -> dict[str, Any]:
    """Return open_clip's facts about the weights' tag.

    For weights from a file these are the facts about the model's first tag. For the models in `OWN_MODELS`
    the result is empty.
    """
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    tag = spec.weights if spec.weights in tags else next(iter(tags), "")
    facts: dict[str, Any] = open_clip.get_pretrained_cfg(spec.model, tag)
    return facts


def _set_canvas(encoder: Encoder) -> None:
    trunk: Any = getattr(encoder.tower, "trunk", encoder.tower)
    canvas, patch_size = (encoder.spec.height, encoder.spec.width), patch(encoder.tower)
    if patch_size is not None and (canvas[0] % patch_size[0] or canvas[1] % patch_size[1]):
        raise ParameterError(
            f"{encoder.spec.model} sees patches of {patch_size[0]} pixels; "
            "set encoder.height and encoder.width to multiples of it."
        )
    if hasattr(trunk, "set_input_size"):
        trunk.set_input_size(img_size=canvas)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file's tensors; floating-point ones become float32.

    Raises:
        WeightsError: The file can't be read.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} can't be read as a safetensors file ({error}); convert the weights or fetch them again."
        ) from error
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def _fill(encoder: Encoder, tensors: dict[str, Tensor], path: Path, canvas: tuple[int, int] | None) -> None:
    """Load the tensors of a tower, and those of its projection if there are any.

    The tower's tensors have the names of open_clip's tower or of timm's trunk. `canvas` is the canvas that
    they were trained on, if it is known.
    """
    misfit = f"{path} does not fit the encoder {encoder.spec.model}"
    remedy = "set encoder.weights to weights of this model"
    if encoder.projection and (projection := _of_projection(tensors)):  # base weights have none
        fill(encoder.projection, projection, misfit, f"{remedy} and encoder.dim")
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(PROJECTION)}
    wanted = encoder.tower.state_dict()
    prefix = "trunk." if not wanted.keys() & tensors.keys() else ""
    state = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    fill(encoder.tower, resized(encoder.tower, state, canvas, path), misfit, remedy)


def fill(tower: nn.Module, state: dict[str, Tensor], misfit: str, remedy: str) -> None:
    """Load all of a tower's tensors.

    Args:
        tower: The module that gets them.
        state: Tensors by name.
        misfit: How the error message begins.
        remedy: How the error message ends.

    Raises:
        WeightsError: The names or sizes in `state` aren't exactly the tower's.
    """
    sizes = {name: tensor.shape for name, tensor in state.items()}
    expected = {name: tensor.shape for name, tensor in tower.state_dict().items()}
    wrong = sorted(name for name in sizes.keys() | expected.keys() if sizes.get(name) != expected.get(name))
    if wrong:
        problem = f"{misfit}: {counted(len(wrong), 'tensor')} missing, unknown or of another size"
        raise WeightsError(f"{problem}, first {wrong[0]}; {remedy}.")
    tower.load_state_dict(state)
