"""Training loops that people write instead of skumatch's, as peers to compare it with.

Each trains an encoder in place and yields the number of images after each step.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import DataLoader, Dataset, Sampler

from skumatch.model.encoder import Encoder, build
from skumatch.model.head import Head
from skumatch.params import EncoderParams, LossParams

if TYPE_CHECKING:
    from skumatch.data.images import Images

# Images a step; side of the canvas in pixels; side of a training view as a share of the canvas.
BATCH, SIDE, VIEW = 32, 256, 0.75
CPU = torch.device("cpu")
Loop = Callable[[Encoder, "Trial"], Iterator[int]]


@dataclass(frozen=True)
class Trial:
    """Settings that are the same for each loop.

    Attributes:
        images: training photos with their SKUs.
        spec: parameters of the encoder.
        weights: file of the encoder's base weights; None for random ones.
        epochs: number of passes over the photos.
        seed: of the encoder's random weights, and of all draws after it.
        device: where to train.
        contiguous: whether the encoder has torch's default memory format instead of channels-last, which
            gives the same weights up to rounding in less time.
    """

    images: Images
    spec: EncoderParams
    weights: Path | None
    epochs: int
    seed: int
    device: torch.device = CPU
    contiguous: bool = False

    @property
    def labels(self) -> list[int]:
        """Return each photo's class, an index into the sorted SKUs."""
        return self.images.labels(sorted(set(self.images.skus)))

    def encoder(self) -> Encoder:
        """Seed torch and build the encoder, on the device and in training mode."""
        torch.manual_seed(self.seed)
        encoder = build(self.spec, self.weights).to(self.device).train()
        if self.contiguous:
            encoder.tower.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return encoder


def plain_spec(spec: EncoderParams) -> EncoderParams:
    """Return the encoder's parameters for peers: photos are squashed to a square, and no projection.

    A ViT keeps its own canvas.
    """
    with torch.device("meta"):
        fixed = build(spec, None).fixed_canvas
    return spec.model_copy(
        update={"dim": 0, "resize": "squash"} | ({} if fixed else {"height": SIDE, "width": SIDE})
    )


