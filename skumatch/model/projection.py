"""The trained map from what a tower says to the vectors that are compared."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from skumatch.model.chance import generator


class Projection(nn.Module):
    """Linear without bias, then a BN neck: batch normalisation without shift (Luo et al., arXiv 1903.07071).

    The neck centres the vectors, so that their directions spread over the whole sphere. Untrained the map is
    a random rotation, the same for everyone, cut to `dim` numbers: it keeps angles as well as so many numbers
    can (all of them where `dim` is the tower's own length or more). In evaluation a vector doesn't depend on
    those beside it.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear: nn.Linear = nn.utils.skip_init(nn.Linear, width, dim, bias=False)  # type: ignore[no-untyped-call]
        nn.init.orthogonal_(self.linear.weight, generator=generator("projection", width, dim))
        self.neck = nn.BatchNorm1d(dim)
        self.neck.register_parameter("bias", None)

    def forward(self, features: Tensor) -> Tensor:
        """[B, width] of any type -> float32 [B, dim], not yet of length 1.

        The features' own length doesn't count.
        """
        with torch.autocast(features.device.type, enabled=False):
            projected: Tensor = self.neck(self.linear(levelled(features)))
        return projected


def levelled(features: Tensor) -> Tensor:
    """[..., width] -> float32 with a mean square of 1: the size that batch normalisation is made for."""
    return functional.normalize(features.float(), dim=-1) * math.sqrt(features.shape[-1])
