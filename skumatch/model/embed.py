"""Pictures to vectors: decode, preprocess, encode in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from skumatch.data.images import Images
from skumatch.errors import DataError, ImageError, StorageError, WeightsError
from skumatch.model.runtime import autocast, ignore_sigterm, prepare, workers
from skumatch.params import RuntimeParams
from skumatch.progress import Advance, silent, track

if TYPE_CHECKING:  # whoever has an encoder has loaded its libraries already
    from skumatch.model.encoder import Encoder
    from skumatch.model.preprocess import Preprocess


class Unreadable(NamedTuple):
    """Why a picture can't be decoded: one of data.images.REASONS, and a sentence that names it."""

    reason: str
    sentence: str


class Batch(NamedTuple):
    """The next pictures of a list: vectors, float32 [n, dim] of length 1, of those at `rows`, and why the others can't be decoded."""

    rows: list[int]
    vectors: NDArray[np.float32]
    problems: dict[int, Unreadable]

    def __len__(self) -> int:
        return len(self.rows) + len(self.problems)

    def whole(self) -> NDArray[np.float32]:
        """The vectors, of all the pictures. Raises DataError where one can't be decoded."""
        if self.problems:
            raise DataError(next(iter(self.problems.values())).sentence)
        return self.vectors


Prepared = Tensor | Unreadable | StorageError


class Pixels(NamedTuple):
    """A batch on its way to the encoder: uint8 [n, 3, H, W] of the pictures at positions `good`, and the other positions' errors."""

    pixels: Tensor
    good: list[int]
    bad: dict[int, Unreadable | StorageError]


def embed(
    encoder: Encoder, images: Images, batch: int, runtime: RuntimeParams, label: str = "embed"
) -> NDArray[np.float32]:
    """One L2-normalised row an image, in their order: float32 [n, encoder.dim].

    `label` names the step in progress.

    Raises DataError for an image that can't be decoded, StorageError for one that can't be read, and
    WeightsError if the encoder's answer is no number.
    """
    with track(label, len(images)) as advance:
        return vectors_of(encoder, images, batch, runtime, advance)


def vectors_of(
    encoder: Encoder, images: Images, batch: int, runtime: RuntimeParams, advance: Advance = silent
) -> NDArray[np.float32]:
    """As `embed`; `advance` is told how many images are done."""
    rows = np.empty((len(images), encoder.dim), np.float32)
    for found in stream(encoder, images, batch, runtime):
        rows[found.rows] = found.whole()
        advance(len(found))
    return rows


def stream(
    encoder: Encoder,
    images: Images,
    batch: int,
    runtime: RuntimeParams,
    full: bool = False,
) -> Iterator[Batch]:
    """Yield `images` in their order, `batch` at a time.

    Raises as `embed`, but for images that can't be decoded.

    full: fill up the last forward pass to `batch` pictures, so that a vector's bits don't depend on their
        number.
    """
    device, done = prepare(runtime), 0
    encoder = encoder.to(device).eval()
    loader = DataLoader(
        _Pictures(images, encoder.preprocess),
        batch_size=batch,
        num_workers=workers(runtime, device),
        collate_fn=_collate,
        worker_init_fn=ignore_sigterm,
    )
    for pixels, good, bad in loader:
        rows, problems = [done + i for i in good], {}
        for i, error in bad.items():
            if isinstance(error, StorageError):
                raise error
            problems[done + i] = error
        size, nothing = batch if full else len(rows), np.empty((0, encoder.dim), np.float32)
        vectors = _vectors(encoder, pixels, device, size) if rows else nothing
        _check_finite(vectors, rows, images)
        yield Batch(rows, vectors, problems)
        done += len(good) + len(bad)


def _vectors(encoder: Encoder, pixels: Tensor, device: torch.device, size: int) -> NDArray[np.float32]:
    """The pictures' vectors, from a forward pass of at least `size` pictures: black ones fill it up."""
    count = len(pixels)
    if count < size:
        pixels = torch.cat([pixels, pixels.new_zeros(size - count, *pixels.shape[1:])])
    with torch.inference_mode(), autocast(device):
        vectors = functional.normalize(
            encoder(encoder.preprocess.normalise(pixels.to(device))).float(), dim=1
        )
    found: NDArray[np.float32] = vectors[:count].cpu().numpy()
    return found


def _check_finite(vectors: NDArray[np.float32], rows: list[int], images: Images) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise WeightsError(
            f"The encoder's vector of {images.ids[rows[int(bad[0])]]} is no number; train it again."
        )


class _Pictures(Dataset[Prepared]):
    """Preprocessed pictures.

    An error is handed over as a value: a worker process would turn it into a traceback.
    """

    def __init__(self, images: Images, preprocess: Preprocess) -> None:
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Prepared:
        try:
            return self.preprocess(self.images.pixels(index))
        except ImageError as error:
            return Unreadable(error.reason, f"{self.images.ids[index]} can't be embedded: {error}")
        except StorageError as error:
            return error


def _collate(items: list[Prepared]) -> Pixels:
    good, bad = list[int](), dict[int, Unreadable | StorageError]()
    tensors = list[Tensor]()
    for i, item in enumerate(items):
        if isinstance(item, Tensor):
            good.append(i)
            tensors.append(item)
        else:
            bad[i] = item
    return Pixels(torch.stack(tensors) if tensors else torch.empty(0), good, bad)
