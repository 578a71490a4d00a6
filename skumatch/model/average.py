"""Weight averaging: a moving average over steps, and interpolation between before and after training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from skumatch.model.encoder import Encoder

State = Mapping[str, Tensor]


class Average:
    """The exponential moving average of an encoder's weights (Polyak & Juditsky, 1992).

    The statistics of batch normalisation are averaged like the weights, so that both cover the same steps.
    Counts are copied.

    Attributes:
        decay: Weight of the old average in an update, once the average has warmed up.
        encoder: The average, as an encoder of its own in evaluation mode.
    """

    def __init__(self, encoder: Encoder, decay: float) -> None:
        self.decay = decay
        self.encoder = deepcopy(encoder).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, encoder: Encoder, step: int) -> None:
        """Update the average with the encoder's weights after `step` earlier updates.

        The decay warms up as min(decay, (1 + step) / (10 + step)), so that the start is soon forgotten.
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
    """Copy the encoder's weights and statistics."""
    return {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}


@torch.no_grad()
def between(before: State, after: State, share: float) -> dict[str, Tensor]:
    """Interpolate linearly between two states, with the statistics of batch normalisation.

    Args:
        before: The state at share 0.
        after: The state at share 1, which gives its bits exactly.
        share: Position between the two, 0..1.

    Returns:
        The interpolated tensors by name; those that aren't floating-point are copies of the ones in `after`.
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
    """Load the best weights between `before` and the encoder's own (WiSE-FT).

    The method is that of Wortsman et al., arXiv 2109.01903.

    Args:
        encoder: The encoder after training; it gets the best weights.
        before: The state before training.
        shares: Positions to try, 0..1. 1, the encoder's own weights, is always tried too.
        score: Computes the figure to maximise.

    Returns:
        The best share and its score. Of equal scores the larger share wins.
    """
    after = snapshot(encoder)
    best_share, best_score = 1.0, -float("inf")
    for share in sorted({*shares, 1.0}, reverse=True):
        encoder.load_state_dict(between(before, after, share))
        new_score = score(encoder)
        if new_score > best_score:
            best_share, best_score = share, new_score
    encoder.load_state_dict(between(before, after, best_share))
    return best_share, best_score
