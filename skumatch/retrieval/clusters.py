"""The clusters that are resampled for an interval: sets of queries whose errors may be correlated."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skumatch.retrieval.metrics import Labels, Places


def clusters_of(skus: Labels, groups: Labels) -> Places:
    """Return the cluster of each query [n].

    Clusters are the connected components of SKUs and duplicate groups: queries of one SKU are in one cluster,
    and so are queries of one duplicate group, whatever their SKUs. A group that spans SKUs joins them, so
    that clusters are independent. Only duplicates among the queries count; a copy in the gallery doesn't join
    two queries.
    """
    sku, group = (np.unique(labels, return_inverse=True)[1] for labels in (skus, groups))
    offset = int(sku.max(initial=-1)) + 1
    size = offset + int(group.max(initial=-1)) + 1
    links = coo_array((np.ones(len(sku), np.int8), (sku, group + offset)), shape=(size, size))
    clusters: Places = connected_components(links, directed=False)[1][sku].astype(np.int64)
    return clusters
