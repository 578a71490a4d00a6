"""The encoder: open_clip's image tower, what it needs to see, and its files."""

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

FORMAT = 1
CANVAS = "canvas"  # in the metadata of our safetensors files
PROJECTION = "projection."  # how its tensors' names begin
OWN_MODELS = tuple(sorted(path.stem for path in (Path(__file__).parent / "configs").glob("*.json")))
Resize = Literal["squash", "pad", "crop"]
RESIZE: dict[str, Resize] = {
    "squash": "squash",
    "longest": "pad",
    "shortest": "crop",
}  # as open_clip calls them
# open_clip builds both towers; this one is dropped
TINY_TEXT = {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}


class Encoder(nn.Module):
    """Image tower with its `preprocess`, the length `dim` of its embeddings, and the parameters `spec` it was built from.

    With `spec.dim` the embeddings have that length, through a trained projection; else they are the tower's `width` features.
    Always in channels-last layout: a third faster for convolutions on a CPU, and one layout means one set of bits.
    """

    def __init__(self, tower: nn.Module, preprocess: Preprocess, width: int, spec: EncoderParams) -> None:
        super().__init__()
        tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.tower, self.preprocess, self.width, self.spec = tower, preprocess, width, spec
        self.dim = spec.dim or width
        self.projection = Projection(width, spec.dim) if spec.dim else None

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised float32 [B, 3, H, W] -> float32 [B, dim] of length 1."""
        return self.projected(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised float32 [B, 3, H, W] -> what the tower alone says, float32 [B, width]."""
        features: Tensor = self.tower(pixels.contiguous(memory_format=torch.channels_last)).float()
        return features

    def projected(self, features: Tensor) -> Tensor:
        """What the tower says, [B, width] -> float32 [B, dim] of length 1."""
        return functional.normalize(self.projection(features) if self.projection else features, dim=-1)

    def views(self, share: float) -> Preprocess:
        """Preprocess for training views of this share of the canvas, in steps of 8 pixels.

        All of it where the tower takes no other size.

        Random crops enlarge what they show, so smaller views match the scale of whole pictures on the canvas
        (Touvron et al., arXiv 1906.06423), and cost less.
        """
        if self.fixed_canvas:
            return self.preprocess
        return self.preprocess.at(
            *(max(32, round(share * side / 8) * 8) for side in (self.spec.height, self.spec.width))
        )

    @property
    def fixed_canvas(self) -> bool:
        return patch(self.tower) is not None


def build(spec: EncoderParams, weights: Path | None) -> Encoder:
    """An encoder on the CPU with the tower's tensors from a safetensors file (fp16 becomes float32), or random ones.

    Raises ParameterError for an unknown model or a canvas it can't take, WeightsError for a file that doesn't fit.
    """
    encoder = _empty(spec)
    if table(encoder.tower):
        _set_canvas(encoder)  # the table of positions is resampled for it as it is read
    if weights is not None:
        _fill(encoder, read_tensors(weights), weights, canvas_of(weights))
    _set_canvas(encoder)
    return encoder


def published(spec: EncoderParams) -> EncoderParams:
    """`spec` with the canvas its model was published with, and the way its weights' tag resizes where open_clip knows it.

    Raises ParameterError for an unknown model.
    """
    size = _config(spec.model)["vision_cfg"].get("image_size", 224)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    resize = RESIZE.get(_tag(spec).get("resize_mode", ""), spec.resize)
    return EncoderParams(model=spec.model, weights=spec.weights, height=height, width=width, resize=resize)


def save(encoder: Encoder, folder: Path) -> None:
    """Write encoder.safetensors, then encoder.json, which carries its hash."""
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
    """The encoder that `save` wrote, in evaluation mode; its bytes are hashed before they are read.

    Raises WeightsError for a folder without an encoder, of a newer format, or changed since it was written.
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
        raise WeightsError(
            f"{folder / 'encoder.json'} was written by another version of skumatch; load it with that version."
        ) from error
    _set_canvas(encoder)
    tensors = read_tensors(path)
    if encoder.projection and not _of_projection(tensors):
        raise WeightsError(
            f"{path} has no projection, which its encoder.json names (dim); restore it or run the training again."
        )
    _fill(encoder, tensors, path, (encoder.spec.height, encoder.spec.width))
    return encoder.eval()


def canvas_of(path: Path) -> tuple[int, int] | None:
    """Height and width in pixels that a safetensors file of ours was made on.

    None for files of others, which don't say.
    """
    with safe_open(path, framework="pt") as file:
        told = (file.metadata() or {}).get(CANVAS, "")
    height, _, width = told.partition("x")
    return (int(height), int(width)) if height.isdecimal() and width.isdecimal() else None


def _of_projection(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(PROJECTION): tensor
        for name, tensor in tensors.items()
        if name.startswith(PROJECTION)
    }


def _tensors(encoder: Encoder) -> dict[str, Tensor]:
    """The tower's tensors by its own names, and the projection's."""
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
        raise WeightsError(
            f"{path} has format {facts.get('format')}, this version reads {FORMAT}; load it with the version that wrote it."
        )
    return facts


def _empty(spec: EncoderParams) -> Encoder:
    """An encoder with random weights; timm's towers have their own canvas still."""
    config = _config(spec.model)
    if isinstance(config["vision_cfg"].get("layers"), list):
        what = f"{spec.model} is one of open_clip's own ResNets, which see squares of one size only"
        raise ParameterError(
            f"{what}; use a ViT, a model that open_clip has from timm, or one of {', '.join(OWN_MODELS)} (encoder.model)."
        )
    vision = config["vision_cfg"] | {"timm_model_pretrained": False, "output_tokens": False}
    if "timm_model_name" not in vision:
        vision["image_size"] = (spec.height, spec.width)  # timm's towers are resized by _set_canvas
    if spec.dim > config["embed_dim"]:
        what = f"encoder.dim is {spec.dim}, but {spec.model} says {config['embed_dim']} numbers of a picture"
        raise ParameterError(f"{what}; set it to at most as many, or to 0 for all of them.")
    tower = open_clip.CLIP(
        config["embed_dim"], vision, TINY_TEXT, quick_gelu=config.get("quick_gelu", False)
    ).visual
    return Encoder(tower, _preprocess(spec, tower), config["embed_dim"], spec)


