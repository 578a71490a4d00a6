"""The trained map from a tower's features to the embeddings that are compared."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from skumatch.model.chance import generator


class Projection(nn.Module):
    """A linear layer without bias, then a BN neck: batch normalisation without shift.

    The BN neck (Luo et al., arXiv 1903.07071) centres the vectors, so that their directions spread over the
    whole sphere. In evaluation mode a vector doesn't depend on the others in its batch.

    The untrained map is a random rotation cut to `dim` numbers, the same for every run. It preserves angles
    as well as `dim` numbers can, and exactly if `dim` is at least the tower's width.

    Attributes:
        linear: The linear layer.
        neck: The BN neck.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear: nn.Linear = nn.utils.skip_init(nn.Linear, width, dim, bias=False)  # type: ignore[no-untyped-call]
        nn.init.orthogonal_(self.linear.weight, generator=generator("projection", width, dim))
        self.neck = nn.BatchNorm1d(dim)
        self.neck.register_parameter("bias", None)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, width] of any type to float32 [B, dim], not yet of length 1.

        The length of a feature vector has no effect.
        """
        with torch.autocast(features.device.type, enabled=False):
            projected: Tensor = self.neck(self.linear(levelled(features)))
        return projected


def levelled(features: Tensor) -> Tensor:
    """Scale vectors [..., width] to a mean square of 1, which suits batch normalisation, in float32."""
    return functional.normalize(features.float(), dim=-1) * math.sqrt(features.shape[-1])
