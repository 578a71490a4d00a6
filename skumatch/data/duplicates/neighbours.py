"""Pairs of pictures whose perceptual hashes differ in few bits, in near-linear time.

Each of TABLES tables sorts all hashes by an order of the 64 bits of its own, so that close ones come to lie side by side
(Charikar 2002; Manku, Jain and Das Sarma 2007), and compares each with those that follow it and share the table's first bits.
At most WINDOW of them are compared: a thousand flat pictures with one hash cost no more than a thousand others.
Among 1.2 million hashes a pair 6 bits apart is found with a probability of 99.97 %, 8 bits of 96 %, 10 bits of 70 %; most near-copies
have more than one pair of hashes to be found by.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint64]
Indices = NDArray[np.int64]

RADIUS = 10  # bits that may differ: more than JPEG, scaling, light and the nearest of a crop's windows change
TABLES = 96
WINDOW = 48
SAME_HASH = 16  # pictures of one hash that are paired with those of another hash


def near_pairs(codes: Codes, radius: int = RADIUS) -> tuple[Indices, Indices]:
    """Pairs of rows of `codes` [n, w] of which some two hashes differ in at most `radius` bits: [m, 2], the smaller row first, sorted;
    and the bits by which they differ, [m].

    Rows in an order of their own content give the same pairs whatever their names.
    """
    values, kind = np.unique(codes.ravel(), return_inverse=True)
    owner = np.argsort(kind, kind="stable") // codes.shape[1]
    kind = np.sort(kind)
    first, second, distance = _close_values(values, radius)
    close = _owners(first, second, distance, owner, np.bincount(kind))
    same = [_following(kind, owner, step) for step in range(1, SAME_HASH)]
    a, b, distance = np.concatenate([close, *same], axis=1)
    return _distinct(np.minimum(a, b), np.maximum(a, b), distance)


def _owners(first: Indices, second: Indices, distance: Indices, owner: Indices, counts: Indices) -> Indices:
    """[3, m]: rows that own the hashes `first` and `second`, SAME_HASH of each at most, and their distance."""
    start, few = np.cumsum(counts) - counts, np.minimum(counts, SAME_HASH)
    times = few[first] * few[second]
    pair = np.repeat(np.arange(len(first)), times)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(times) - times, times)
    left, right = np.divmod(place, few[second][pair])
    return np.stack([owner[start[first][pair] + left], owner[start[second][pair] + right], distance[pair]])


def _following(kind: Indices, owner: Indices, step: int) -> Indices:
    """[3, m]: rows that own a hash, each with the one `step` places further that owns the same, and 0."""
    at = np.flatnonzero(kind[step:] == kind[:-step])
    return np.stack([owner[at], owner[at + step], np.zeros(len(at), np.int64)])


def _distinct(a: Indices, b: Indices, distance: Indices) -> tuple[Indices, Indices]:
    """Each pair of different rows once, with its least distance."""
    apart = a != b
    rows = int(b.max(initial=0)) + 1
    coded = np.sort(((a * rows + b) * 65 + distance)[apart])
    coded = coded[np.diff(coded // 65, prepend=-1) != 0]
    pair, distance = np.divmod(coded, 65)
    return np.stack(np.divmod(pair, rows), axis=1), distance


def _close_values(values: Codes, radius: int) -> tuple[Indices, Indices, Indices]:
    """Pairs of places in the sorted distinct `values`, and their distance."""
    count = len(values)
    prefix = np.uint64(64 - max(8, math.ceil(math.log2(max(count, 2)))))
    generator = np.random.default_rng(0)
    found = np.empty(0, np.int64)
    for _ in range(TABLES):
        keys = _reordered(values, generator.permutation(64))
        order = np.argsort(keys)
        pairs = _side_by_side(keys[order], order, prefix, radius)
        found = np.sort(np.concatenate([found, pairs.min(axis=0) * count + pairs.max(axis=0)]))
        found = found[np.diff(found, prepend=-1) != 0]
    first, second = np.divmod(found, count)
    return first, second, np.bitwise_count(values[first] ^ values[second]).astype(np.int64)


def _reordered(values: Codes, places: Indices) -> Codes:
    """`values` with bit i moved to `places`[i], a byte at a time."""
    out = np.zeros(len(values), np.uint64)
    byte = np.arange(256, dtype=np.uint64)
    for start in range(0, 64, 8):
        moved = np.zeros(256, np.uint64)
        for bit in range(8):
            moved |= (byte >> np.uint64(bit) & np.uint64(1)) << np.uint64(places[start + bit])
        out |= moved[values >> np.uint64(start) & np.uint64(255)]
    return out


def _side_by_side(keys: Codes, order: Indices, prefix: np.uint64, radius: int) -> Indices:
    """[2, m]: places of sorted keys that share their first bits, at most WINDOW apart, and differ in at most `radius` bits."""
    found = [np.empty((2, 0), np.int64)]
    for step in range(1, min(WINDOW, len(keys) - 1) + 1):
        apart = keys[step:] ^ keys[:-step]
        alike = apart >> prefix == 0
        if not alike.any():
            break
        hits = np.flatnonzero(alike & (np.bitwise_count(apart) <= radius))
        found.append(np.stack([order[hits], order[hits + step]]))
    return np.concatenate(found, axis=1)
