"""Weights between those of single steps: their moving average, and the way from before training to after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from skumatch.model.encoder import Encoder

State = Mapping[str, Tensor]


class Average:
    """The exponential moving average of an encoder's weights (Polyak & Juditsky, 1992), as an encoder of its own.

    The statistics of batch normalisation are averaged with the weights, so that both look back equally far; counts are copied.
    """

    def __init__(self, encoder: Encoder, decay: float) -> None:
        self.decay = decay
        self.encoder = deepcopy(encoder).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, encoder: Encoder, step: int) -> None:
        """Take in the weights after `step` earlier updates.

        At first a short memory, so that the start is soon forgotten.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        own, new = self.encoder.state_dict(), encoder.state_dict()
        parts = [name for name, tensor in own.items() if tensor.is_floating_point()]
        move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move([own[name] for name in parts], [new[name] for name in parts], step)
        for name in own.keys() - set(parts):
            own[name].copy_(new[name])


@torch.no_grad()
def snapshot(encoder: Encoder) -> dict[str, Tensor]:
    """A copy of the encoder's weights and statistics."""
    return {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}


@torch.no_grad()
def between(before: State, after: State, share: float) -> dict[str, Tensor]:
    """The weights at this share of the way from `before` to `after`, statistics of batch normalisation alike.

    1 is `after` to the bit.
    """
    return {
        name: torch.lerp(before[name].to(tensor), tensor, share)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in after.items()
    }


def wise(
    encoder: Encoder, before: State, shares: Iterable[float], score: Callable[[Encoder], float]
) -> tuple[float, float]:
    """Leave the encoder at the best of `shares` of the way from `before` to its weights (WiSE-FT, Wortsman et al., arXiv 2109.01903).

    1, the weights as they are, is always among them; of equal scores the larger share wins. Returns share and score.
    """
    after = snapshot(encoder)
    best, highest = 1.0, -float("inf")
    for share in sorted({*shares, 1.0}, reverse=True):
        encoder.load_state_dict(between(before, after, share))
        found = score(encoder)
        if found > highest:
            best, highest = share, found
    encoder.load_state_dict(between(before, after, best))
    return best, highest
