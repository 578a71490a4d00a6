"""Which images make which step, and at what rate: pure functions of seed and step, so that a resume needs no state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from skumatch.errors import ParameterError
from skumatch.model.chance import generator
from skumatch.model.sampling import balanced, grouped, occurrences
from skumatch.params import SamplingParams, TrainParams

AS_THEY_ARE = SamplingParams()
FIRST, LAST = 1 / 25, 1e-5  # of the highest rate: PyTorch's OneCycleLR


class Key(NamedTuple):
    """One view: the epoch, the image, and how often the epoch has shown it before."""

    epoch: int
    image: int
    again: int = 0


@dataclass(frozen=True)
class Schedule:
    """Epochs of batches over `images` pictures, from step `start` on.

    A remainder smaller than a batch waits for the next epoch.

    labels: each picture's SKU, needed where `sampling` isn't the default. Of `world` processes, number `rank`
    takes its part of each batch: the parts together, in the order of ranks, are the batches of one process.
    Raises ParameterError for a batch that can't be shared by processes or filled with groups of a SKU.
    """

    images: int
    batch: int
    epochs: int
    seed: int
    start: int = 0
    labels: Sequence[int] = field(default=(), repr=False)
    sampling: SamplingParams = AS_THEY_ARE
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        power, per_sku = self.sampling.power, self.sampling.per_sku
        assert 0 <= self.rank < self.world and (
            len(self.labels) == self.images or (power == 1 and not per_sku)
        )
        if self.size % self.world:
            raise ParameterError(
                f"{self.world} processes can't share {self.size} images a step; set train.batch to a multiple of {self.world}."
            )
        if per_sku and self.batch % (per_sku * self.world):
            unit = per_sku * self.world
            raise ParameterError(
                f"train.batch is {self.batch}, which isn't made of groups of train.sampling.per_sku images; set it to a multiple of {unit}."
            )
        if per_sku and self.skus < self.batch // per_sku:
            raise ParameterError(
                f"A batch of {self.batch} with train.sampling.per_sku {per_sku} needs {self.batch // per_sku} SKUs, there are {self.skus};"
                " lower train.batch or raise per_sku."
            )

    @cached_property
    def skus(self) -> int:
        return len(set(self.labels))

    @property
    def size(self) -> int:
        """Images a step, of all processes together: the batch, or all there are if they are fewer."""
        return self.batch if self.sampling.per_sku else min(self.batch, self.images)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.images // self.batch)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def order(self, epoch: int) -> list[int]:
        """The epoch's images: each once, or as `sampling` draws them."""
        draws, power, per_sku = (
            generator(self.seed, "order", epoch),
            self.sampling.power,
            self.sampling.per_sku,
        )
        if per_sku:
            order = grouped(self.labels, power, self.steps_per_epoch, self.batch // per_sku, per_sku, draws)
        elif power < 1:
            order = balanced(self.labels, power, draws)
        else:
            order = torch.randperm(self.images, generator=draws).numpy()
        found: list[int] = order.tolist()
        return found

    def left(self, start: int) -> Schedule:
        """The same from step `start` on."""
        return replace(self, start=start)

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        own = self.size // self.world
        for epoch in range(self.start // self.steps_per_epoch, self.epochs):
            order = self.order(epoch)
            keys = [
                Key(epoch, *pair) for pair in zip(order, occurrences(np.array(order)).tolist(), strict=True)
            ]
            for step in range(max(0, self.start - epoch * self.steps_per_epoch), self.steps_per_epoch):
                first = step * self.size + self.rank * own
                yield keys[first : first + own]


def rate_share(step: int, steps_per_epoch: int, params: TrainParams) -> float:
    """Share of the highest rates at `step`: one cycle over fine-tuning, then a lower one, falling, over the epochs of the fix."""
    tuning, fixing = params.epochs * steps_per_epoch, params.fix.epochs * steps_per_epoch
    if step < tuning:
        return one_cycle(step, tuning, params.optimizer.warmup_share)
    return params.fix.lr_share * one_cycle(step - tuning, fixing, 0.0)


def one_cycle(step: int, steps: int, warmup_share: float) -> float:
    """Share of the highest rate at `step`: a cosine up over the warm-up, a cosine down to nearly nothing (Smith, arXiv 1708.07120)."""
    peak = warmup_share * steps - 1
    if step < peak:
        return _cosine(FIRST, 1.0, step / peak)
    return _cosine(1.0, LAST, (step - peak) / max(1.0, steps - 1 - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
