"""Batches of decoded and augmented training pictures, with the same bits in this process or in workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skumatch.model.augment import augmented
from skumatch.model.chance import generator
from skumatch.model.preprocess import Preprocess
from skumatch.model.runtime import ignore_sigterm
from skumatch.model.schedule import Key, Schedule
from skumatch.params import AugmentParams, TrainParams
from skumatch.progress import Advance

if TYPE_CHECKING:
    from skumatch.data.images import Images, Pixels


class Views(Dataset[tuple[Tensor, int]]):
    """A data set of views: item `Key` is the image augmented for that epoch, uint8 [3, H, W], and its label.

    Attributes:
        images: The training pictures.
        labels: Each picture's class.
        preprocess: Canvas of the augmented views.
        params: Parameters of the augmentation.
        seed: Seed of the augmentation.
        fix: The first epoch that shows whole pictures as they are served, and their preprocessing; None if
            no epoch does.
    """

    def __init__(
        self,
        images: Images,
        labels: list[int],
        preprocess: Preprocess,
        params: AugmentParams,
        seed: int,
        fix: tuple[int, Preprocess] | None = None,
    ) -> None:
        self.images, self.labels, self.preprocess = images, labels, preprocess
        self.params, self.seed, self.fix = params, seed, fix

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        epoch, index, again = key
        if self.fix and epoch >= self.fix[0]:
            return self.fix[1](self.images.pixels(index)), self.labels[index]
        draws = generator(self.seed, "augment", epoch, index, *([again] if again else []))
        view = augmented(
            self.images.pixels(index),
            self.preprocess,
            self.params,
            draws,
            lambda share: self._other(index, share),
        )
        return view, self.labels[index]

    def _other(self, index: int, share: float) -> Pixels:
        """Return another picture than number `index`; `share`, 0..1, selects one of the others."""
        return self.images.pixels((index + 1 + int(share * (len(self.images) - 1))) % len(self.images))


def batches(
    views: Views, schedule: Schedule, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, int]]:
    """Load the batches of the steps that a schedule has left.

    Args:
        views: The data set.
        schedule: The keys of each batch, for this process.
        workers: Processes that prepare pictures; 0 prepares them in this one.
        device: Batches for a GPU are put into pinned memory.

    Returns:
        An iterable of pixels, uint8 [B, 3, H, W], and labels, int64 [B]. B counts this process's pictures.
    """
    return DataLoader(
        views,
        batch_sampler=schedule,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_sigterm,
    )


def seen(
    images: Images, preprocess: Preprocess, params: TrainParams, seed: int, workers: int, advance: Advance
) -> Iterator[Tensor]:
    """Yield `params.probe.views` views of every picture on the whole canvas, for a probe.

    The first view of each picture is the one that is served; the others are augmented. All first views come
    before all second ones, each time in the order of the pictures.

    Args:
        images: The training pictures.
        preprocess: The whole canvas.
        params: Parameters of the training.
        seed: Seed of the augmentation.
        workers: Processes that prepare pictures; 0 prepares them in this one.
        advance: Called with the number of pictures in each batch.

    Yields:
        uint8 [B, 3, H, W].
    """
    views = Views(images, [0] * len(images), preprocess, params.augment, seed)
    plain = Views(images, views.labels, preprocess, params.augment, seed, fix=(0, preprocess))
    batch_indices = [
        list(range(start, min(start + params.batch, len(images))))
        for start in range(0, len(images), params.batch)
    ]
    for view in range(params.probe.views):
        keys = [[Key(view, index) for index in indices] for indices in batch_indices]
        for pixels, labels in DataLoader(views if view else plain, batch_sampler=keys, num_workers=workers):
            advance(len(labels))
            yield pixels
