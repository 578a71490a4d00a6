"""Top-1 of parts of the queries, such as small photos, blurred photos, products with few gallery images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skumatch.params import EvaluateParams
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Bounds, Slice
from skumatch.retrieval.metrics import Flags, Floats, Places

PHOTO = ["width", "height", "blur", "brightness"]  # columns measured from a query's photo
# Families of slices by a measure of the photo: the measure, and the description of a range of it.
MEASURED: dict[str, tuple[Callable[[pd.DataFrame], pd.Series[float]], str]] = {
    "size": (lambda facts: facts[["width", "height"]].min(axis=1), "shorter side {} to {} px"),
    "aspect": (lambda facts: facts["width"] / facts["height"], "width over height {} to {}"),
    "blur": (lambda facts: facts["blur"], "variance of the Laplacian {} to {}"),
    "brightness": (lambda facts: facts["brightness"], "mean brightness {} to {} of 255"),
}
TOLD = {  # families of slices by a flag: name and description of queries with the flag, and of the others
    "unseen": (("unseen", "products never trained on"), ("seen", "all other products")),
    "new": (("new", "products new in this data version"), ("known", "all other products")),
    "catalogue_only": (
        ("catalogue", "products served from their catalogue picture alone"),
        ("shelf", "all other products"),
    ),
}
Part = tuple[str, str, Flags]  # name, description, mask of the slice's queries


def thirds(values: NDArray[np.generic]) -> Places:
    """Return 0, 1 or 2 for the low, middle and high third of `values` [n].

    Equal values are in one third: the one that the middle of them lies in.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    doubled_middle = 2 * np.cumsum(counts) - counts
    third: Places = (3 * doubled_middle // (2 * len(values)))[inverse].astype(np.int64)
    return third


def slices_of(
    facts: pd.DataFrame, hits: Flags, clusters: Places, params: EvaluateParams, seed: int
) -> tuple[Slice, ...]:
    """Return top-1 of all slices, families in a fixed order.

    A family that puts all queries in one slice is left out.

    Args:
        facts: One row per scored query: sku, gallery_images, and any of width, height, blur, brightness,
            unseen, new, catalogue_only, product_group.
        hits: [n], top-1 hits of the scored queries.
        clusters: [n], their clusters.
        params: Confidence and number of resamples of the intervals.
        seed: Of the resamples.
    """

    def slice_of(family: str, name: str, about: str, chosen: Flags) -> Slice:
        top1, bounds = interval(hits[chosen], clusters[chosen], params, seed)
        skus = int(facts["sku"][chosen].nunique())
        return Slice(
            family=family, name=name, about=about, n=int(chosen.sum()), skus=skus, top1=top1, interval=bounds
        )

    slices: list[Slice] = []
    for family, parts in _families(facts):
        filled = [(name, about, chosen) for name, about, chosen in parts if chosen.any()]
        if len(filled) > 1:
            slices += [slice_of(family, name, about, chosen) for name, about, chosen in filled]
    return tuple(slices)


def interval(hits: Flags, clusters: Places, params: EvaluateParams, seed: int) -> tuple[float, Bounds]:
    """Return the share of hits and its two-sided bounds.

    Args:
        hits: [n].
        clusters: [n], the clusters that are resampled.
        params: Confidence and number of resamples.
        seed: Of the resamples.
    """
    mean = statistics.mean_interval(hits, clusters, params.confidence, seed, params.resamples)
    return mean.value, (mean.low, mean.high)


def _families(facts: pd.DataFrame) -> Iterator[tuple[str, Iterator[Part]]]:
    """Yield each family of slices, and its parts."""
    yield "thirds", _by_gallery(facts)
    if set(PHOTO) <= set(facts):
        for family, (measure, words) in MEASURED.items():
            yield family, _measured(np.asarray(measure(facts), np.float64), words)
    for family, names in TOLD.items():
        if family in facts:
            flagged = facts[family].to_numpy(dtype=np.bool_)
            yield family, ((*name, chosen) for name, chosen in zip(names, (flagged, ~flagged), strict=True))
    if "product_group" in facts:
        groups = facts["product_group"]
        yield (
            "group",
            ((name, "", groups.eq(name).to_numpy(dtype=np.bool_)) for name in sorted(set(groups.dropna()))),
        )


def _by_gallery(facts: pd.DataFrame) -> Iterator[Part]:
    """Yield thirds of the SKUs, not of the queries, by their number of gallery images."""
    images = facts.groupby("sku")["gallery_images"].first()
    third = facts["sku"].map(dict(zip(images.index, thirds(images.to_numpy()), strict=True))).to_numpy()
    counts = facts["gallery_images"].to_numpy(dtype=np.float64)
    for place, name in ((2, "head"), (1, "middle"), (0, "tail")):
        yield name, _range(counts[third == place], "{} to {} gallery images"), third == place


def _measured(values: Floats, words: str) -> Iterator[Part]:
    third = thirds(values)
    for place, name in enumerate(("low", "middle", "high")):
        yield name, _range(values[third == place], words), third == place


def _range(values: Floats, words: str) -> str:
    return words.format(_figure(values.min()), _figure(values.max())) if values.size else ""


def _figure(value: float) -> str:
    """Write a number with three significant digits, or a larger one with all its digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
