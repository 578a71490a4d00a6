"""Which images an epoch shows, in which order: pure functions of the labels and a generator, so that a resume needs no state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Whole = NDArray[np.int64]


def balanced(labels: Sequence[int], power: float, draws: torch.Generator) -> Whole:
    """As many images as there are labels, in random order.

    SKUs with n images are drawn n ** power times as often as those with one.

    A SKU's images come round in turn, so no two of them differ by more than one in how often. labels: int
    [images].
    """
    members = _Members(labels, draws)
    quotas = whole_parts(_expected(members.counts, power, len(labels), len(labels)), draws)
    skus = np.repeat(np.arange(len(quotas)), quotas)
    order = members.at(skus, occurrences(skus))
    return order[_shuffle(len(order), draws)]


def grouped(
    labels: Sequence[int], power: float, steps: int, skus: int, per_sku: int, draws: torch.Generator
) -> Whole:
    """int [steps * skus * per_sku]: batches of `skus` different SKUs, each with `per_sku` images in a row (P-K, Hermans, arXiv 1703.07737).

    SKUs are drawn by `power` as in `balanced`, but never twice in a batch. Images repeat in a batch only where a SKU has too few.
    There must be at least `skus` SKUs.
    """
    members = _Members(labels, draws)
    quotas = whole_parts(_expected(members.counts, power, steps * skus, steps), draws)
    by_chance = _shuffle(len(quotas), draws)
    dealt = (
        np.repeat(by_chance, quotas[by_chance]).reshape(skus, steps).T
    )  # a SKU's run is no longer than the batches it is dealt to
    groups = dealt[_shuffle(steps, draws)].reshape(-1)
    turns = occurrences(groups)[:, None] * per_sku + np.arange(per_sku)
    return members.at(np.repeat(groups, per_sku), turns.reshape(-1))


def occurrences(values: Whole) -> Whole:
    """How many equal values came before each one."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.searchsorted(ordered, ordered)
    found = np.empty_like(order)
    found[order] = np.arange(len(values)) - starts
    return found


def whole_parts(expected: NDArray[np.float64], draws: torch.Generator) -> Whole:
    """Whole numbers that sum up as `expected` (whose sum is whole), each one of its two neighbours, on average itself.

    Systematic resampling: one random offset for all (Carpenter, Clifford and Fearnhead, 1999).
    """
    least = np.floor(expected)
    left = round(float((expected - least).sum()))
    ends = np.cumsum(expected - least)
    ends[-1] = left
    offset = torch.rand(1, generator=draws, dtype=torch.float64).item()
    more = np.diff(np.floor(ends + offset), prepend=0.0)
    found: Whole = (least + more).astype(np.int64)
    return found


def _expected(counts: Whole, power: float, total: int, most: int) -> NDArray[np.float64]:
    """`total` shared out in proportion to counts ** power, but at most `most` each.

    What is over goes to the others.
    """
    weights = counts.astype(np.float64) ** power
    full = np.zeros(len(counts), bool)
    while True:
        rest = np.where(full, 0.0, weights)
        shares = np.where(full, float(most), rest * ((total - most * full.sum()) / max(rest.sum(), 1e-300)))
        over = shares > most
        if not over.any():
            return shares
        full |= over


def _shuffle(count: int, draws: torch.Generator) -> Whole:
    order: Whole = torch.randperm(count, generator=draws).numpy()
    return order


class _Members:
    """Each SKU's images, in random order."""

    def __init__(self, labels: Sequence[int], draws: torch.Generator) -> None:
        _, numbers, self.counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        chance = torch.rand(len(numbers), generator=draws, dtype=torch.float64).numpy()
        self.images = np.lexsort((chance, numbers))
        self.starts = np.cumsum(self.counts) - self.counts

    def at(self, skus: Whole, turns: Whole) -> Whole:
        """Image number `turns` of each of `skus`, beginning again after the last."""
        found: Whole = self.images[self.starts[skus] + turns % self.counts[skus]]
        return found
