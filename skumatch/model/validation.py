"""Validation during training: top-1 accuracy of held-out pictures against a gallery of training pictures."""

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

# gallery pictures per SKU, and queries: enough to compare epochs, at a few percent of an epoch's time
EACH, QUERIES = 5, 2_000


class Validation:
    """Micro-averaged top-1 by nearest neighbour, on the same random sample at every call.

    The sample has up to `EACH` gallery pictures per SKU and up to `QUERIES` queries.

    Attributes:
        gallery: The sample of the gallery.
        queries: The sample of the queries.
        batch: Pictures in a forward pass.
        runtime: Device, threads, worker processes.
    """

    def __init__(
        self, gallery: Images, queries: Images, batch: int, runtime: RuntimeParams, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        ranks = pd.Series(rng.random(len(gallery))).groupby(pd.Series(gallery.skus, dtype=object)).rank()
        self.gallery = gallery.take(np.flatnonzero(ranks <= EACH).tolist())
        self.queries = queries.take(sorted(rng.permutation(len(queries))[:QUERIES].tolist()))
        self.batch, self.runtime = batch, runtime

    def __call__(self, encoder: Encoder) -> float:
        """Return the share of queries whose nearest gallery picture is of their SKU.

        The encoder is in evaluation mode afterwards.
        """
        return float(hits(encoder, self.gallery, self.queries, self.batch, self.runtime).mean())


def hits(
    encoder: Encoder, gallery: Images, queries: Images, batch: int, runtime: RuntimeParams
) -> NDArray[np.bool_]:
    """Find out for each query if its nearest gallery picture is of its SKU.

    Args:
        encoder: It is in evaluation mode afterwards.
        gallery: The pictures to search.
        queries: The pictures to search for.
        batch: Pictures in a forward pass.
        runtime: Device, threads, worker processes.

    Returns:
        bool [len(queries)].
    """
    gallery_vectors = vectors_of(encoder, gallery, batch, runtime)
    query_vectors = vectors_of(encoder, queries, batch, runtime)
    nearest = (query_vectors @ gallery_vectors.T).argmax(axis=1)
    correct: NDArray[np.bool_] = np.array(gallery.skus)[nearest] == np.array(queries.skus)
    return correct
