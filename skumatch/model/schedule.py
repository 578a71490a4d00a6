"""Which images make which step, and at what rate: pure functions of seed and step, so that a resume needs no state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from skumatch.model.augment import generator

FIRST, LAST = 1 / 25, 1e-5  # of the highest rate: PyTorch's OneCycleLR


@dataclass(frozen=True)
class Schedule:
    """Epochs of batches over `images` pictures, from step `start` on; a remainder smaller than a batch waits for the next epoch."""

    images: int
    batch: int
    epochs: int
    seed: int
    start: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.images // self.batch)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def order(self, epoch: int) -> list[int]:
        order: list[int] = torch.randperm(self.images, generator=generator(self.seed, "order", epoch)).tolist()
        return order

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Batches of (epoch, image)."""
        for epoch in range(self.start // self.steps_per_epoch, self.epochs):
            order = self.order(epoch)
            for step in range(max(0, self.start - epoch * self.steps_per_epoch), self.steps_per_epoch):
                yield [(epoch, index) for index in order[step * self.batch : (step + 1) * self.batch]]


def one_cycle(step: int, steps: int, warmup_share: float) -> float:
    """Share of the highest rate at `step`: a cosine up over the warm-up, a cosine down to nearly nothing (Smith, arXiv 1708.07120)."""
    peak = warmup_share * steps - 1
    if step < peak:
        return _cosine(FIRST, 1.0, step / peak)
    return _cosine(1.0, LAST, (step - peak) / max(1.0, steps - 1 - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
