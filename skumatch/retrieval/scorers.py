"""Another way from neighbours to an answer than the nearest image: a SKU's prototype.

(The vote is taken where lists are made.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skumatch.retrieval.metrics import Flags, Floats, Places
from skumatch.retrieval.search import Backend, Index, Vectors, dot

Side = tuple[Vectors, Sequence[str], Sequence[str]]  # vectors, ids, SKUs


def prototype_hits(gallery: Side, queries: Side, backend: Backend = "faiss", device: str = "cpu") -> Flags:
    """Whether each query [m, d] is nearest to its own SKU's prototype: the mean of the SKU's gallery vectors, of length 1.

    Equal similarities go to the SKU whose name comes first. A query that is in the gallery itself is no part of its SKU's prototype; a
    SKU without an image left has none. The gallery stands in order of id, so that sums are the same for any order of files.
    """
    names, numbers = np.unique(np.array(gallery[2], dtype=object), return_inverse=True)
    counts = np.bincount(numbers)
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
    sums = np.stack([gallery[0][rows].sum(axis=0, dtype=np.float64) for rows in members])
    asked = {name: number for number, name in enumerate(names)}
    own = np.array([asked.get(sku, -1) for sku in queries[2]], np.int64)
    similarities, nearest = Index(_unit(sums), backend, device).nearest(queries[0], 2)
    hits: Flags = nearest[:, 0] == own
    inside = np.flatnonzero(np.isin(np.array(queries[1], dtype=object), np.array(gallery[1], dtype=object)))
    hits[inside] = _left_out(
        queries[0][inside], own[inside], sums, counts, similarities[inside], nearest[inside]
    )
    return hits


def _left_out(
    queries: Vectors, own: Places, sums: Floats, counts: Places, similarities: Vectors, nearest: Places
) -> Flags:
    """Hits of queries that are part of their SKU's sum: the prototype of the others against the nearest other SKU's."""
    mine = dot(_unit(sums[own] - queries), queries)
    if nearest.shape[1] < 2:  # there is no other SKU
        return counts[own] > 1
    column = (nearest[:, 0] == own).astype(np.int64)[:, None]
    theirs, rival = (
        np.take_along_axis(similarities, column, axis=1)[:, 0],
        np.take_along_axis(nearest, column, axis=1)[:, 0],
    )
    found: Flags = (counts[own] > 1) & ((mine > theirs) | ((mine == theirs) & (own < rival)))
    return found


def _unit(sums: Floats) -> Vectors:
    """Rows of length 1; a row of zeros, which has no direction, stays."""
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    rows: Floats = np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0)
    return rows.astype(np.float32)
