"""Metric-learning losses by name, from pytorch-metric-learning, with workarounds for its pitfalls."""

from __future__ import annotations

import math
from typing import cast

from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, SubCenterArcFaceLoss, SupConLoss
from torch import nn

from skumatch.params import LossParams


def build_loss(classes: int, dim: int, params: LossParams) -> nn.Module:
    """Build a loss of embeddings [B, dim] and labels [B].

    The losses are arcface (Deng et al., arXiv 1801.07698), subcentre (Deng et al., ECCV 2020), cosface (Wang
    et al., arXiv 1801.09414) and supcon (Khosla et al., arXiv 2004.11362). subcentre has `params.centres`
    directions per class, of which the nearest counts. supcon has no class weights.

    Args:
        classes: Number of classes.
        dim: Length of the embeddings.
        params: The loss's kind and its parameters.
    """
    if params.kind == "supcon":
        return cast(nn.Module, SupConLoss(temperature=params.temperature))
    loss = _of_classes(classes, dim, params)
    # class directions of length 1: the library's initial ones have length sqrt(dim), so an optimiser step
    # would hardly turn them
    nn.init.normal_(loss.W, std=dim**-0.5)
    loss.cross_entropy = nn.CrossEntropyLoss(reduction="none", label_smoothing=params.label_smoothing)
    return cast(nn.Module, loss)


def set_margin(loss: nn.Module, margin: float) -> None:
    """Set a loss's margin: in radians (arcface, subcentre) or as a cosine (cosface).

    A loss without a margin, such as supcon, stays unchanged.
    """
    if hasattr(loss, "margin"):
        # in radians: the library's constructor takes degrees, but its attribute holds radians
        cast(ArcFaceLoss, loss).margin = margin


def _of_classes(classes: int, dim: int, params: LossParams) -> ArcFaceLoss | CosFaceLoss:
    sizes = {"num_classes": classes, "embedding_size": dim, "scale": params.scale}
    if params.kind == "cosface":
        return CosFaceLoss(margin=params.margin, **sizes)
    if params.kind == "subcentre":
        return SubCenterArcFaceLoss(margin=math.degrees(params.margin), sub_centers=params.centres, **sizes)
    return ArcFaceLoss(margin=math.degrees(params.margin), **sizes)
