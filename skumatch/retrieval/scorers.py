"""Answers by the nearest prototype of a SKU instead of the nearest image.

The vote of the nearest images, another such method, is in `rank`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skumatch.retrieval.metrics import Flags, Floats, Places
from skumatch.retrieval.search import Backend, SearchIndex, Vectors, dot

Side = tuple[Vectors, Sequence[str], Sequence[str]]  # vectors, ids, SKUs


def prototype_hits(gallery: Side, queries: Side, backend: Backend = "faiss", device: str = "cpu") -> Flags:
    """Return whether each query [m, d] is nearest to its own SKU's prototype.

    A prototype is the mean of the SKU's gallery vectors, scaled to length 1. Equal similarities go to the SKU
    whose name sorts first. A query that is in the gallery itself is left out of its SKU's prototype; a SKU
    without an image left has none.

    Args:
        gallery: Vectors, ids and SKUs, sorted by id, so that sums are the same for any order of files.
        queries: Vectors, ids and SKUs.
        backend: The library that proposes neighbours; it doesn't change the result.
        device: torch's name of the device to search on.
    """
    gallery_vectors, gallery_ids, gallery_skus = gallery
    query_vectors, query_ids, query_skus = queries
    names, numbers = np.unique(np.array(gallery_skus, dtype=object), return_inverse=True)
    counts = np.bincount(numbers)
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
    sums = np.stack([gallery_vectors[rows].sum(axis=0, dtype=np.float64) for rows in members])
    number_of = {name: number for number, name in enumerate(names)}
    own = np.array([number_of.get(sku, -1) for sku in query_skus], np.int64)
    similarities, nearest = SearchIndex(_unit(sums), backend, device).nearest(query_vectors, 2)
    hits: Flags = nearest[:, 0] == own
    inside = np.flatnonzero(np.isin(np.array(query_ids, dtype=object), np.array(gallery_ids, dtype=object)))
    hits[inside] = _left_out(
        query_vectors[inside], own[inside], sums, counts, similarities[inside], nearest[inside]
    )
    return hits


def _left_out(
    queries: Vectors, own: Places, sums: Floats, counts: Places, similarities: Vectors, nearest: Places
) -> Flags:
    """Return the hits of queries that are part of their SKU's sum.

    The own SKU's prototype, made of its other images, is compared with that of the nearest other SKU.

    Args:
        queries: [m, d].
        own: [m], numbers of their SKUs.
        sums: [SKUs, d], sums of the SKUs' gallery vectors.
        counts: [SKUs], numbers of vectors in them.
        similarities: [m, 2], of the two nearest prototypes; [m, 1] where there is only one SKU.
        nearest: The numbers of their SKUs, of the same shape.
    """
    own_similarity = dot(_unit(sums[own] - queries), queries)
    if nearest.shape[1] < 2:  # there is no other SKU
        return counts[own] > 1
    column = (nearest[:, 0] == own).astype(np.int64)[:, None]
    rival_similarity = np.take_along_axis(similarities, column, axis=1)[:, 0]
    rival = np.take_along_axis(nearest, column, axis=1)[:, 0]
    ahead = own_similarity > rival_similarity
    wins_tie = (own_similarity == rival_similarity) & (own < rival)
    hits: Flags = (counts[own] > 1) & (ahead | wins_tie)
    return hits


def _unit(sums: Floats) -> Vectors:
    """Scale rows to length 1; a row of zeros, which has no direction, stays."""
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    rows: Floats = np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0)
    return rows.astype(np.float32)
