"""The training head: the loss of whole embeddings and of their first numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skumatch.errors import ParameterError
from skumatch.model.losses import build_loss, set_margin
from skumatch.params import LossParams


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
