"""Training pictures, decoded and augmented, in batches: in this process or in workers, with the same bits."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skumatch.config import AugmentParams
from skumatch.model.augment import augmented, generator
from skumatch.model.preprocess import Preprocess
from skumatch.model.schedule import Schedule

if TYPE_CHECKING:
    from skumatch.data.images import Images


class Views(Dataset[tuple[Tensor, int]]):
    """Item (epoch, image) is that image as augmented in that epoch, uint8 [3, H, W], and its label."""

    def __init__(self, images: Images, labels: list[int], preprocess: Preprocess, params: AugmentParams, seed: int) -> None:
        self.images, self.labels, self.preprocess, self.params, self.seed = images, labels, preprocess, params, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        draws = generator(self.seed, "augment", epoch, index)
        return augmented(self.images[index], self.preprocess, self.params, draws), self.labels[index]


def batches(views: Views, schedule: Schedule, workers: int, device: torch.device) -> DataLoader[tuple[Tensor, int]]:
    """Batches (pixels uint8 [B, 3, H, W], labels int64 [B]) of the steps that `schedule` has left."""
    return DataLoader(
        views,
        batch_sampler=schedule,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_sigterm,
    )


def _ignore_sigterm(_: int) -> None:
    """A SIGTERM to the group is the main process's to handle; workers end when it does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
