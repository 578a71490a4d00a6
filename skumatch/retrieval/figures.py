"""Records of an evaluation's figures, used by the gate, the report and the JSON of `skumatch evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from skumatch.retrieval.metrics import Flags, Labels
from skumatch.retrieval.openset import OpenSet

METHOD = "cluster bootstrap by SKU, one SKU added"

Protocol = Literal["full", "k5", "test_loo", "unseen", "catalogue"]
Bounds = tuple[float, float]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Intervals(_Record):
    """Two-sided intervals of the headline figures.

    Attributes:
        top1: Bounds of top-1.
        top3: Bounds of top-3.
        top5: Bounds of top-5.
        confidence: Of both sides together, from 0 to 1.
        method: How the intervals were made.
        clusters: Number of clusters resampled; None where it was not recorded.
    """

    top1: Bounds
    top3: Bounds
    top5: Bounds
    confidence: float
    method: str = METHOD
    clusters: Count | None = None


class NearDuplicateFree(_Record):
    """Top-1 with each query's duplicates left out of the gallery.

    Attributes:
        top1: From 0 to 1.
        interval: Two-sided bounds of `top1`.
        n: Number of queries.
        without_partner: Number of queries, not counted in `n`, that have no image of their SKU left.
    """

    top1: float
    interval: Bounds
    n: Count
    without_partner: Count


class Slice(_Record):
    """Top-1 of some of the scored queries.

    Attributes:
        family: The property that the queries were split by.
        name: The slice's name within its family.
        about: Description of the slice for a reader.
        n: Number of queries.
        skus: Number of their SKUs.
        top1: From 0 to 1.
        interval: Two-sided bounds of `top1`.
    """

    family: str
    name: str
    about: str = ""
    n: Count
    skus: Count
    top1: float
    interval: Bounds


class Evaluation(_Record):
    """Figures of one encoder under one protocol; shares are of scored queries, from 0 to 1.

    Attributes:
        protocol: The protocol's name.
        n: Number of queries scored.
        without_partner: Number of queries whose SKU has no gallery image; they are left out of every figure.
        skus: Number of SKUs among scored queries.
        top1: Share of queries whose SKU is the nearest.
        top3: Share of queries whose SKU is among the 3 nearest distinct SKUs.
        top5: Share of queries whose SKU is among the 5 nearest distinct SKUs.
        image_top1: Share of queries whose SKU is that of the nearest image.
        image_top3: Share of queries whose SKU is among those of the 3 nearest images.
        image_top5: Share of queries whose SKU is among those of the 5 nearest images.
        macro_top1: Mean over SKUs of their top-1.
        interval: Intervals of top-1, top-3 and top-5.
        hashes: Hashes of the evaluated encoder, gallery and queries, by name.
        near_duplicate_free: Top-1 with duplicates of the query left out of the gallery; None where there was
            no search for duplicates.
        map_r: Mean average precision at R, over the whole list of images.
        r_precision: Mean precision of the first R images.
        mrr: Mean reciprocal rank of the first right image.
        slices: Top-1 of parts of the queries.
        scorers: Top-1 by the name of the method that turns neighbours into an answer.
        unknown: Figures of pictures of unknown products; None where there were none.
    """

    protocol: Protocol
    n: Count
    without_partner: Count
    skus: Count
    top1: float
    top3: float
    top5: float
    image_top1: float
    image_top3: float
    image_top5: float
    macro_top1: float
    interval: Intervals
    hashes: dict[str, str] = {}
    near_duplicate_free: NearDuplicateFree | None = None
    map_r: float | None = None
    r_precision: float | None = None
    mrr: float | None = None
    slices: tuple[Slice, ...] = ()
    scorers: dict[str, float] = {}
    unknown: OpenSet | None = None


@dataclass(frozen=True, eq=False)
class PairedHits:
    """Top-1 hits of two encoders on the same scored queries.

    Attributes:
        skus: [n], the queries' SKUs.
        challenger: [n], the challenger's hits.
        champion: [n], the champion's hits.
    """

    skus: Labels
    challenger: Flags
    champion: Flags
