"""Figures from ranked lists: arrays in, arrays out. A query without a hit in its list has place 0."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.object_]
Flags = NDArray[np.bool_]
Places = NDArray[np.int64]
Floats = NDArray[np.float64]


def right_place(ranked: Labels, query_skus: Labels, positions: Places | None = None) -> Places:
    """Return the place of each query's own SKU, from 1; 0 if it is not listed.

    Args:
        ranked: [n, w], SKUs, best first.
        query_skus: [n], the queries' SKUs.
        positions: [n, w], the place of each listed SKU among all images, which is returned instead of its
            place in the list.
    """
    right = ranked == query_skus[:, None]
    places = np.arange(1, ranked.shape[1] + 1)[None, :] if positions is None else positions
    right_places: Places = np.where(right, places, 0).max(axis=1, initial=0).astype(np.int64)
    return right_places


def hits_at(places: Places, k: int) -> Flags:
    """Return whether each query's right answer is among the first k."""
    return (places >= 1) & (places <= k)


def with_partner(query_skus: Labels, gallery_skus: Collection[str]) -> Flags:
    """Return whether each query's SKU has an image in the gallery; only such queries are scored."""
    known = set(gallery_skus)
    return np.fromiter((sku in known for sku in query_skus), dtype=np.bool_, count=len(query_skus))


def precisions(right: Flags, places: Places, total: Places) -> tuple[Floats, Floats]:
    """Return average precision and precision of the first R images; 0 where R is 0.

    Average precision at R is that of Musgrave et al. 2020, "A Metric Learning Reality Check", section 3.2:
    the mean over the first R places of the precision up to there where the image is right, and of 0 where it
    is not.

    Args:
        right: [n, w], whether an image of the list is of the query's SKU; w is at least R.
        places: [n, w], the image's place in the list, from 1.
        total: [n], R.
    """
    counted = right & (places <= total[:, None])
    precision_up_to = np.cumsum(counted, axis=1) / np.maximum(places, 1)
    size = np.maximum(total, 1)
    return np.where(counted, precision_up_to, 0.0).sum(axis=1) / size, counted.sum(axis=1) / size


def first_place(right: Flags, places: Places) -> Places:
    """Return the place of the first right image of each list [n, w]; 0 if it holds none."""
    column = right.argmax(axis=1)
    first: Places = np.where(right.any(axis=1), places[np.arange(len(right)), column], 0)
    return first


def vote(codes: Places, weights: Floats) -> Places:
    """Return the code of largest sum of weights in each row [n, v], whose images are sorted, nearest first.

    Of equal sums the code of the nearest image wins. Code -1 has no vote.
    """
    same = codes[:, :, None] == codes[:, None, :]
    sums = np.where(codes >= 0, (same * weights[:, None, :]).sum(axis=2), -1)
    winners: Places = codes[np.arange(len(codes)), sums.argmax(axis=1)]
    return winners


def mean_by(values: NDArray[Any], labels: Labels) -> tuple[Labels, NDArray[np.float64], NDArray[np.int64]]:
    """Return the labels, sorted, the mean of each one's `values`, and their number."""
    names, inverse = np.unique(labels, return_inverse=True)
    counts = np.bincount(inverse, minlength=len(names))
    return names, np.bincount(inverse, weights=values, minlength=len(names)) / counts, counts
