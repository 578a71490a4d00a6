"""Folds of alike pictures: what a product looks like in one place and light is either learnt or asked, never both.

Photos of a product are taken in bursts. A random share of them kept from training finds its twin there, and says nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage


def looks(vectors: NDArray[np.float32], skus: list[str], folds: int, seed: int) -> NDArray[np.int64]:
    """Each picture's fold: its SKU's pictures in `folds` groups by Ward's method over their vectors [n, dim], the groups in random order.

    A SKU of fewer pictures than folds is missing from some.
    """
    chance, names = np.random.default_rng(seed), np.array(skus)
    found = np.zeros(len(names), np.int64)
    for sku in sorted(set(skus)):
        (rows,) = np.nonzero(names == sku)
        groups = (
            fcluster(linkage(vectors[rows], "ward"), folds, "maxclust") if len(rows) > 1 else np.ones(1, int)
        )
        found[rows] = chance.permutation(folds)[groups - 1]
    return found
