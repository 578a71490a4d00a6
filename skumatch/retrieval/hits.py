"""The hits of one encoder query by query, in named slices; the gate compares two encoders by them.

full: all scored queries. tail: queries of SKUs with few gallery images. unseen: queries of the protocol
`unseen`. near_duplicate_free: queries whose own duplicates are left out of the gallery. k5: queries of the
protocol `k5`, named DRAW/ID.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from skumatch.errors import DataError
from skumatch.retrieval.figures import PairedHits
from skumatch.retrieval.metrics import Flags, Labels

HITS_SCHEMA = pa.schema(
    [("slice", pa.string()), ("query", pa.string()), ("sku", pa.string()), ("hit", pa.bool_())]
)
KEY = ["slice", "query"]


def hits_table(slices: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one table of the slices' rows (query, sku, hit) and names, sorted by slice and query.

    A slice without rows is left out.
    """
    named = [rows.assign(slice=name) for name, rows in slices.items()]
    table: pd.DataFrame = pd.concat(named)[HITS_SCHEMA.names].sort_values(KEY, ignore_index=True)
    assert not table.duplicated(KEY).any(), "a query is twice in a slice"
    return table


def pair(challenger: pd.DataFrame, champion: pd.DataFrame) -> dict[str, PairedHits]:
    """Return the hits of both encoders on the same queries, by slice; a slice that both lack is absent.

    Raises:
        DataError: The tables don't have the same queries of the same SKUs, or a table was not made by
            `hits_table`.
    """
    for table in (challenger, champion):
        if list(table.columns) != HITS_SCHEMA.names or table.duplicated(KEY).any():
            raise DataError(
                "The tables of hits are none that this version writes; run the evaluate stage again."
            )
    first, second = (_by_slice(table) for table in (challenger, champion))
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second or not _same_queries(first[name], second[name]):
            fault = f"Challenger and champion were asked different queries in the slice '{name}'"
            raise DataError(f"{fault}, so they can't be compared; run the embed stage again.")
    return {name: PairedHits(_skus(rows), _flags(rows), _flags(second[name])) for name, rows in first.items()}


def _by_slice(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(name): rows for name, rows in table.sort_values(KEY).groupby("slice")}


def _same_queries(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    return all(np.array_equal(first[name].to_numpy(), second[name].to_numpy()) for name in ("query", "sku"))


def _skus(rows: pd.DataFrame) -> Labels:
    return rows["sku"].to_numpy(dtype=object)


def _flags(rows: pd.DataFrame) -> Flags:
    return rows["hit"].to_numpy(dtype=np.bool_)
