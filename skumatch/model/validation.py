"""Validation while training: do pictures that are kept from training find their SKU among those that are not?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from skumatch.config import RuntimeParams
from skumatch.data.images import Images
from skumatch.model.embed import vectors_of

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder

EACH, QUERIES = 5, 2_000  # gallery pictures of a SKU, pictures asked: enough to steer by, a few percent of an epoch


class Validation:
    """Top-1 by nearest neighbour, micro: up to QUERIES of `queries` among up to EACH of `gallery` a SKU, the same at every call."""

    def __init__(self, gallery: Images, queries: Images, batch: int, runtime: RuntimeParams, seed: int) -> None:
        chance = np.random.default_rng(seed)
        draws = pd.Series(chance.random(len(gallery))).groupby(pd.Series(gallery.skus, dtype=object)).rank()
        self.gallery = gallery.take(np.flatnonzero(draws <= EACH).tolist())
        self.queries = queries.take(sorted(chance.permutation(len(queries))[:QUERIES].tolist()))
        self.batch, self.runtime = batch, runtime

    def __call__(self, encoder: Encoder) -> float:
        """Share of pictures whose nearest gallery picture is of their SKU. Leaves the encoder in evaluation mode."""
        gallery, queries = (vectors_of(encoder, images, self.batch, self.runtime) for images in (self.gallery, self.queries))
        nearest = (queries @ gallery.T).argmax(axis=1)
        return float(np.mean([self.gallery.skus[row] == sku for row, sku in zip(nearest, self.queries.skus, strict=True)]))
