"""The optimiser: AdamW with parameter groups, learning rates and gradient clipping."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from skumatch.errors import TrainingDiverged
from skumatch.model.encoder import Encoder
from skumatch.model.tower import layers
from skumatch.params import OptimizerParams

TOWER = "tower."


def adamw(encoder: Encoder, head: nn.Module, params: OptimizerParams) -> AdamW:
    """Make AdamW for the weights that need gradients; `set_rates` sets the learning rate of each group.

    Args:
        encoder: The encoder.
        head: The head.
        params: Learning rates and weight decay.

    Raises:
        ParameterError: As `groups` raises it.
    """
    return AdamW(groups(encoder, head, params), weight_decay=params.weight_decay)


def groups(encoder: Encoder, head: nn.Module, params: OptimizerParams) -> list[dict[str, Any]]:
    """Group the parameters that need gradients by their highest learning rate.

    With `params.layer_decay` below 1 the rate of a layer is that share of the rate of the layer after it (Bao
    et al., arXiv 2106.08254). A projection has the rate of the top layer.

    Args:
        encoder: The encoder.
        head: The head.
        params: Learning rates and their decay by layer.

    Returns:
        Groups `{"params": ..., "highest": rate}`, none of them empty: the encoder's, beginning with the
        highest rate, then the head's.

    Raises:
        ParameterError: The rate decays by layer, but the tower doesn't tell its layers apart.
    """
    by_share: dict[float, list[nn.Parameter]] = defaultdict(list)
    shares = _shares(encoder, params.layer_decay) if params.layer_decay < 1 else {}
    for name, parameter in encoder.named_parameters():
        by_share[shares.get(name, 1.0)].append(parameter)
    rated = [(by_share[share], params.lr_tower * share) for share in sorted(by_share, reverse=True)]
    rated.append((list(head.parameters()), params.lr_head))
    trained = [
        ([parameter for parameter in members if parameter.requires_grad], rate) for members, rate in rated
    ]
    return [{"params": members, "highest": rate} for members, rate in trained if members]


def _shares(encoder: Encoder, decay: float) -> dict[str, float]:
    """Return each tower parameter's learning rate as a share of the tower's."""
    layer_of = layers(encoder.tower)
    top = max(layer_of.values())
    return {f"{TOWER}{name}": decay ** (top - layer) for name, layer in layer_of.items()}


def set_rates(optimizer: Optimizer, share: float) -> None:
    """Set the learning rate of every group to this share of its highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * share


def clip(parameters: Iterable[nn.Parameter], largest: float) -> float:
    """Scale all gradients by one factor, so that their joint norm is at most `largest`.

    Returns:
        The norm before scaling.

    Raises:
        TrainingDiverged: The norm is not finite; the weights are unchanged.
    """
    norm = nn.utils.clip_grad_norm_(parameters, largest).item()
    if not math.isfinite(norm):
        raise TrainingDiverged(
            f"The gradients' norm became {norm}; lower train.optimizer.lr_tower and lr_head, then run again."
        )
    return norm
