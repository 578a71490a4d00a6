"""Folds of alike pictures of a product: those of one place and light are all learnt or all held out.

Photos of a product are taken in bursts. If a random share of them is held out of training, each has a
near-twin among the training pictures, so such a test says nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage


def looks(vectors: NDArray[np.float32], skus: list[str], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each picture, [n].

    The pictures of each SKU are clustered into `folds` groups by Ward's method, and the groups are assigned
    to folds in random order. A SKU with fewer pictures than folds is missing from some folds.

    Args:
        vectors: vector of each picture, [n, dim].
        skus: SKU of each picture, [n].
        folds: number of folds.
        seed: of the random order.
    """
    rng, names = np.random.default_rng(seed), np.array(skus)
    fold_of = np.zeros(len(names), np.int64)
    for sku in sorted(set(skus)):
        (rows,) = np.nonzero(names == sku)
        groups = (
            fcluster(linkage(vectors[rows], "ward"), folds, "maxclust") if len(rows) > 1 else np.ones(1, int)
        )
        fold_of[rows] = rng.permutation(folds)[groups - 1]
    return fold_of
