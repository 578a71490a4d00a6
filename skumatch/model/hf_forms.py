"""Models of the JSON files in a Hugging Face CLIP folder, as far as they describe its image tower."""

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
    """The config.json of a whole CLIP model, or of its image side alone.

    Attributes:
        model_type: `clip` for a whole model, `clip_vision_model` for its image side.
        projection_dim: Length of the embeddings.
        vision_config: The image tower's configuration, in a whole model.
        vision_config_dict: The older name of `vision_config`; it takes precedence.
    """

    model_config = ConfigDict(extra="ignore")

    model_type: Literal["clip", "clip_vision_model"]
    projection_dim: Size = 512
    vision_config: dict[str, Any] | None = None
    vision_config_dict: dict[str, Any] | None = None


class Tower(BaseModel):
    """The `vision_config`. A missing field has the default of transformers' CLIPVisionConfig.

    Attributes:
        hidden_size: Width of the tower.
        intermediate_size: Width of the MLPs' hidden layer.
        projection_dim: Length of the embeddings.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Heads of each block's attention.
        num_channels: Channels of a picture.
        image_size: Side of the square canvas in pixels.
        patch_size: Side of a patch in pixels.
        hidden_act: Activation of the MLPs.
        layer_norm_eps: Epsilon of the layer normalisations.
    """

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


class HfPreprocessor(BaseModel):
    """The preprocessor_config.json. A missing field has the default of transformers' CLIPImageProcessor.

    Attributes:
        image_processor_type: Name of the processor's class.
        do_resize: Always True: pictures are resized.
        do_rescale: Always True: values are multiplied by `rescale_factor`.
        do_normalize: Always True: values are normalised by `image_mean` and `image_std`.
        do_center_crop: True if the middle is cut out after resizing.
        size: Length of the shorter side after resizing, or the sides' lengths by name, in pixels.
        crop_size: Side of the square that is cut out, or its sides by name, in pixels.
        resample: Pillow's number of the interpolation: 2 is bilinear, 3 bicubic.
        rescale_factor: 1 / 255, rounded or not.
        image_mean: Mean of each channel, for values 0..1.
        image_std: Standard deviation of each channel, for values 0..1.
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


class HfWeightIndex(BaseModel):
    """The model.safetensors.index.json of a model whose tensors are in several files.

    Attributes:
        weight_map: A tensor's name -> its file's name.
    """

    weight_map: dict[str, str]


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file's object; it is empty if the file holds something else than an object.

    Raises:
        WeightsError: The file is missing or isn't JSON.
    """
    if not path.is_file():
        raise missing(path)
    try:
        tree = read_json(path)
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON; fetch it again.") from error
    return tree if isinstance(tree, dict) else {}


def missing(path: Path) -> WeightsError:
    """Return the error for a missing file."""
    return WeightsError(
        f"There is no {path}; fetch {CONFIG}, {VIEW} and {TENSORS} of the model into that folder."
    )


def checked(kind: type[Read], tree: dict[str, Any], path: Path) -> Read:
    """Validate a JSON object.

    Args:
        kind: The model to validate it with.
        tree: The object. A required field that it lacks counts as None, so that the error can quote it.
        path: The file that it was read from, for the error.

    Raises:
        WeightsError: A field has a value that can't be converted.
    """
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    try:
        return kind.model_validate(dict.fromkeys(required) | tree)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{path} says {first['loc'][0]} is {first['input']!r}"
        raise WeightsError(
            f"{problem}, which this version can't convert ({first['msg'].lower()}); give another CLIP folder."
        ) from error
