"""The training head: classes as directions on the sphere, kept apart by an angle."""

from __future__ import annotations

import math

from pytorch_metric_learning.losses import ArcFaceLoss
from torch import Tensor, nn


class Head(nn.Module):
    """ArcFace (Deng et al., arXiv 1801.07698) from pytorch-metric-learning, with label smoothing and a margin that can grow.

    `margin` in radians. `forward(embeddings [B, dim], labels [B]) -> loss []`, always in float32: the library would cast
    the class weights to the embeddings' type for good.
    """

    def __init__(self, classes: int, dim: int, margin: float, scale: float, label_smoothing: float) -> None:
        super().__init__()
        self.margin = margin
        self.loss = ArcFaceLoss(num_classes=classes, embedding_size=dim, margin=math.degrees(margin), scale=scale)
        # directions of length 1: the library's own start is sqrt(dim) long, so a step of the optimiser would hardly turn them
        nn.init.normal_(self.loss.W, std=dim**-0.5)
        self.loss.cross_entropy = nn.CrossEntropyLoss(reduction="none", label_smoothing=label_smoothing)

    def ramp(self, share: float) -> None:
        """Use this share (0..1) of the margin from now on."""
        self.loss.margin = self.margin * min(1.0, share)  # the library takes degrees, but keeps radians

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss(embeddings.float(), labels)
        return loss
