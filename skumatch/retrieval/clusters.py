"""What is resampled for an interval: sets of queries whose errors may hang together."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skumatch.retrieval.metrics import Labels, Places


def clusters_of(skus: Labels, groups: Labels) -> Places:
    """The cluster of each query [n]: queries of one SKU are in one, and so are queries of one duplicate group, whatever their SKUs.

    These are the connected components of SKUs and groups. Within a SKU a group adds nothing; one that spans SKUs joins them, so that
    what is resampled is independent. Only what is asked counts: a copy in the gallery makes no two queries alike.
    """
    sku, group = (np.unique(labels, return_inverse=True)[1] for labels in (skus, groups))
    offset = int(sku.max(initial=-1)) + 1
    size = offset + int(group.max(initial=-1)) + 1
    links = coo_array((np.ones(len(sku), np.int8), (sku, group + offset)), shape=(size, size))
    found: Places = connected_components(links, directed=False)[1][sku].astype(np.int64)
    return found
