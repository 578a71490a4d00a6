"""The JSON files of a Hugging Face CLIP folder, as far as they say what its image tower is and sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skumatch.errors import WeightsError
from skumatch.files import read_json
from skumatch.model.preprocess import Colour
from skumatch.model.torchvision_ops import open_clip

CONFIG, VIEW, TENSORS = "config.json", "preprocessor_config.json", "model.safetensors"
Size = Annotated[int, Field(ge=1, le=65536)]
Read = TypeVar("Read", bound=BaseModel)


class Config(BaseModel):
    """config.json of a whole CLIP, or of its image side alone.

    `vision_config_dict` is an older form, and goes before the newer.
    """

    model_config = ConfigDict(extra="ignore")

    model_type: Literal["clip", "clip_vision_model"]
    projection_dim: Size = 512
    vision_config: dict[str, Any] | None = None
    vision_config_dict: dict[str, Any] | None = None


class Tower(BaseModel):
    """The `vision_config`; what it leaves out is as CLIPVisionConfig has it."""

    model_config = ConfigDict(extra="ignore")

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    projection_dim: Size = 512
    num_hidden_layers: Annotated[int, Field(ge=1, le=256)] = 12
    num_attention_heads: Size = 12
    num_channels: Literal[3] = 3
    image_size: Annotated[int, Field(ge=32, le=1024)] = 224
    patch_size: Size = 32
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5


class View(BaseModel):
    """preprocessor_config.json.

    What it leaves out is as CLIPImageProcessor has it. resample: Pillow's 2 bilinear, 3 bicubic.
    """

    model_config = ConfigDict(extra="ignore")

    image_processor_type: Annotated[str, Field(pattern="^CLIP")] = "CLIPImageProcessor"
    do_resize: Literal[True] = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    do_center_crop: bool = True
    size: Size | dict[str, Size] = 224
    crop_size: Size | dict[str, Size] = 224
    resample: Literal[2, 3] = 3
    rescale_factor: Annotated[float, Field(gt=0.00392, lt=0.00393)] = 1 / 255
    image_mean: Colour = open_clip.OPENAI_DATASET_MEAN
    image_std: Colour = open_clip.OPENAI_DATASET_STD


class Index(BaseModel):
    """model.safetensors.index.json: which file holds which tensor."""

    weight_map: dict[str, str]


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object. Raises WeightsError for a file that is missing or no JSON."""
    if not path.is_file():
        raise missing(path)
    try:
        tree = read_json(path)
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON; fetch it again.") from error
    return tree if isinstance(tree, dict) else {}


def missing(path: Path) -> WeightsError:
    return WeightsError(
        f"There is no {path}; fetch {CONFIG}, {VIEW} and {TENSORS} of the model into that folder."
    )


def checked(kind: type[Read], tree: dict[str, Any], path: Path) -> Read:
    """`tree`, of the file at `path`, as a `kind`; what is required and not there is shown as None.

    Raises WeightsError.
    """
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    try:
        return kind.model_validate(dict.fromkeys(required) | tree)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{path} says {first['loc'][0]} is {first['input']!r}"
        raise WeightsError(
            f"{what}, which this version can't convert ({first['msg'].lower()}); give another CLIP folder."
        ) from error
