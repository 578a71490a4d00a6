"""The optimiser: which weights move, and how fast."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from skumatch.errors import TrainingDiverged
from skumatch.model.encoder import Encoder
from skumatch.model.layers import layers
from skumatch.params import OptimizerParams

TOWER = "tower."


def adamw(encoder: Encoder, head: nn.Module, params: OptimizerParams) -> AdamW:
    """AdamW over the weights that need gradients; the rate of each group is set by `set_rates`.

    Raises ParameterError as `groups` does.
    """
    return AdamW(groups(encoder, head, params), weight_decay=params.weight_decay)


def groups(encoder: Encoder, head: nn.Module, params: OptimizerParams) -> list[dict[str, Any]]:
    """Groups `{"params": ..., "highest": rate}`: the encoder's with the highest rate first, the head's last.

    None is empty.

    With `params.layer_decay` below 1 the rate of a layer is that share of the rate of the layer after it (as
    in Bao et al., arXiv 2106.08254); a projection counts as the top. Raises ParameterError for a tower that
    doesn't tell layers apart.
    """
    found: dict[float, list[nn.Parameter]] = defaultdict(list)
    shares = _shares(encoder, params.layer_decay) if params.layer_decay < 1 else {}
    for name, parameter in encoder.named_parameters():
        found[shares.get(name, 1.0)].append(parameter)
    each = [(found[share], params.lr_tower * share) for share in sorted(found, reverse=True)]
    each.append((list(head.parameters()), params.lr_head))
    moving = [([parameter for parameter in some if parameter.requires_grad], rate) for some, rate in each]
    return [{"params": some, "highest": rate} for some, rate in moving if some]


def _shares(encoder: Encoder, decay: float) -> dict[str, float]:
    """Each tower parameter's rate as a share of the tower's."""
    found = layers(encoder.tower)
    top = max(found.values())
    return {f"{TOWER}{name}": decay ** (top - layer) for name, layer in found.items()}


def set_rates(optimizer: Optimizer, share: float) -> None:
    """Let every group move at this share of its highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * share


def clip(parameters: Iterable[nn.Parameter], largest: float) -> float:
    """Scale all gradients by one factor, so that their norm together is at most `largest`.

    Returns the norm that it was.

    Raises TrainingDiverged, before it touches the weights, for a norm that is no number.
    """
    norm = nn.utils.clip_grad_norm_(parameters, largest).item()
    if not math.isfinite(norm):
        raise TrainingDiverged(
            f"The gradients' norm became {norm}; lower train.optimizer.lr_tower and lr_head, then run again."
        )
    return norm
