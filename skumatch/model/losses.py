"""The losses by name, from pytorch-metric-learning, with its traps taken care of."""

from __future__ import annotations

import math
from typing import cast

from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, SubCenterArcFaceLoss, SupConLoss
from torch import nn

from skumatch.params import LossParams


def build_loss(classes: int, dim: int, params: LossParams) -> nn.Module:
    """The loss of embeddings [B, dim] and labels [B].

    arcface: Deng et al., arXiv 1801.07698. subcentre: Deng et al., ECCV 2020, `centres` directions a class,
    the nearest counts. cosface: Wang et al., arXiv 1801.09414. supcon: Khosla et al., arXiv 2004.11362, which
    knows no classes' weights.
    """
    if params.kind == "supcon":
        return cast(nn.Module, SupConLoss(temperature=params.temperature))
    loss = _of_classes(classes, dim, params)
    # directions of length 1: the library's own start is sqrt(dim) long, so a step of the optimiser would
    # hardly turn them
    nn.init.normal_(loss.W, std=dim**-0.5)
    loss.cross_entropy = nn.CrossEntropyLoss(reduction="none", label_smoothing=params.label_smoothing)
    return cast(nn.Module, loss)


def set_margin(loss: nn.Module, margin: float) -> None:
    """Use this margin from now on: radians (arcface, subcentre) or cosine (cosface).

    A loss of pairs has none.
    """
    if hasattr(loss, "margin"):
        cast(ArcFaceLoss, loss).margin = margin  # the library takes degrees at first, but keeps radians


def _of_classes(classes: int, dim: int, params: LossParams) -> ArcFaceLoss | CosFaceLoss:
    sizes = {"num_classes": classes, "embedding_size": dim, "scale": params.scale}
    if params.kind == "cosface":
        return CosFaceLoss(margin=params.margin, **sizes)
    if params.kind == "subcentre":
        return SubCenterArcFaceLoss(margin=math.degrees(params.margin), sub_centers=params.centres, **sizes)
    return ArcFaceLoss(margin=math.degrees(params.margin), **sizes)
