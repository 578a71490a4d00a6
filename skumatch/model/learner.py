"""Encoder and head as one module, for a single checkpoint and a single data-parallel wrapper."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from skumatch.model.distributed import World
from skumatch.model.encoder import Encoder
from skumatch.model.head import Head
from skumatch.model.runtime import autocast


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
