"""The manifest's rows, collected image by image during an import."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from skumatch.data.delivery.examine import PictureFacts
from skumatch.data.delivery.layout import CATALOGUE, SIDES, DeliveredImage, listed
from skumatch.data.manifest import COLUMNS, SCHEMA
from skumatch.data.shards import Spot
from skumatch.errors import DataError

BATCH_ROWS = 8192


class Rows:
    """Rows in column batches: a list of a million dicts would take gigabytes."""

    def __init__(self) -> None:
        self._open: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._spots: list[Spot] = []
        self._skus: dict[str, set[str]] = {side: set() for side in (*SIDES, CATALOGUE)}
        self._catalogue = 0

    def add(self, item: DeliveredImage, length: int, facts: PictureFacts, spot: Spot) -> None:
        """Add the row of an image.

        Args:
            item: the delivered image.
            length: number of its bytes.
            facts: that follow from its bytes.
            spot: its place, as the store gave it.
        """
        row = {
            "id": item.id,
            "sku": item.sku,
            "side": item.side,
            "name": item.name,
            "length": length,
            "shard": "",
            "offset": 0,
        }
        self._open.append(row | facts._asdict())
        self._spots.append(spot)
        self._skus[item.side].add(item.sku)
        self._catalogue += item.side == CATALOGUE
        if len(self._open) == BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._open, schema=SCHEMA))
        self._open = []

    def require_sides(self, path: Path, quarantined: list[dict[str, str]]) -> None:
        """Check that the train and the test side have images.

        Args:
            path: the delivery, for the sentence of an error.
            quarantined: id and reason of each image that can't be used.

        Raises:
            DataError: if a side has no image that can be used.
        """
        reasons = Counter(entry["reason"] for entry in quarantined)
        for side in SIDES:
            if not self._skus[side]:
                aside = f"{len(quarantined)} could not be read: {listed(reasons)}"
                raise DataError(f"{path} has no usable {side} image ({aside}); deliver them again.")

    def table(self, moved: dict[Spot, Spot], shards: list[str]) -> pa.Table:
        """Return the manifest with the images' final places.

        Args:
            moved: old and new place of each image that moved.
            shards: the shards' names; a shard's number is its index.
        """
        self._flush()
        places = [moved.get(spot, spot) for spot in self._spots]
        names = pa.array(shards, pa.string()).take(pa.array([spot.shard for spot in places], pa.int64()))
        table = pa.Table.from_batches(self._batches, SCHEMA)
        for column, values in (
            ("shard", names),
            ("offset", pa.array([spot.offset for spot in places], pa.int64())),
        ):
            table = table.set_column(COLUMNS.index(column), SCHEMA.field(column), values)
        return table

    def counts(self) -> dict[str, int]:
        """Return the counts images, skus (of the shelf), catalogue and catalogue_only."""
        shelf = self._skus["train"] | self._skus["test"]
        only = len(self._skus[CATALOGUE] - shelf)
        return {
            "images": len(self._spots),
            "skus": len(shelf),
            "catalogue": self._catalogue,
            "catalogue_only": only,
        }
