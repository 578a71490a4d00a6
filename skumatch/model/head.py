"""The training head, which computes a loss of the embeddings, and the losses from pytorch-metric-learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, SubCenterArcFaceLoss, SupConLoss
from torch import Tensor, nn

from skumatch.errors import ParameterError
from skumatch.model.distributed import World
from skumatch.model.encoder import Encoder
from skumatch.model.runtime import autocast
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


class Head(nn.Module):
    """The mean loss of embeddings at full length and cut to each length in `params.dims`.

    This is Matryoshka representation learning (Kusupati et al., arXiv 2205.13147). Each length has its own
    class directions. The losses normalise the embeddings that they get.

    Attributes:
        params: Parameters of the loss.
        loss: The loss at full length.
        dims: The shorter lengths, sorted.
        nested: The loss at each of them.
    """

    def __init__(self, classes: int, dim: int, params: LossParams) -> None:
        """Make a head with random class directions.

        Args:
            classes: Number of classes.
            dim: Length of the embeddings.
            params: Parameters of the loss.

        Raises:
            ParameterError: `params.dims` has a length over `dim`.
        """
        super().__init__()
        longest = max(params.dims, default=0)
        if longest > dim:
            problem = f"train.loss.dims has {longest}, but the embedding is {dim} numbers long"
            raise ParameterError(f"{problem}; name lengths up to that, or set encoder.dim.")
        self.params = params
        self.loss = build_loss(classes, dim, params)
        self.dims = sorted({*params.dims} - {dim})
        self.nested = nn.ModuleList(build_loss(classes, short, params) for short in self.dims)

    def ramp(self, epochs: float) -> None:
        """Set the margin after `epochs` epochs; it grows linearly over `params.margin_epochs`."""
        share = min(1.0, epochs / self.params.margin_epochs) if self.params.margin_epochs else 1.0
        for loss in (self.loss, *self.nested):
            set_margin(loss, self.params.margin * share)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss [] of embeddings [B, dim] and labels [B].

        The loss is always computed in float32. The library would cast the class weights to the type of the
        embeddings, and leave them so.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            whole = embeddings.float()
            losses = [self.loss(whole, labels)]
            losses += [loss(whole[:, :dim], labels) for dim, loss in zip(self.dims, self.nested, strict=True)]
        return torch.stack(losses).mean()


class Learner(nn.Module):
    """Encoder and head as one module, which computes the loss of a batch.

    Attributes:
        encoder: The encoder.
        head: The head.
        world: The processes that train together.
        pairs: True if the loss compares pictures with each other, so it needs those of all processes.
        compiled: The encoder's compiled forward function, or None for its own.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        world: World,
        pairs: bool = False,
        forward: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.world, self.pairs, self.compiled = world, pairs, forward

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss [] of pixels, uint8 [B, 3, H, W], and labels, int64 [B], on the pixels' device.

        On a GPU the encoder works in bfloat16.
        """
        embed = self.compiled or self.encoder
        with autocast(pixels.device):
            embeddings = embed(self.encoder.preprocess.normalise(pixels))
        if self.pairs:
            embeddings, labels = self.world.gathered(embeddings, labels)
        loss: Tensor = self.head(embeddings, labels)
        return loss
