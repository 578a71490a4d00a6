"""Batches and learning rates as pure functions of seed and step, so that a resume needs no state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skumatch.errors import ParameterError
from skumatch.model.chance import generator
from skumatch.params import SamplingParams, TrainParams
from skumatch.texts import counted

Whole = NDArray[np.int64]


def balanced(labels: Sequence[int], power: float, draws: torch.Generator) -> Whole:
    """Draw as many images as there are labels, in random order.

    A SKU with n images is drawn n ** power times as often as a SKU with one image. The images of a SKU are
    drawn in turn, so their counts differ by at most one.

    Args:
        labels: SKU of each image, int [images].
        power: 1 draws SKUs in proportion to their numbers of images, 0 all SKUs equally often.
        draws: Source of the random numbers.

    Returns:
        Numbers of images, int [images].
    """
    members = _Members(labels, draws)
    quotas = whole_parts(_expected(members.counts, power, len(labels), len(labels)), draws)
    skus = np.repeat(np.arange(len(quotas)), quotas)
    order = members.at(skus, occurrences(skus))
    return order[_shuffle(len(order), draws)]


def grouped(
    labels: Sequence[int], power: float, steps: int, skus: int, per_sku: int, draws: torch.Generator
) -> Whole:
    """Draw batches of several images of each of several SKUs (P-K batches, Hermans, arXiv 1703.07737).

    A batch has `skus` different SKUs and `per_sku` images of each, in a row. An image is repeated in a batch
    only if its SKU has fewer than `per_sku` images.

    Args:
        labels: SKU of each image, int [images], of at least `skus` different SKUs.
        power: How often SKUs are drawn, as in `balanced`.
        steps: Number of batches.
        skus: SKUs in a batch.
        per_sku: Images of each of them.
        draws: Source of the random numbers.

    Returns:
        Numbers of images, int [steps * skus * per_sku].
    """
    members = _Members(labels, draws)
    quotas = whole_parts(_expected(members.counts, power, steps * skus, steps), draws)
    shuffled = _shuffle(len(quotas), draws)
    # Deal the SKUs to the batches in turn. No SKU has a quota over `steps`, so no batch gets a SKU twice.
    batches = np.repeat(shuffled, quotas[shuffled]).reshape(skus, steps).T
    groups = batches[_shuffle(steps, draws)].reshape(-1)
    turns = occurrences(groups)[:, None] * per_sku + np.arange(per_sku)
    return members.at(np.repeat(groups, per_sku), turns.reshape(-1))


def occurrences(values: Whole) -> Whole:
    """Count for each value how many equal values come before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.searchsorted(ordered, ordered)
    counts = np.empty_like(order)
    counts[order] = np.arange(len(values)) - starts
    return counts


def whole_parts(expected: NDArray[np.float64], draws: torch.Generator) -> Whole:
    """Round numbers up or down at random, keeping their sum, by systematic resampling.

    The expectation of each rounded number is the number itself. One random offset serves for all of them
    (Carpenter, Clifford and Fearnhead, 1999).

    Args:
        expected: Numbers of at least 0 whose sum is whole.
        draws: Source of the random offset.
    """
    least = np.floor(expected)
    left = round(float((expected - least).sum()))
    ends = np.cumsum(expected - least)
    ends[-1] = left
    offset = torch.rand(1, generator=draws, dtype=torch.float64).item()
    more = np.diff(np.floor(ends + offset), prepend=0.0)
    rounded: Whole = (least + more).astype(np.int64)
    return rounded


def _expected(counts: Whole, power: float, total: int, most: int) -> NDArray[np.float64]:
    """Share out `total` in proportion to counts ** power, with at most `most` for each.

    The excess over `most` is shared out among the others.
    """
    weights = counts.astype(np.float64) ** power
    full = np.zeros(len(counts), bool)
    while True:
        rest = np.where(full, 0.0, weights)
        shares = np.where(full, float(most), rest * ((total - most * full.sum()) / max(rest.sum(), 1e-300)))
        over = shares > most
        if not over.any():
            return shares
        full |= over


def _shuffle(count: int, draws: torch.Generator) -> Whole:
    order: Whole = torch.randperm(count, generator=draws).numpy()
    return order


class _Members:
    """Each SKU's images, in random order."""

    def __init__(self, labels: Sequence[int], draws: torch.Generator) -> None:
        _, numbers, self.counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        chance = torch.rand(len(numbers), generator=draws, dtype=torch.float64).numpy()
        self.images = np.lexsort((chance, numbers))
        self.starts = np.cumsum(self.counts) - self.counts

    def at(self, skus: Whole, turns: Whole) -> Whole:
        """Return image number `turns` of each of `skus`, starting again after a SKU's last image."""
        images: Whole = self.images[self.starts[skus] + turns % self.counts[skus]]
        return images


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
            problem = f"{self.world} processes can't share {counted(self.size, 'image')} a step"
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
                f"needs {counted(self.batch // per_sku, 'SKU')}, there are {self.skus}"
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