def _config(model: str) -> dict[str, Any]:
    config: dict[str, Any] | None = open_clip.get_model_config(model)
    if config is None:
        choices = f"{', '.join(OWN_MODELS)} or a name from open_clip.list_models()"
        raise ParameterError(f"There is no encoder '{model}' (encoder.model); use {choices}.")
    return config


def _preprocess(spec: EncoderParams, tower: Any) -> Preprocess:
    """The spec's canvas.

    Mean, std and interpolation are timm's for our own models (but bicubic), the tag's for open_clip's.
    """
    own = spec.model in OWN_MODELS
    facts = tower.trunk.default_cfg if own else _tag(spec)
    mean, std = (
        facts.get("mean") or open_clip.OPENAI_DATASET_MEAN,
        facts.get("std") or open_clip.OPENAI_DATASET_STD,
    )
    interpolation = "bilinear" if not own and facts.get("interpolation") == "bilinear" else "bicubic"
    canvas = {"height": spec.height, "width": spec.width, "resize": spec.resize}
    return Preprocess(**canvas, mean=mean, std=std, interpolation=interpolation)


def _tag(spec: EncoderParams) -> dict[str, Any]:
    """What open_clip knows of a tag's weights (of the model's first tag if they come from a file).

    Nothing for our own models.
    """
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    tag = spec.weights if spec.weights in tags else next(iter(tags), "")
    facts: dict[str, Any] = open_clip.get_pretrained_cfg(spec.model, tag)
    return facts


def _set_canvas(encoder: Encoder) -> None:
    trunk: Any = getattr(encoder.tower, "trunk", encoder.tower)
    canvas, side = (encoder.spec.height, encoder.spec.width), patch(encoder.tower)
    if side is not None and (canvas[0] % side[0] or canvas[1] % side[1]):
        raise ParameterError(
            f"{encoder.spec.model} sees patches of {side[0]} pixels; set encoder.height and encoder.width to multiples of it."
        )
    if hasattr(trunk, "set_input_size"):
        trunk.set_input_size(img_size=canvas)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors, floating ones as float32.

    Raises WeightsError for a file that can't be read.
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
    """Load a tower's tensors, named as open_clip's tower or as timm's trunk names them, and its projection's if they are there.

    canvas: what they were made on, where that is known.
    """
    misfit, remedy = (
        f"{path} does not fit the encoder {encoder.spec.model}",
        "set encoder.weights to weights of this model",
    )
    if encoder.projection and (own := _of_projection(tensors)):  # base weights know none
        fill(encoder.projection, own, misfit, f"{remedy} and encoder.dim")
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(PROJECTION)}
    wanted = encoder.tower.state_dict()
    prefix = "trunk." if not wanted.keys() & tensors.keys() else ""
    found = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    fill(encoder.tower, resized(encoder.tower, found, canvas, path), misfit, remedy)


def fill(tower: nn.Module, state: dict[str, Tensor], what: str, remedy: str) -> None:
    """Load all of a tower's tensors.

    Raises WeightsError, which begins with `what`, unless names and sizes are the tower's own.
    """
    sizes, expected = (
        {name: tensor.shape for name, tensor in tensors.items()} for tensors in (state, tower.state_dict())
    )
    wrong = sorted(name for name in sizes.keys() | expected.keys() if sizes.get(name) != expected.get(name))
    if wrong:
        raise WeightsError(
            f"{what}: {len(wrong)} tensors are missing, unknown or of another size, first {wrong[0]}; {remedy}."
        )
    tower.load_state_dict(state)
