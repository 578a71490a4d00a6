"""Samplers: draw an epoch's images in random order, as pure functions of labels and a generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Whole = NDArray[np.int64]


def balanced(labels: Sequence[int], power: float, draws: torch.Generator) -> Whole:
    """Draw as many images as there are labels, in random order.

    A SKU with n images is drawn n ** power times as often as a SKU with one image. The images of a SKU are
    drawn in turn, so their counts differ by at most one.

    Args:
        labels: SKU of each image, int [images].
        power: 1 draws SKUs in proportion to their numbers of images, 0 all SKUs equally often.
        draws: Source of the random numbers.

    Returns:
        Numbers of images, int [images].
    """
    members = _Members(labels, draws)
    quotas = whole_parts(_expected(members.counts, power, len(labels), len(labels)), draws)
    skus = np.repeat(np.arange(len(quotas)), quotas)
    order = members.at(skus, occurrences(skus))
    return order[_shuffle(len(order), draws)]


def grouped(
    labels: Sequence[int], power: float, steps: int, skus: int, per_sku: int, draws: torch.Generator
) -> Whole:
    """Draw batches of several images of each of several SKUs (P-K batches, Hermans, arXiv 1703.07737).

    A batch has `skus` different SKUs and `per_sku` images of each, in a row. An image is repeated in a batch
    only if its SKU has fewer than `per_sku` images.

    Args:
        labels: SKU of each image, int [images], of at least `skus` different SKUs.
        power: How often SKUs are drawn, as in `balanced`.
        steps: Number of batches.
        skus: SKUs in a batch.
        per_sku: Images of each of them.
        draws: Source of the random numbers.

    Returns:
        Numbers of images, int [steps * skus * per_sku].
    """
    members = _Members(labels, draws)
    quotas = whole_parts(_expected(members.counts, power, steps * skus, steps), draws)
    shuffled = _shuffle(len(quotas), draws)
    # Deal the SKUs to the batches in turn. No SKU has a quota over `steps`, so no batch gets a SKU twice.
    batches = np.repeat(shuffled, quotas[shuffled]).reshape(skus, steps).T
    groups = batches[_shuffle(steps, draws)].reshape(-1)
    turns = occurrences(groups)[:, None] * per_sku + np.arange(per_sku)
    return members.at(np.repeat(groups, per_sku), turns.reshape(-1))


def occurrences(values: Whole) -> Whole:
    """Count for each value how many equal values come before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.searchsorted(ordered, ordered)
    counts = np.empty_like(order)
    counts[order] = np.arange(len(values)) - starts
    return counts


def whole_parts(expected: NDArray[np.float64], draws: torch.Generator) -> Whole:
    """Round numbers up or down at random, keeping their sum, by systematic resampling.

    The expectation of each rounded number is the number itself. One random offset serves for all of them
    (Carpenter, Clifford and Fearnhead, 1999).

    Args:
        expected: Numbers of at least 0 whose sum is whole.
        draws: Source of the random offset.
    """
    least = np.floor(expected)
    left = round(float((expected - least).sum()))
    ends = np.cumsum(expected - least)
    ends[-1] = left
    offset = torch.rand(1, generator=draws, dtype=torch.float64).item()
    more = np.diff(np.floor(ends + offset), prepend=0.0)
    rounded: Whole = (least + more).astype(np.int64)
    return rounded


def _expected(counts: Whole, power: float, total: int, most: int) -> NDArray[np.float64]:
    """Share out `total` in proportion to counts ** power, with at most `most` for each.

    The excess over `most` is shared out among the others.
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
        """Return image number `turns` of each of `skus`, starting again after a SKU's last image."""
        images: Whole = self.images[self.starts[skus] + turns % self.counts[skus]]
        return images
