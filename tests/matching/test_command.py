"""`skumatch match` of many pictures, as a person types it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from skumatch.errors import ParameterError
from tests.cli import Cli


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli.make(tmp_path_factory.mktemp("match"))


def test_a_folder_becomes_a_table_and_a_page(cli: Cli, bundle_folder: Path, folder: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "m.parquet", tmp_path / "m.html"
    first = cli("match", folder, "--model", bundle_folder, "--out", out, "--html", page)
    assert first.code == 0, first.err
    assert pq.read_metadata(out).num_rows == 14 and "6 products" in first.out and "no-image 1" in first.out
    assert str(out) in first.out and str(page) in first.out and "The page shows no gallery pictures" in first.out
    assert page.read_text("utf-8").count("<img ") == 13
    again = cli("match", folder, "--model", bundle_folder, "--out", out)
    assert again.code == 0 and "is up to date" in again.out


def test_many_pictures_need_a_place(cli: Cli, bundle_folder: Path, folder: Path) -> None:
    refused = cli("match", folder, "--model", bundle_folder)
    assert refused.code == ParameterError.exit_code and "give --out matches.parquet" in refused.err
