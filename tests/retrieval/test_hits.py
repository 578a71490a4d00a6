"""The table of hits for the gate: complete, ordered, and paired only on equal queries."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from skumatch.errors import DataError
from skumatch.files import write_parquet
from skumatch.retrieval.hits import HITS_SCHEMA, hits_table, pair


def rows(*triples: tuple[str, str, bool]) -> pd.DataFrame:
    return pd.DataFrame(list(triples), columns=["query", "sku", "hit"])


def table(flip: bool = False) -> pd.DataFrame:
    full = rows(("q2", "b", not flip), ("q1", "a", True), ("q3", "b", False))
    return hits_table({"full": full, "k5": rows(("1/q1", "a", True), ("0/q1", "a", flip)), "unseen": rows()})


def test_a_table_is_sorted_and_leaves_out_empty_slices(tmp_path: Path) -> None:
    made = table()
    assert made[["slice", "query"]].apply(tuple, axis=1).tolist() == [
        ("full", "q1"), ("full", "q2"), ("full", "q3"), ("k5", "0/q1"), ("k5", "1/q1"),
    ]  # fmt: skip
    write_parquet(tmp_path / "hits.parquet", made, HITS_SCHEMA)
    again = pq.read_table(tmp_path / "hits.parquet")
    assert (
        again.schema.names == ["slice", "query", "sku", "hit"]
        and again.to_pandas()["hit"].tolist() == made["hit"].tolist()
    )


def test_a_query_that_is_twice_in_a_slice_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="twice"):
        hits_table({"full": rows(("q1", "a", True), ("q1", "a", False))})


def test_hits_are_paired_by_query_whatever_the_order_of_rows() -> None:
    pairs = pair(table(), table(flip=True).iloc[::-1])
    assert set(pairs) == {"full", "k5"}
    assert pairs["full"].skus.tolist() == ["a", "b", "b"]
    assert pairs["full"].challenger.tolist() == [True, True, False] and pairs["full"].champion.tolist() == [
        True,
        False,
        False,
    ]
    assert pairs["k5"].champion.tolist() == [True, True]


@pytest.mark.parametrize("spoil", ["query", "sku", "slice"])
def test_other_queries_are_not_compared(spoil: str) -> None:
    made = table()
    other = (
        made[made["slice"].ne("k5")] if spoil == "slice" else made.replace({spoil: {"q1": "q9", "a": "c"}})
    )
    with pytest.raises(DataError, match="different queries in the slice"):
        pair(made, other)


@pytest.mark.parametrize("spoil", ["columns", "twice"])
def test_tables_of_another_form_are_refused(spoil: str) -> None:
    made = table()
    other = made.drop(columns="sku") if spoil == "columns" else pd.concat([made, made])
    with pytest.raises(DataError, match="run the evaluate stage again"):
        pair(made, other)
