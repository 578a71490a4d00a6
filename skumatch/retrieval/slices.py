"""Top-1 of parts of the queries: of small photos, blurred ones, products with few gallery images, and so on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skumatch.params import EvaluateParams
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Bounds, Slice
from skumatch.retrieval.metrics import Flags, Floats, Places

PHOTO = ["width", "height", "blur", "brightness"]  # what is measured of a query's photo
MEASURED: dict[str, tuple[Callable[[pd.DataFrame], pd.Series[float]], str]] = {  # and how a range reads
    "size": (lambda facts: facts[["width", "height"]].min(axis=1), "shorter side {} to {} px"),
    "aspect": (lambda facts: facts["width"] / facts["height"], "width over height {} to {}"),
    "blur": (lambda facts: facts["blur"], "variance of the Laplacian {} to {}"),
    "brightness": (lambda facts: facts["brightness"], "mean brightness {} to {} of 255"),
}
TOLD = {  # names and descriptions of the queries that are so, and of the others
    "unseen": (("unseen", "products never trained on"), ("seen", "all other products")),
    "new": (("new", "products new in this data version"), ("known", "all other products")),
    "catalogue_only": (
        ("catalogue", "products served from their catalogue picture alone"),
        ("shelf", "all other products"),
    ),
}
Part = tuple[str, str, Flags]  # name, about, which queries


def thirds(values: NDArray[np.generic]) -> Places:
    """0, 1 or 2 for the low, middle and high third of `values` [n].

    Equal values go together, where the middle of them lies.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    doubled_middle = 2 * np.cumsum(counts) - counts
    third: Places = (3 * doubled_middle // (2 * len(values)))[inverse].astype(np.int64)
    return third


def slices_of(
    facts: pd.DataFrame, hits: Flags, clusters: Places, params: EvaluateParams, seed: int
) -> tuple[Slice, ...]:
    """All slices that `facts` tells apart, families in a fixed order.

    Those that don't tell queries apart are left out.

    `facts` has a row a scored query: sku, gallery_images, and any of width, height, blur, brightness, unseen,
    new, product_group.
    """

    def one(family: str, name: str, about: str, chosen: Flags) -> Slice:
        top1, bounds = interval(hits[chosen], clusters[chosen], params, seed)
        skus = int(facts["sku"][chosen].nunique())
        return Slice(
            family=family, name=name, about=about, n=int(chosen.sum()), skus=skus, top1=top1, interval=bounds
        )

    found = []
    for family, parts in _families(facts):
        some = [part for part in parts if part[2].any()]
        found += [one(family, *part) for part in some if len(some) > 1]
    return tuple(found)


def interval(hits: Flags, clusters: Places, params: EvaluateParams, seed: int) -> tuple[float, Bounds]:
    """The mean and its bounds."""
    found = statistics.mean_interval(hits, clusters, params.confidence, seed, params.resamples)
    return found.value, (found.low, found.high)


def _families(facts: pd.DataFrame) -> Iterator[tuple[str, Iterator[Part]]]:
    yield "thirds", _by_gallery(facts)
    if set(PHOTO) <= set(facts):
        for family, (measure, words) in MEASURED.items():
            yield family, _measured(np.asarray(measure(facts), np.float64), words)
    for family, names in TOLD.items():
        if family in facts:
            so = facts[family].to_numpy(dtype=np.bool_)
            yield family, ((*name, chosen) for name, chosen in zip(names, (so, ~so), strict=True))
    if "product_group" in facts:
        groups = facts["product_group"]
        yield (
            "group",
            ((name, "", groups.eq(name).to_numpy(dtype=np.bool_)) for name in sorted(set(groups.dropna()))),
        )


def _by_gallery(facts: pd.DataFrame) -> Iterator[Part]:
    """Thirds of the SKUs, not of the queries."""
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
    """Three digits, or all of a larger number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
