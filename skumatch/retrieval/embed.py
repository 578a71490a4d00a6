"""Pictures to vectors: decode, preprocess, encode in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from skumatch.config import RuntimeParams
from skumatch.data.images import Images
from skumatch.errors import DataError, ImageError, StorageError, WeightsError
from skumatch.model.runtime import prepare, workers
from skumatch.progress import track

if TYPE_CHECKING:  # whoever has an encoder has loaded its libraries already
    from skumatch.model.encoder import Encoder
    from skumatch.model.preprocess import Preprocess

Pixels = Tensor | DataError | StorageError  # of one image or of a batch


def embed(encoder: Encoder, images: Images, batch: int, runtime: RuntimeParams, label: str = "embed") -> NDArray[np.float32]:
    """One L2-normalised row an image, in their order: float32 [n, encoder.dim]. `label` names the step in progress.

    Raises DataError for an image that can't be decoded, StorageError for one that can't be read, and WeightsError if the
    encoder's answer is no number.
    """
    device = prepare(runtime)
    encoder = encoder.to(device).eval()
    loader = DataLoader(_Prepared(images, encoder.preprocess), batch_size=batch, num_workers=workers(runtime, device), collate_fn=_collate)
    rows = np.empty((len(images), encoder.dim), np.float32)
    done = 0
    with track(label, len(images)) as advance, torch.inference_mode():
        for pixels in loader:
            if isinstance(pixels, Exception):
                raise pixels
            vectors = functional.normalize(encoder(encoder.preprocess.normalise(pixels.to(device))).float(), dim=1)
            rows[done : done + len(vectors)] = vectors.cpu().numpy()
            done += len(vectors)
            advance(len(vectors))
    _check_finite(rows, images)
    return rows


def _check_finite(rows: NDArray[np.float32], images: Images) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        first = images.ids[int(bad[0])]
        raise WeightsError(f"The encoder's vectors of {bad.size} of {len(images)} images are no numbers (first: {first}); train it again.")


class _Prepared(Dataset[Pixels]):
    """Preprocessed pictures. An error is handed over as a value: a worker process would turn it into a traceback."""

    def __init__(self, images: Images, preprocess: Preprocess) -> None:
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Pixels:
        try:
            return self.preprocess(self.images[index])
        except ImageError as error:
            return DataError(f"{self.images.ids[index]} can't be embedded: {error}")
        except StorageError as error:
            return error


def _collate(items: list[Pixels]) -> Pixels:
    tensors = []
    for item in items:
        if not isinstance(item, Tensor):
            return item
        tensors.append(item)
    return torch.stack(tensors)
