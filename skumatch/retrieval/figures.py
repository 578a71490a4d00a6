"""The figures of an evaluation as records: what the gate, the report and the JSON of `skumatch evaluate` carry."""

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
    """Two-sided intervals of the headline figures. clusters: what was resampled.

    None where that is not told.
    """

    top1: Bounds
    top3: Bounds
    top5: Bounds
    confidence: float
    method: str = METHOD
    clusters: Count | None = None


class NearDuplicateFree(_Record):
    """Top-1 if the gallery held no duplicate of the query asked. without_partner: queries that then have no image of their SKU left."""

    top1: float
    interval: Bounds
    n: Count
    without_partner: Count


class Slice(_Record):
    """Top-1 of some of the scored queries. family: what they were told apart by. about: what is in the slice, for a reader."""

    family: str
    name: str
    about: str = ""
    n: Count
    skus: Count
    top1: float
    interval: Bounds


class Evaluation(_Record):
    """How well one encoder finds the right SKU. Shares are of scored queries, from 0 to 1.

    topK: the right SKU is among the K nearest distinct SKUs. image_topK: among the SKUs of the K nearest
    images. n: queries scored. without_partner: queries whose SKU has no gallery image, left out of every
    figure. skus: SKUs among scored queries. macro_top1: mean over SKUs of their top-1. hashes: what was
    evaluated, by name. near_duplicate_free: top-1 with duplicates of the query left out of the gallery; None
    where duplicates were not looked for. map_r, r_precision, mrr: means over queries, of the whole list of
    images. scorers: top-1 by the name of how neighbours become an answer. unknown: how pictures of unknown
    products are told; None where nothing stood for them.
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
    """Top-1 hits of two encoders on the same scored queries: arrays [n], SKU and the two hits of each query."""

    skus: Labels
    challenger: Flags
    champion: Flags
