"""Ranked lists: for each query the gallery's images in order, and what the order says of its SKU."""

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
    """What the whole list of images says, query by query: arrays [n].

    right: R, the images of the query's SKU that can be found. first: place of the first of them, from 1; 0 if
    there is none. average_precision, r_precision: of the first R images. voted: the SKU that the nearest
    images vote for.
    """

    right: Places
    first: Places
    average_precision: NDArray[np.float64]
    r_precision: NDArray[np.float64]
    voted: Labels


@dataclass(frozen=True, eq=False)
class Ranking:
    """For each query, in order of its id, the nearest distinct SKUs: arrays [n] and [n, w], w = min(5, gallery SKUs).

    `depth` is known to who ranked; it is not kept in the frame.
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
        """One row a query and rank, sorted; columns as in RANKING_SCHEMA."""
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
        """Read back what `to_frame` made. Raises DataError for other columns or lists that are not whole."""
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
    """The lists of several draws as one; a photo counts once a draw."""
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