class _Photos(Dataset[tuple[Tensor, int]]):
    def __init__(self, trial: Trial, *steps: Any) -> None:
        self.images, self.labels = trial.images, trial.labels
        self.transform = _torchvision().Compose([*steps, _torchvision().ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def plain(encoder: Encoder, trial: Trial) -> Iterator[int]:
    """Train as an engineer would write it in an afternoon.

    The loss is ArcFace with a growing margin, the optimizer AdamW with a one-cycle schedule. Augmentations
    are crops, brightness and contrast, and one cut-out.
    """
    tv, (height, width) = _torchvision(), _view(encoder)
    crop = tv.RandomResizedCrop(
        (height, width), scale=(0.6**2, 1.0), ratio=(1.0, 1.0), interpolation=tv.InterpolationMode.BICUBIC
    )
    squash = tv.Resize((trial.spec.height, trial.spec.width), tv.InterpolationMode.BICUBIC)
    photos = _Photos(trial, squash, crop, tv.ColorJitter(0.2, 0.2))
    head = Head(len(set(trial.labels)), encoder.dim, LossParams()).to(trial.device)
    rates = [{"params": encoder.parameters(), "lr": 3e-4}, {"params": head.parameters(), "lr": 3e-3}]
    optimizer, each = AdamW(rates, weight_decay=0.05), max(1, len(photos) // BATCH)
    schedule = OneCycleLR(
        optimizer, max_lr=[3e-4, 3e-3], total_steps=trial.epochs * each, cycle_momentum=False
    )
    for step, (pixels, labels) in enumerate(_epochs(photos, trial)):
        head.ramp(step / each)
        loss = head(_embeddings(encoder, trial, _cut_out(pixels, 64 * min(height, width) // 224)), labels)
        _step(optimizer, loss)
        schedule.step()
        yield len(labels)


def softmax(encoder: Encoder, trial: Trial) -> Iterator[int]:
    """Train a classifier as for ImageNet; its features are the embedding.

    Cross-entropy over a linear layer, random resized crops, flips.
    """
    tv = _torchvision()
    photos = _Photos(trial, tv.RandomResizedCrop(_view(encoder)), tv.RandomHorizontalFlip())
    classifier = nn.Linear(encoder.dim, len(set(trial.labels))).to(trial.device)
    optimizer = AdamW([*encoder.parameters(), *classifier.parameters()], lr=3e-4, weight_decay=0.05)
    schedule = CosineAnnealingLR(optimizer, trial.epochs * max(1, len(photos) // BATCH))
    for pixels, labels in _epochs(photos, trial):
        _step(
            optimizer,
            functional.cross_entropy(
                classifier(_features(encoder, trial, pixels)), labels, label_smoothing=0.1
            ),
        )
        schedule.step()
        yield len(labels)


def stock(encoder: Encoder, trial: Trial) -> Iterator[int]:
    """Train as pytorch-metric-learning's example MetricLossOnly does, with its numbers.

    Triplets, a miner, four pictures a class, Adam, crops and flips.
    """
    tv = _torchvision()
    crop = tv.RandomResizedCrop(_view(encoder), scale=(0.16, 1), ratio=(0.75, 1.33))
    photos = _Photos(trial, crop, tv.RandomHorizontalFlip(0.5))
    # The embedder is dropped after training: loops are compared by the trunk's features.
    embedder = nn.Linear(encoder.dim, 64).to(trial.device)
    optimizer = Adam(
        [{"params": encoder.parameters(), "lr": 1e-5}, {"params": embedder.parameters(), "lr": 1e-4}],
        weight_decay=1e-4,
    )
    loss, miner = TripletMarginLoss(margin=0.1), MultiSimilarityMiner(epsilon=0.1)
    batch = min(BATCH, 4 * len(set(trial.labels)))
    sampler = MPerClassSampler(trial.labels, m=4, batch_size=batch, length_before_new_iter=len(photos))
    for pixels, labels in _epochs(photos, trial, sampler):
        embeddings = embedder(_features(encoder, trial, pixels))
        _step(optimizer, loss(embeddings, labels, miner(embeddings, labels)))
        yield len(labels)


PEERS: dict[str, Loop] = {"plain": plain, "softmax": softmax, "stock": stock}


def _epochs(photos: _Photos, trial: Trial, sampler: Sampler[int] | None = None) -> Iterator[Sequence[Tensor]]:
    loader = DataLoader(photos, BATCH, shuffle=sampler is None, sampler=sampler, drop_last=True)
    for _ in range(trial.epochs):
        for pixels, labels in loader:
            yield pixels, labels.to(trial.device)


def _view(encoder: Encoder) -> tuple[int, int]:
    """Return the height and width of a training view in pixels."""
    view = encoder.views(VIEW)
    return view.height, view.width


def _features(encoder: Encoder, trial: Trial, pixels: Tensor) -> Tensor:
    """Return the tower's output [B, width] for pixels in float32, 0 to 1, [B, 3, H, W]."""
    memory_format = torch.contiguous_format if trial.contiguous else torch.channels_last
    mean = torch.tensor(encoder.preprocess.mean).view(3, 1, 1)
    std = torch.tensor(encoder.preprocess.std).view(3, 1, 1)
    normalised = ((pixels - mean) / std).to(trial.device, memory_format=memory_format)
    features: Tensor = encoder.tower(normalised).float()
    return features


def _embeddings(encoder: Encoder, trial: Trial, pixels: Tensor) -> Tensor:
    return functional.normalize(_features(encoder, trial, pixels), dim=-1)


def _step(optimizer: Adam | AdamW, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _cut_out(pixels: Tensor, side: int) -> Tensor:
    """Cover a square of each picture at a random place with grey, in place."""
    for picture in pixels:
        top, left = (int(torch.randint(0, size, ())) - side // 2 for size in picture.shape[1:])
        picture[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0.5
    return pixels


def _torchvision() -> Any:
    """Import torchvision's transforms, after `skumatch.model.torchvision_ops`, which has to come first."""
    return importlib.import_module("torchvision.transforms")
