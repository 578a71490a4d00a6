"""Batches and learning rates as pure functions of seed and step, so that a resume needs no state."""

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
FIRST, LAST = 1 / 25, 1e-5  # shares of the highest rate at the start and the end, as PyTorch's OneCycleLR


class Key(NamedTuple):
    """Identifies one view of an image.

    Attributes:
        epoch: Number of the epoch.
        image: Number of the image.
        again: How often the epoch has shown this image before.
    """

    epoch: int
    image: int
    again: int = 0


@dataclass(frozen=True)
class Schedule:
    """The batches of all epochs: iterate over the keys of this process's part of each batch.

    An epoch has whole batches only; the images of a remainder are left out of it. The parts of all processes,
    joined in the order of ranks, are the batches that one process would have.

    Attributes:
        images: Number of images.
        batch: Images per step, of all processes together.
        epochs: Number of epochs.
        seed: Seed of the order.
        start: Steps that are left out at the beginning.
        labels: Each image's SKU; needed if `sampling` isn't the default.
        sampling: How often each SKU is drawn, and in groups of how many images.
        rank: Number of this process, 0..world - 1.
        world: Number of processes.

    Raises:
        ParameterError: The batch can't be shared among the processes, or not be filled with groups of a SKU.
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
            problem = f"{self.world} processes can't share {self.size} images a step"
            raise ParameterError(f"{problem}; set train.batch to a multiple of {self.world}.")
        if per_sku and self.batch % (per_sku * self.world):
            unit = per_sku * self.world
            problem = (
                f"train.batch is {self.batch}, which isn't made of groups of train.sampling.per_sku images"
            )
            raise ParameterError(f"{problem}; set it to a multiple of {unit}.")
        if per_sku and self.skus < self.batch // per_sku:
            problem = (
                f"A batch of {self.batch} with train.sampling.per_sku {per_sku} "
                f"needs {self.batch // per_sku} SKUs, there are {self.skus}"
            )
            raise ParameterError(f"{problem}; lower train.batch or raise per_sku.")

    @cached_property
    def skus(self) -> int:
        """Number of different SKUs in `labels`."""
        return len(set(self.labels))

    @property
    def size(self) -> int:
        """Images per step, of all processes together: the batch, or all images if they are fewer."""
        return self.batch if self.sampling.per_sku else min(self.batch, self.images)

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch, at least one."""
        return max(1, self.images // self.batch)

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self.steps_per_epoch

    def order(self, epoch: int) -> list[int]:
        """Return the numbers of the epoch's images: each once, or as `sampling` draws them."""
        draws = generator(self.seed, "order", epoch)
        power, per_sku = self.sampling.power, self.sampling.per_sku
        if per_sku:
            order = grouped(self.labels, power, self.steps_per_epoch, self.batch // per_sku, per_sku, draws)
        elif power < 1:
            order = balanced(self.labels, power, draws)
        else:
            order = torch.randperm(self.images, generator=draws).numpy()
        images: list[int] = order.tolist()
        return images

    def left(self, start: int) -> Schedule:
        """Return the same schedule from step `start` on."""
        return replace(self, start=start)

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        own = self.size // self.world
        for epoch in range(self.start // self.steps_per_epoch, self.epochs):
            order = self.order(epoch)
            repeats = occurrences(np.array(order)).tolist()
            keys = [Key(epoch, image, again) for image, again in zip(order, repeats, strict=True)]
            for step in range(max(0, self.start - epoch * self.steps_per_epoch), self.steps_per_epoch):
                first = step * self.size + self.rank * own
                yield keys[first : first + own]


def rate_share(step: int, steps_per_epoch: int, params: TrainParams) -> float:
    """Return the learning rate at `step` as a share of the highest.

    The rate has one cycle in fine-tuning. In the epochs of the fix it falls from about `params.fix.lr_share`.

    Args:
        step: Number of the step, from 0.
        steps_per_epoch: Steps per epoch.
        params: Parameters of the training.
    """
    tuning, fixing = params.epochs * steps_per_epoch, params.fix.epochs * steps_per_epoch
    if step < tuning:
        return one_cycle(step, tuning, params.optimizer.warmup_share)
    return params.fix.lr_share * one_cycle(step - tuning, fixing, 0.0)


def one_cycle(step: int, steps: int, warmup_share: float) -> float:
    """Return the learning rate at `step` as a share of the highest, in one cycle (Smith, arXiv 1708.07120).

    The rate rises as a cosine from 1/25 to 1 in the warm-up, then falls as a cosine to 1e-5.

    Args:
        step: Number of the step, from 0.
        steps: Steps of the cycle.
        warmup_share: Share of the steps that are the warm-up, 0..1.
    """
    peak = warmup_share * steps - 1
    if step < peak:
        return _cosine(FIRST, 1.0, step / peak)
    return _cosine(1.0, LAST, (step - peak) / max(1.0, steps - 1 - peak))


def _cosine(start: float, end: float, share: float) -> float:
    """Interpolate from `start` to `end` by half a cosine wave."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
