"""`skumatch match` of many pictures, as a person types it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from skumatch.errors import DataError, ImageError, ParameterError
from tests.cli import Cli


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli.make(tmp_path_factory.mktemp("match"))


def test_a_folder_becomes_a_table_and_a_page(
    cli: Cli, bundle_folder: Path, folder: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "m.parquet", tmp_path / "m.html"
    first = cli("match", folder, "--model", bundle_folder, "--out", out, "--html", page)
    assert first.code == 0, first.err
    assert pq.read_metadata(out).num_rows == 14 and "6 products" in first.out and "no-image 1" in first.out
    assert (
        str(out) in first.out and str(page) in first.out and "The page shows no gallery pictures" in first.out
    )
    assert page.read_text("utf-8").count("<img ") == 13
    again = cli("match", folder, "--model", bundle_folder, "--out", out)
    assert again.code == 0 and "is up to date" in again.out


def test_many_pictures_need_a_place(cli: Cli, bundle_folder: Path, folder: Path) -> None:
    refused = cli("match", folder, "--model", bundle_folder)
    assert refused.code == ParameterError.exit_code and "give --out matches.parquet" in refused.err


def test_a_table_without_one_readable_picture_ends_with_an_error(
    cli: Cli, bundle_folder: Path, tmp_path: Path
) -> None:
    """The table has a reason for each row, so a second call does nothing and ends with the same error."""
    (tmp_path / "t.csv").write_text("path\ngone.png\n", "utf-8")
    for _ in range(2):
        ended = cli("match", tmp_path / "t.csv", "--model", bundle_folder, "--out", tmp_path / "m.parquet")
        assert ended.code == ImageError.exit_code and "None of the pictures could be read" in ended.err
        assert "missing 1" in ended.out
    assert pq.read_table(tmp_path / "m.parquet")["problem"].to_pylist() == ["missing"]


def test_a_refusal_comes_before_the_model_and_the_output(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path\né.png\n".encode("latin-1"))
    ended = cli("match", tmp_path / "t.csv", "--model", "champion", "--out", tmp_path / "new/m.parquet")
    assert ended.code == DataError.exit_code and "byte 0xE9 in line 2" in ended.err, ended
    assert not (tmp_path / "new").exists()
    (tmp_path / "m.parquet").write_text("mine")
    ended = cli("match", tmp_path / "gone.png", "--model", "champion", "--out", tmp_path / "m.parquet")
    assert ended.code == DataError.exit_code and "no table of matches" in ended.err, ended


def test_a_table_can_be_csv(cli: Cli, bundle_folder: Path, folder: Path, tmp_path: Path) -> None:
    """It has the columns and values of the Parquet table: lists as JSON, empty cells for nulls."""
    for out in ("m.parquet", "m.csv", "m.csv"):  # a finished CSV is matched anew
        ended = cli("match", folder, "--model", bundle_folder, "--top-k", "2", "--out", tmp_path / out)
        assert ended.code == 0 and "no-image 1" in ended.out and str(tmp_path / out) in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv", "m.parquet", "photos"]
    expected = pq.read_table(tmp_path / "m.parquet")
    with (tmp_path / "m.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == expected.column_names and len(rows) == expected.num_rows
    for row, wanted in zip(rows, expected.to_pylist(), strict=True):
        assert row["id"] == wanted["id"] and row["sku"] == (wanted["sku"] or "")
        assert row["unknown"] == {True: "true", False: "false", None: ""}[wanted["unknown"]]
        assert row["problem"] == (wanted["problem"] or "")
        for name in ("skus", "similarities", "gallery_ids"):
            cell = json.loads(row[name]) if row[name] else None
            assert cell == (pytest.approx(wanted[name]) if name == "similarities" and cell else wanted[name])


def test_a_csv_that_is_no_table_of_matches_is_kept(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("sku,price\ncola,1\n")
    ended = cli("match", tmp_path / "gone.png", "--model", "champion", "--out", tmp_path / "m.csv")
    assert ended.code == DataError.exit_code and "no table of matches" in ended.err, ended
    assert (tmp_path / "m.csv").read_text() == "sku,price\ncola,1\n"
