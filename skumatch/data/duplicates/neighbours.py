"""Pairs of pictures whose perceptual hashes differ in few bits, in near-linear time.

Each of TABLES tables permutes the 64 bits in an order of its own and sorts all hashes, so that close hashes
tend to be side by side (Charikar 2002; Manku, Jain and Das Sarma 2007). Each hash is compared with at most
WINDOW hashes that follow it and share the table's first bits, and only the nearest pairs of each picture are
kept. So the cost of a cluster grows with its size, not with the square of its size. Among 1.2 million hashes
a pair 6 bits apart is found with a probability of 99.97 %, 8 bits of 96 %, 10 bits of 70 %. Most near-copies
have more than one close pair of hashes, and one of them is enough.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skumatch.progress import track

Codes = NDArray[np.uint64]
Indices = NDArray[np.int64]

RADIUS = 10  # bits that may differ: more than JPEG, scaling, light or a crop (by its best window) change
TABLES = 96
WINDOW = 16
# The nearest pairs kept for each picture, and the pictures of one hash that are paired with those of another.
LIMIT = 16
BITS = 65  # number of possible distances: 0 to 64 bits
AT_ONCE = 4  # tables after which only the nearest pairs are kept, which bounds the memory


def near_pairs(codes: Codes, radius: int = RADIUS) -> tuple[Indices, Indices]:
    """Find pairs of rows that have a hash each which differ in few bits.

    A pair is kept if it is among the LIMIT nearest of either row; of equally near ones the smaller row comes
    first. If rows are ordered by their content, the pairs don't depend on the pictures' names.

    Args:
        codes: the hashes of each row, uint64 [n, w].
        radius: bits that two hashes may differ in.

    Returns:
        The pairs [m, 2], the smaller row first, sorted; and the least bits that two hashes of a pair differ
        in, [m].
    """
    values, kind = np.unique(codes.ravel(), return_inverse=True)
    owner = np.argsort(kind, kind="stable") // codes.shape[1]
    kind = np.sort(kind)
    close = _owners(*_close_values(values, radius), owner, np.bincount(kind))
    same = [_following(kind, owner, step) for step in range(1, LIMIT)]
    a, b, distance = np.concatenate([close, *same], axis=1)
    apart = a != b
    count = len(codes)
    pairs, distance = _undirected(_both_ways(a[apart], b[apart], distance[apart], count), count)
    ends = _both_ways(pairs[:, 0], pairs[:, 1], distance, count)
    return _undirected(_nearest(ends, count), count)


def _both_ways(a: Indices, b: Indices, distance: Indices, count: int) -> Indices:
    """Encode each pair twice, from either end, as a number that sorts by end, distance and other end."""
    return np.concatenate([(a * BITS + distance) * count + b, (b * BITS + distance) * count + a])


def _nearest(ends: Indices, count: int) -> Indices:
    """Return the LIMIT least numbers of `_both_ways` for each end, sorted."""
    ends = np.sort(ends)
    ends = ends[np.diff(ends, prepend=-1) != 0]
    end = ends // (BITS * count)
    first = np.flatnonzero(np.diff(end, prepend=-1))
    place = np.arange(len(ends)) - np.repeat(first, np.diff(first, append=len(ends)))
    return ends[place < LIMIT]


def _undirected(ends: Indices, count: int) -> tuple[Indices, Indices]:
    """Decode the numbers of `_both_ways`.

    Return the pairs [m, 2], each once, the smaller end first, sorted; and the least distance of each.
    """
    rest, b = np.divmod(ends, max(count, 1))
    a, distance = np.divmod(rest, BITS)
    coded = np.sort((np.minimum(a, b) * count + np.maximum(a, b)) * BITS + distance)
    coded = coded[np.diff(coded // BITS, prepend=-1) != 0]
    pair, distance = np.divmod(coded, BITS)
    return np.stack(np.divmod(pair, max(count, 1)), axis=1), distance


def _owners(first: Indices, second: Indices, distance: Indices, owner: Indices, counts: Indices) -> Indices:
    """Turn pairs of hashes into pairs of rows that have them, at most LIMIT rows of either hash.

    Return [3, m]: the two rows and their distance.
    """
    start, few = np.cumsum(counts) - counts, np.minimum(counts, LIMIT)
    times = few[first] * few[second]
    pair = np.repeat(np.arange(len(first)), times)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(times) - times, times)
    left, right = np.divmod(place, few[second][pair])
    return np.stack([owner[start[first][pair] + left], owner[start[second][pair] + right], distance[pair]])


def _following(kind: Indices, owner: Indices, step: int) -> Indices:
    """Pair each row with the row `step` places further, if both have the same hash.

    Return [3, m]: the two rows and their distance, 0.
    """
    at = np.flatnonzero(kind[step:] == kind[:-step])
    return np.stack([owner[at], owner[at + step], np.zeros(len(at), np.int64)])


def _close_values(values: Codes, radius: int) -> tuple[Indices, Indices, Indices]:
    """Return close pairs of the distinct hashes `values`, as two arrays of indices, and their distances."""
    count = len(values)
    prefix = np.uint64(64 - max(8, math.ceil(math.log2(max(count, 2)))))
    generator = np.random.default_rng(0)
    nearest = np.empty(0, np.int64)
    with track("hashes", TABLES, "tables") as advance:
        for _ in range(0, TABLES, AT_ONCE):
            fresh = [nearest]
            for _ in range(AT_ONCE):
                keys = _reordered(values, generator.permutation(64))
                order = np.argsort(keys)
                a, b = _side_by_side(keys[order], order, prefix, radius)
                distance = np.bitwise_count(values[a] ^ values[b]).astype(np.int64)
                fresh.append(_both_ways(a, b, distance, count))
                advance()
            nearest = _nearest(np.concatenate(fresh), count)
    pairs, distance = _undirected(nearest, count)
    return pairs[:, 0], pairs[:, 1], distance


def _reordered(values: Codes, places: Indices) -> Codes:
    """Return `values` with bit i moved to `places`[i], a byte at a time."""
    out = np.zeros(len(values), np.uint64)
    byte = np.arange(256, dtype=np.uint64)
    for start in range(0, 64, 8):
        moved = np.zeros(256, np.uint64)
        for bit in range(8):
            moved |= (byte >> np.uint64(bit) & np.uint64(1)) << np.uint64(places[start + bit])
        out |= moved[values >> np.uint64(start) & np.uint64(255)]
    return out


def _side_by_side(keys: Codes, order: Indices, prefix: np.uint64, radius: int) -> Indices:
    """Find pairs of sorted keys, at most WINDOW places apart, that differ in at most `radius` bits.

    Only keys that are equal after a shift by `prefix` bits are compared. Return [2, m]: entries of `order`.
    """
    pairs = [np.empty((2, 0), np.int64)]
    for step in range(1, min(WINDOW, len(keys) - 1) + 1):
        apart = keys[step:] ^ keys[:-step]
        alike = apart >> prefix == 0
        if not alike.any():
            break
        hits = np.flatnonzero(alike & (np.bitwise_count(apart) <= radius))
        pairs.append(np.stack([order[hits], order[hits + step]]))
    return np.concatenate(pairs, axis=1)
