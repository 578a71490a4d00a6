"""What is trained, as one module: so one checkpoint holds it, and one wrapper shares its gradients."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from skumatch.model.distributed import World
from skumatch.model.encoder import Encoder
from skumatch.model.head import Head
from skumatch.model.runtime import autocast


class Learner(nn.Module):
    """`forward(pixels uint8 [B, 3, H, W], labels int64 [B]) -> loss []`, on the pixels' device.

    Bf16 there where it is a GPU.

    forward: the encoder's own, or a compiled one. pairs: the loss compares pictures with each other, so it
        needs those of all processes.
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
        embed = self.compiled or self.encoder
        with autocast(pixels.device):
            embeddings = embed(self.encoder.preprocess.normalise(pixels))
        if self.pairs:
            embeddings, labels = self.world.gathered(embeddings, labels)
        loss: Tensor = self.head(embeddings, labels)
        return loss
