"""The figures of an evaluation as records: what the gate, the report and the JSON of `skumatch evaluate` carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from skumatch.retrieval.metrics import Flags, Labels

METHOD = "cluster bootstrap by SKU"

Protocol = Literal["full", "k5", "test_loo", "unseen", "catalogue"]
Bounds = tuple[float, float]


class Intervals(BaseModel):
    """Two-sided intervals of the headline figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top1: Bounds
    top3: Bounds
    top5: Bounds
    confidence: float
    method: str = METHOD


class NearDuplicateFree(BaseModel):
    """Top-1 if the gallery held no duplicate of the query asked. without_partner: queries that then have no image of their SKU left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top1: float
    interval: Bounds
    n: Annotated[int, Field(ge=0)]
    without_partner: Annotated[int, Field(ge=0)]


class Evaluation(BaseModel):
    """How well one encoder finds the right SKU. Shares are of scored queries, from 0 to 1.

    topK: the right SKU is among the K nearest distinct SKUs. image_topK: among the SKUs of the K nearest images.
    n: queries scored. without_partner: queries whose SKU has no gallery image, left out of every figure. skus: SKUs among
    scored queries. macro_top1: mean over SKUs of their top-1. hashes: what was evaluated, by name. near_duplicate_free: top-1
    with duplicates of the query left out of the gallery; None where duplicates were not looked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Protocol
    n: Annotated[int, Field(ge=0)]
    without_partner: Annotated[int, Field(ge=0)]
    skus: Annotated[int, Field(ge=0)]
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


@dataclass(frozen=True, eq=False)
class PairedHits:
    """Top-1 hits of two encoders on the same scored queries: arrays [n], SKU and the two hits of each query."""

    skus: Labels
    challenger: Flags
    champion: Flags
