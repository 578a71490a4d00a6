"""Small encoders of each family, with random weights."""

from __future__ import annotations

import torch

from skumatch.model.encoder import Encoder, build
from skumatch.model.preprocess import Preprocess
from skumatch.model.torchvision_ops import open_clip
from skumatch.params import EncoderParams

TEXT = {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}
OWN_VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
TIMM_VIT = {
    "image_size": 160,
    "timm_model_name": "test_vit",
    "timm_model_pretrained": False,
    "timm_pool": "token",
    "timm_proj": "linear",
}


def encoder_of(vision: dict[str, object], width: int = 16) -> Encoder:
    """An encoder around one of the towers above.

    Timm's small ViT has a linear layer of open_clip's on top.
    """
    torch.manual_seed(0)
    tower = open_clip.CLIP(width, dict(vision), TEXT).visual
    side = vision["image_size"]
    spec = EncoderParams(model="smoke", weights="none", height=side, width=side)
    mean = open_clip.OPENAI_DATASET_MEAN
    return Encoder(
        tower, Preprocess(height=side, width=side, resize="squash", mean=mean, std=mean), width, spec
    )


def smoke(dim: int = 0) -> Encoder:
    """The tiny convolutional encoder, 32 x 32."""
    torch.manual_seed(0)
    return build(EncoderParams(model="smoke", weights="none", height=32, width=32, dim=dim), None)


def vit() -> Encoder:
    return encoder_of(OWN_VIT)


def timm_vit() -> Encoder:
    return encoder_of(TIMM_VIT)


def pixels(encoder: Encoder, count: int = 4, seed: int = 1) -> torch.Tensor:
    """Normalised pictures for this encoder."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, encoder.preprocess.height, encoder.preprocess.width, generator=draws)
