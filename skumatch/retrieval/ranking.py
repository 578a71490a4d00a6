"""Ranked lists: for each query the nearest SKUs of the gallery, and figures of the whole list of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from skumatch.errors import DataError
from skumatch.retrieval.metrics import Labels, Places
from skumatch.retrieval.search import Vectors

RANKING_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("query_sku", pa.string()),
        ("rank", pa.int64()),  # among distinct SKUs, from 1
        ("sku", pa.string()),
        ("similarity", pa.float32()),  # of the SKU's best image
        ("gallery_id", pa.string()),  # that image
        ("position", pa.int64()),  # its place among all gallery images, from 1
    ]
)


@dataclass(frozen=True, eq=False)
class Depth:
    """Figures of each query's whole list of images: arrays [n].

    Attributes:
        right: R, the number of images of the query's SKU that can be found.
        first: Place of the first of them, from 1; 0 if there is none.
        average_precision: Of the first R images.
        r_precision: Precision of the first R images.
        voted: The SKU that the nearest images vote for.
    """

    right: Places
    first: Places
    average_precision: NDArray[np.float64]
    r_precision: NDArray[np.float64]
    voted: Labels


@dataclass(frozen=True, eq=False)
class Ranking:
    """The nearest distinct SKUs of each query, w = min(5, SKUs of the gallery).

    Attributes:
        query_ids: [n], sorted.
        query_skus: [n].
        skus: [n, w], the nearest SKUs, best first; "" where a list is shorter.
        similarities: [n, w], of each SKU's best image.
        gallery_ids: [n, w], that image.
        positions: [n, w], its place among all gallery images, from 1.
        depth: Figures of the whole lists; None in a ranking that was read from a frame, which doesn't hold
            them.
    """

    query_ids: Labels
    query_skus: Labels
    skus: Labels
    similarities: Vectors
    gallery_ids: Labels
    positions: Places
    depth: Depth | None = None

    def __len__(self) -> int:
        return len(self.query_ids)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per query and rank, sorted; columns as in RANKING_SCHEMA."""
        count, width = self.skus.shape
        columns = {
            "query_id": np.repeat(self.query_ids, width),
            "query_sku": np.repeat(self.query_skus, width),
            "rank": np.tile(np.arange(1, width + 1), count),
            "sku": self.skus.ravel(),
            "similarity": self.similarities.ravel(),
            "gallery_id": self.gallery_ids.ravel(),
            "position": self.positions.ravel(),
        }
        return pd.DataFrame(columns)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Ranking:
        """Read a ranking from a frame that `to_frame` made.

        Raises:
            DataError: The frame has other columns, or rows are missing or out of order.
        """
        if list(frame.columns) != RANKING_SCHEMA.names:
            raise DataError(
                "The ranked lists have other columns than this version writes; run the evaluate stage again."
            )
        width = max(1, int(frame["rank"].max())) if len(frame) else 1
        text = {
            name: frame[name].to_numpy(dtype=object)
            for name in ("query_id", "query_sku", "sku", "gallery_id")
        }
        ids = text["query_id"][::width]
        ranks = np.tile(np.arange(1, width + 1), len(ids))
        whole = np.array_equal(np.repeat(ids, width), text["query_id"]) and np.array_equal(
            ranks, frame["rank"]
        )
        if not whole or len(set(ids)) != len(ids):
            raise DataError(
                "The ranked lists have rows missing or out of order; run the evaluate stage again."
            )
        lists = {name: text[name].reshape(-1, width) for name in ("sku", "gallery_id")}
        similarities = frame["similarity"].to_numpy(dtype=np.float32).reshape(-1, width)
        positions = frame["position"].to_numpy(dtype=np.int64).reshape(-1, width)
        return cls(
            ids, text["query_sku"][::width], lists["sku"], similarities, lists["gallery_id"], positions
        )


def pooled(rankings: Sequence[Ranking]) -> Ranking:
    """Concatenate the lists of several draws; a photo counts once per draw."""
    width = min(ranking.skus.shape[1] for ranking in rankings)

    def column(parts: Sequence[Any], name: str) -> NDArray[Any]:
        arrays = [getattr(part, name) for part in parts]
        return np.concatenate([array if array.ndim == 1 else array[:, :width] for array in arrays])

    lists = {field.name: column(rankings, field.name) for field in fields(Ranking) if field.name != "depth"}
    depths = [ranking.depth for ranking in rankings if ranking.depth]
    depth = (
        {field.name: column(depths, field.name) for field in fields(Depth)}
        if len(depths) == len(rankings)
        else None
    )
    return Ranking(**lists, depth=Depth(**depth) if depth else None)
