"""From when on a picture is said to show a product that is not in the gallery: two thresholds, and how they are fitted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from skumatch.retrieval.metrics import Flags, Floats

STEPS = 20  # ways to share between the two thresholds what may be lost
LEAST_SKUS = 10  # to fit on: rates differ from SKU to SKU ...
LEAST_LOST = 5  # ... and a quantile with fewer pictures below it is chance
NO_COSINE = -1.0  # to a SKU that there is none of


class Scores(NamedTuple):
    """Of each picture, arrays [n]: cosine to its best gallery image, and how much less it is to the best of any second SKU."""

    similarity: Floats
    margin: Floats

    def only(self, chosen: Flags) -> Scores:
        return Scores(self.similarity[chosen], self.margin[chosen])


class Thresholds(BaseModel):
    """thresholds.json: a picture below either is called unknown; None is no threshold.

    target: the share of known products' pictures that may be called so. fitted_on: which pictures stood for
    them, or why none did; pictures, skus: how many. called: the share of them below the thresholds. found:
    the same if their own SKU was not in the gallery.
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
        return self.similarity is not None or self.margin is not None

    def unknown(self, scores: Scores) -> Flags:
        """Whether each picture [n] is called unknown."""
        below = np.zeros(len(scores.similarity), np.bool_)
        for values, least in zip(scores, (self.similarity, self.margin), strict=True):
            if least is not None:
                below |= values < least
        return below


def enough(pictures: int, skus: int, target: float) -> bool:
    """Whether a share of `target` can be read off so many pictures of so many SKUs."""
    return skus >= LEAST_SKUS and pictures * target >= LEAST_LOST


def fit(known: Scores, unknown: Scores, target: float) -> tuple[float, float]:
    """Thresholds on similarity and margin below which at most a share `target` of `known` lies, and as much of `unknown` as can be.

    Of the floor(target * n) known pictures that may be lost, 0/20 to 20/20 are given to the similarity, the others to the margin, each
    threshold as high as that allows; the pair that finds most of `unknown` is taken, of equal ones that with the higher similarity.
    """
    ordered, n = np.sort(known.similarity), len(known.similarity)
    lost = int(target * n)
    pairs = []
    for given in sorted({lost * step // STEPS for step in range(STEPS + 1)}):
        similarity = ordered[given]
        kept = np.sort(known.margin[known.similarity >= similarity])
        margin = kept[lost - (n - len(kept))]
        found = int(((unknown.similarity < similarity) | (unknown.margin < margin)).sum())
        pairs.append((found, float(similarity), float(margin)))
    return max(pairs)[1:]


def scores_of(lists: list[list[tuple[int, float]]]) -> Scores:
    """Cosine to the best product, and how much less it is to the second."""
    cosines = [[*(cosine for _, cosine in nearest[:2]), NO_COSINE][:2] for nearest in lists]
    best = np.array(cosines, np.float64).reshape(-1, 2)
    return Scores(best[:, 0], best[:, 0] - best[:, 1])
