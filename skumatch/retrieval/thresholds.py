"""The two thresholds below which a picture counts as one of an unknown product, and how they are fitted."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from skumatch.retrieval.metrics import Flags, Floats

STEPS = 20  # steps in which the pictures that may be lost are shared between the two thresholds
LEAST_SKUS = 10  # to fit on: rates differ from SKU to SKU ...
LEAST_LOST = 5  # ... and a quantile with fewer pictures below it is chance
NO_COSINE = -1.0  # stands in for the cosine to a SKU that doesn't exist


class Scores(NamedTuple):
    """Scores of pictures, arrays [n].

    Attributes:
        similarity: Cosine to the nearest gallery image.
        margin: `similarity` less the cosine to the nearest image of any second SKU.
    """

    similarity: Floats
    margin: Floats

    def only(self, chosen: Flags) -> Scores:
        """Return the scores of the chosen pictures."""
        return Scores(self.similarity[chosen], self.margin[chosen])


class Thresholds(BaseModel):
    """The content of thresholds.json: a picture below either threshold is called unknown.

    Attributes:
        similarity: Threshold on the cosine to the nearest gallery image; None for no threshold.
        margin: Threshold on the margin; None for no threshold.
        target: The share of known products' pictures that may be called unknown.
        fitted_on: The pictures that the thresholds were fitted on, or why there were none.
        pictures: Number of these pictures.
        skus: Number of their SKUs.
        called: Share of these pictures that are called unknown.
        found: The same share if their own SKU were not in the gallery.
    """

    model_config = ConfigDict(frozen=True)
    similarity: float | None = Field(default=None, ge=-1, le=1)
    margin: float | None = Field(default=None, ge=0, le=2)
    target: float | None = Field(default=None, gt=0, lt=1)
    fitted_on: str = ""
    pictures: int = Field(default=0, ge=0)
    skus: int = Field(default=0, ge=0)
    called: float | None = Field(default=None, ge=0, le=1)
    found: float | None = Field(default=None, ge=0, le=1)

    @property
    def fitted(self) -> bool:
        """True if there is any threshold."""
        return self.similarity is not None or self.margin is not None

    def unknown(self, scores: Scores) -> Flags:
        """Return whether each picture [n] is called unknown."""
        below = np.zeros(len(scores.similarity), np.bool_)
        for values, least in zip(scores, (self.similarity, self.margin), strict=True):
            if least is not None:
                below |= values < least
        return below


def needed(target: float) -> str:
    """Return the least that thresholds are fitted on, such as `10 SKUs with 100 pictures`."""
    return f"{LEAST_SKUS} SKUs with {ceil(LEAST_LOST / target)} pictures"


def enough(pictures: int, skus: int, target: float) -> bool:
    """Return whether there are enough pictures to estimate a quantile.

    Args:
        pictures: Number of pictures.
        skus: Number of their SKUs.
        target: The quantile, from 0 to 1.
    """
    return skus >= LEAST_SKUS and pictures * target >= LEAST_LOST


def fit(known: Scores, unknown: Scores, target: float) -> tuple[float, float]:
    """Return the thresholds on similarity and margin that call most of `unknown` unknown.

    floor(target * n) known pictures may be lost. Of these 0/20 to 20/20 are given to the similarity and the
    others to the margin, and each threshold is as high as that allows. Of the pairs of thresholds the one
    that finds most of `unknown` is taken; of equal ones that with the higher similarity.

    Args:
        known: Scores [n] of pictures of known products.
        unknown: Scores [m] of pictures of unknown products.
        target: The share of `known` that may lie below the thresholds, from 0 to 1.
    """
    sorted_similarity, n = np.sort(known.similarity), len(known.similarity)
    lost = int(target * n)
    pairs = []
    for lost_by_similarity in sorted({lost * step // STEPS for step in range(STEPS + 1)}):
        similarity = sorted_similarity[lost_by_similarity]
        kept = np.sort(known.margin[known.similarity >= similarity])
        margin = kept[lost - (n - len(kept))]
        called = int(((unknown.similarity < similarity) | (unknown.margin < margin)).sum())
        pairs.append((called, float(similarity), float(margin)))
    return max(pairs)[1:]


def scores_of(lists: list[list[tuple[int, float]]]) -> Scores:
    """Return the scores of pictures, given each one's list of (row, cosine) of its nearest products."""
    cosines = [[*(cosine for _, cosine in nearest[:2]), NO_COSINE][:2] for nearest in lists]
    best = np.array(cosines, np.float64).reshape(-1, 2)
    return Scores(best[:, 0], best[:, 0] - best[:, 1])
