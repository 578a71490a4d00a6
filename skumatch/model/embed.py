"""Embedding: decode, preprocess and encode pictures in batches."""

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

if TYPE_CHECKING:  # not at run time: a caller with an encoder has loaded its libraries already
    from skumatch.model.encoder import Encoder
    from skumatch.model.preprocess import Preprocess


class Unreadable(NamedTuple):
    """The reason why a picture can't be decoded.

    Attributes:
        reason: One of data.images.REASONS.
        sentence: A sentence that names the picture.
    """

    reason: str
    sentence: str


class Batch(NamedTuple):
    """The vectors of the next pictures of a list.

    Attributes:
        rows: Positions in the list of the pictures that have a vector.
        vectors: Their vectors of length 1, float32 [len(rows), dim].
        problems: Position of each other picture -> the reason why it can't be decoded.
    """

    rows: list[int]
    vectors: NDArray[np.float32]
    problems: dict[int, Unreadable]

    def __len__(self) -> int:
        return len(self.rows) + len(self.problems)

    def whole(self) -> NDArray[np.float32]:
        """Return the vectors of all the pictures.

        Raises:
            DataError: A picture can't be decoded.
        """
        if self.problems:
            raise DataError(next(iter(self.problems.values())).sentence)
        return self.vectors


Prepared = Tensor | Unreadable | StorageError


class Pixels(NamedTuple):
    """A batch of preprocessed pictures, as the encoder gets it.

    Attributes:
        pixels: uint8 [len(good), 3, H, W]; without good pictures an empty tensor.
        good: Positions in the batch of the pictures in `pixels`.
        bad: Position of each other picture -> its error.
    """

    pixels: Tensor
    good: list[int]
    bad: dict[int, Unreadable | StorageError]


def embed(
    encoder: Encoder, images: Images, batch: int, runtime: RuntimeParams, label: str = "embed"
) -> NDArray[np.float32]:
    """Embed images, and show the progress.

    Args:
        encoder: It is moved to the device of `runtime` and set to evaluation mode.
        images: The images to embed.
        batch: Images in a forward pass.
        runtime: Device, threads, worker processes.
        label: Name of the step in the progress line.

    Returns:
        One L2-normalised row per image, in their order: float32 [len(images), encoder.dim].

    Raises:
        DataError: An image can't be decoded.
        StorageError: An image can't be read.
        WeightsError: The encoder returned a vector that is not finite.
        ParameterError: `runtime` names a GPU and there is none.
    """
    with track(label, len(images)) as advance:
        return vectors_of(encoder, images, batch, runtime, advance)


def vectors_of(
    encoder: Encoder, images: Images, batch: int, runtime: RuntimeParams, advance: Advance = silent
) -> NDArray[np.float32]:
    """Embed images as `embed` does, with a progress bar of the caller's.

    Args:
        encoder: It is moved to the device of `runtime` and set to evaluation mode.
        images: The images to embed.
        batch: Images in a forward pass.
        runtime: Device, threads, worker processes.
        advance: Called with the number of images in each batch that is done.

    Returns:
        One L2-normalised row per image, in their order: float32 [len(images), encoder.dim].

    Raises:
        DataError: An image can't be decoded.
        StorageError: An image can't be read.
        WeightsError: The encoder returned a vector that is not finite.
        ParameterError: `runtime` names a GPU and there is none.
    """
    rows = np.empty((len(images), encoder.dim), np.float32)
    for embedded in stream(encoder, images, batch, runtime):
        rows[embedded.rows] = embedded.whole()
        advance(len(embedded))
    return rows


def stream(
    encoder: Encoder,
    images: Images,
    batch: int,
    runtime: RuntimeParams,
    full: bool = False,
) -> Iterator[Batch]:
    """Embed images in their order and yield their vectors, a batch at a time.

    Args:
        encoder: It is moved to the device of `runtime` and set to evaluation mode.
        images: The images to embed. The batches name those that can't be decoded.
        batch: Images in a forward pass.
        runtime: Device, threads, worker processes.
        full: Fill up each forward pass to `batch` pictures, so that a vector's bits don't depend on the
            number of pictures.

    Yields:
        The batches.

    Raises:
        StorageError: An image can't be read.
        WeightsError: The encoder returned a vector that is not finite.
        ParameterError: `runtime` names a GPU and there is none.
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
        vectors = vectors_of_pixels(encoder, pixels, device, size) if rows else nothing
        _check_finite(vectors, rows, images)
        yield Batch(rows, vectors, problems)
        done += len(good) + len(bad)


def vectors_of_pixels(
    encoder: Encoder, pixels: Tensor, device: torch.device, size: int
) -> NDArray[np.float32]:
    """Compute the vectors of preprocessed pictures in one forward pass.

    Args:
        encoder: It is on `device`.
        pixels: uint8 [n, 3, H, W], on any device.
        device: The encoder's device.
        size: Black pictures fill the forward pass up to so many pictures.

    Returns:
        Vectors of length 1, float32 [n, encoder.dim].
    """
    count = len(pixels)
    if count < size:
        pixels = torch.cat([pixels, pixels.new_zeros(size - count, *pixels.shape[1:])])
    with torch.inference_mode(), autocast(device):
        vectors = functional.normalize(
            encoder(encoder.preprocess.normalise(pixels.to(device))).float(), dim=1
        )
    rows: NDArray[np.float32] = vectors[:count].cpu().numpy()
    return rows


def _check_finite(vectors: NDArray[np.float32], rows: list[int], images: Images) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise WeightsError(
            f"The encoder's vector of {images.ids[rows[int(bad[0])]]} is no number; train it again."
        )


class _Pictures(Dataset[Prepared]):
    """Preprocessed pictures.

    An error is returned as a value, because a worker process would turn an exception into a traceback.
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
