"""Training pictures, decoded and augmented, in batches: in this process or in workers, with the same bits."""

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
    """Item (epoch, image, again) is that image as augmented in that epoch, uint8 [3, H, W], and its label.

    fix: the epoch from which on whole pictures are shown as they are served, and how they are prepared then.
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
        self.images, self.labels, self.preprocess, self.params, self.seed, self.fix = (
            images,
            labels,
            preprocess,
            params,
            seed,
            fix,
        )

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
        """Another of the pictures: number `share`, 0..1, of the way round from `index`."""
        return self.images.pixels((index + 1 + int(share * (len(self.images) - 1))) % len(self.images))


def batches(
    views: Views, schedule: Schedule, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, int]]:
    """Batches (pixels uint8 [B, 3, H, W], labels int64 [B]) of the steps that `schedule` has left.

    B of this process.
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
    """Pictures on the whole canvas for a probe, uint8 [B, 3, H, W]: as they are served, then augmented, `probe.views` times in all."""
    views = Views(images, [0] * len(images), preprocess, params.augment, seed)
    plain = Views(images, views.labels, preprocess, params.augment, seed, fix=(0, preprocess))
    order = [
        list(range(start, min(start + params.batch, len(images))))
        for start in range(0, len(images), params.batch)
    ]
    for view in range(params.probe.views):
        keys = [[Key(view, index) for index in some] for some in order]
        for pixels, labels in DataLoader(views if view else plain, batch_sampler=keys, num_workers=workers):
            advance(len(labels))
            yield pixels
