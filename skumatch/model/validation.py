"""Validation while training: do pictures that are kept from training find their SKU among those that are not?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skumatch.data.images import Images
from skumatch.model.embed import vectors_of
from skumatch.params import RuntimeParams

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder

EACH, QUERIES = (
    5,
    2_000,
)  # gallery pictures of a SKU, pictures asked: enough to steer by, a few percent of an epoch


class Validation:
    """Top-1 by nearest neighbour, micro: up to QUERIES of `queries` among up to EACH of `gallery` a SKU, the same at every call."""

    def __init__(
        self, gallery: Images, queries: Images, batch: int, runtime: RuntimeParams, seed: int
    ) -> None:
        chance = np.random.default_rng(seed)
        draws = pd.Series(chance.random(len(gallery))).groupby(pd.Series(gallery.skus, dtype=object)).rank()
        self.gallery = gallery.take(np.flatnonzero(draws <= EACH).tolist())
        self.queries = queries.take(sorted(chance.permutation(len(queries))[:QUERIES].tolist()))
        self.batch, self.runtime = batch, runtime

    def __call__(self, encoder: Encoder) -> float:
        """Share of pictures whose nearest gallery picture is of their SKU.

        Leaves the encoder in evaluation mode.
        """
        return float(hits(encoder, self.gallery, self.queries, self.batch, self.runtime).mean())


def hits(
    encoder: Encoder, gallery: Images, queries: Images, batch: int, runtime: RuntimeParams
) -> NDArray[np.bool_]:
    """Whether each query's nearest gallery picture is of its SKU, [queries].

    Leaves the encoder in evaluation mode.
    """
    theirs, asked = (vectors_of(encoder, images, batch, runtime) for images in (gallery, queries))
    nearest = (asked @ theirs.T).argmax(axis=1)
    found: NDArray[np.bool_] = np.array(gallery.skus)[nearest] == np.array(queries.skus)
    return found
