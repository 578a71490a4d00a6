"""The training head: what the loss says of the embedding, and of its beginnings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skumatch.errors import ParameterError
from skumatch.model.losses import build_loss, set_margin
from skumatch.params import LossParams


class Head(nn.Module):
    """The loss of whole embeddings, averaged with that of their first `params.dims` numbers (Kusupati et al., arXiv 2205.13147).

    Each length has class directions of its own; the losses normalise what they are given. `forward(embeddings [B, dim],
    labels [B]) -> loss []`, always in float32: the library would cast the class weights to the embeddings' type for good.
    Raises ParameterError for a length over `dim`.
    """

    def __init__(self, classes: int, dim: int, params: LossParams) -> None:
        super().__init__()
        longest = max(params.dims, default=0)
        if longest > dim:
            what = f"train.loss.dims has {longest}, but the embedding is {dim} numbers long"
            raise ParameterError(f"{what}; name lengths up to that, or set encoder.dim.")
        self.params = params
        self.loss = build_loss(classes, dim, params)
        self.dims = sorted({*params.dims} - {dim})
        self.nested = nn.ModuleList(build_loss(classes, short, params) for short in self.dims)

    def ramp(self, epochs: float) -> None:
        """Use the margin as it is after so many epochs, from now on: it grows linearly over `params.margin_epochs`."""
        share = min(1.0, epochs / self.params.margin_epochs) if self.params.margin_epochs else 1.0
        for loss in (self.loss, *self.nested):
            set_margin(loss, self.params.margin * share)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            whole = embeddings.float()
            losses = [self.loss(whole, labels)]
            losses += [loss(whole[:, :dim], labels) for dim, loss in zip(self.dims, self.nested, strict=True)]
        return torch.stack(losses).mean()
