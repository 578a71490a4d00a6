"""Shops' lists of products: a file for all pictures, or a column with a list a row."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skumatch.bundle import Bundle
from skumatch.data.images import decode
from skumatch.errors import DataError
from skumatch.matching import batch as batches
from skumatch.matching.batch import MatchPlan, match_all, matching
from skumatch.matching.pictures import list_pictures, open_pictures, shop_lists
from skumatch.matching.shop_lists import Assortments, ShopList, look_up, read_list
from tests.cli import Cli
from tests.conftest import draw
from tests.matching.conftest import CPU

ODD = ["Milk, 1 l", 'Eggs; "large"', "可口可乐", "[tea]"]


def lists_of(table: Path) -> list[ShopList | None]:
    return shop_lists(list_pictures([table]))


def names_of(table: Path) -> list[tuple[str, ...] | None]:
    return [shop.names if shop else None for shop in lists_of(table)]


@pytest.fixture
def shop_file(tmp_path: Path) -> Path:
    path = tmp_path / "lists" / "a shop, 可.txt"
    path.parent.mkdir()
    path.write_text("\ufeffsku 1\n\nSKU  1\nsku 2\n", "utf-8")
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.string(), 4),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
        pa.list_(pa.binary()),
    ],
    ids=str,
)
def test_a_parquet_column_of_lists_gives_each_row_its_own(tmp_path: Path, kind: pa.DataType) -> None:
    fixed = pa.types.is_fixed_size_list(kind)  # arrow can't read back one with a row of none
    lists = [ODD, ODD if fixed else None, ODD[::-1]]
    column = pa.array(lists, kind) if fixed else pa.array(lists, pa.list_(pa.string())).cast(kind)
    pq.write_table(pa.table({"path": ["a", "b", "c"], "assortment": column}), tmp_path / "t.parquet")
    assert names_of(tmp_path / "t.parquet") == [names and tuple(names) for names in lists]


def test_a_column_without_any_list_restricts_nothing(tmp_path: Path) -> None:
    """pandas writes a column of None as one without a type."""
    pq.write_table(pa.table({"path": ["a", "b"], "assortment": [None, None]}), tmp_path / "t.parquet")
    assert names_of(tmp_path / "t.parquet") == [None, None]


@pytest.mark.parametrize("table", ["t.csv", "t.parquet"])
def test_a_cell_of_text_is_json_or_the_path_of_a_list(shop_file: Path, tmp_path: Path, table: str) -> None:
    nfd = unicodedata.normalize("NFD", "lists/a shop, 可.txt")
    cells = [json.dumps(ODD), json.dumps(ODD, ensure_ascii=False), f" {nfd} ", str(shop_file), "", " \t"]
    rows = {"path": [f"{number}.png" for number in range(6)], "assortment": cells}
    if table == "t.csv":
        import pandas as pd

        pd.DataFrame(rows).to_csv(tmp_path / table, index=False)
    else:
        pq.write_table(pa.table(rows), tmp_path / table)
    listed = ("sku 1", "SKU  1", "sku 2")
    assert names_of(tmp_path / table) == [tuple(ODD)] * 2 + [listed] * 2 + [None] * 2


def test_a_list_that_many_rows_have_is_kept_once(tmp_path: Path, shop_file: Path) -> None:
    columns = {"path": list("abcd"), "assortment": [["x"], ["y"], ["x"], ["x"]]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert len({id(shop) for shop in lists_of(tmp_path / "t.parquet")}) == 2
    columns["assortment"] = ["lists/a shop, 可.txt"] * 4
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert len({id(shop) for shop in lists_of(tmp_path / "t.parquet")}) == 1


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([["a"], []], "Row 1 .* has an `assortment` without names; name products, or leave the cell empty"),
        ([["a"], ["", None, "\u200b"]], "Row 1 .* has an `assortment` without names"),
        (["[]"], "Row 0 .* has an `assortment` without names"),
        (['["a", 1]'], "Row 0 .* has an `assortment` with 1 in it, which is no text; write .*SKU a line"),
        (['["a"'], "Row 0 .* with ..a., which is no JSON list"),
        (["[a, b]"], "Row 0 .* which is no JSON list"),
        (["[" * 100_000], "Row 0 .* which is no JSON list"),
        (["gone.txt"], "Row 0 .*: There is no .*gone.txt; give a text file with one SKU a line"),
        (["empty.txt"], "Row 0 .*: .*empty.txt has no names in it"),
        (["a\0b"], "Row 0 .* with 'a.x00b', which no file can be called"),
        (["."], "Row 0 .* is a folder"),
        ([1], "`assortment` of the type int64; write it as lists of texts, or as text"),
        ([[1]], "`assortment` of the type list"),
        ([[["a"]]], "`assortment` of the type list"),
        ([{"a": "b"}], "`assortment` of the type struct"),
        ([[b"\xff"]], "can't be read as a Parquet table"),
    ],
)
def test_a_cell_that_is_no_list_is_one_sentence(tmp_path: Path, cells: list[Any], words: str) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    columns = {"path": [f"{number}.png" for number in range(len(cells))], "assortment": cells}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=words):
        list_pictures([tmp_path / "t.parquet"])


def test_the_output_of_a_match_is_no_assortment(tmp_path: Path) -> None:
    """Its column `skus` names the nearest products, which is another thing."""
    pq.write_table(pa.table({"path": ["a"], "skus": [["x", "y"]]}), tmp_path / "t.parquet")
    assert names_of(tmp_path / "t.parquet") == [None]


def run(bundle: Bundle, place: Path, out: Path, common: ShopList | None = None) -> tuple[int, int]:
    listings = list_pictures([place])
    with matching(out) as parts:
        assortments = look_up(bundle, shop_lists(listings), common)
        plan = MatchPlan(bundle, open_pictures(listings, parts), 6, out, assortments)
        return match_all(plan, parts, 2, CPU)


@pytest.fixture
def table(folder: Path) -> Path:
    """Three assortments for seven rows, of which one is no picture, and a row without an assortment."""
    shops = [["sku 0", "sku 1"], ["sku 4"], ["SKU 5", "sku 0", "new"]]
    numbers = [0, 1, 2, 0, 1, 2, 0]
    paths = [f"night/{number}.png" for number in range(6)] + ["broken.jpg", "other.png"]
    columns = {"path": paths, "assortment": [*(shops[number] for number in numbers), None]}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("part", [1, 3, 2048])
def test_each_row_is_matched_with_its_own_products(
    bundle: Bundle, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(batches, "PART", part)
    run(bundle, table, tmp_path / "m.parquet")
    rows = pq.read_table(tmp_path / "m.parquet").to_pylist()
    for row, cell in zip(rows, pq.read_table(table)["assortment"].to_pylist(), strict=True):
        if row["problem"]:
            continue
        picture = decode((table.parent / row["id"]).read_bytes())
        [matches] = bundle.match([picture], 6, bundle.assortment(cell) if cell else None)
        assert row["skus"] == [match.sku for match in matches], row["id"]
        assert row["gallery_ids"] == [match.gallery_id for match in matches]
        assert row["similarities"] == pytest.approx([match.similarity for match in matches], abs=1e-6)
        sku = None if matches[0].unknown else matches[0].sku
        assert (row["unknown"], row["sku"]) == (matches[0].unknown, sku)
    assert [len(row["skus"] or ()) for row in rows] == [2, 1, 2, 2, 1, 2, 0, 6]
    assert [row["sku"] for row in rows] == ["sku 0", None, None, None, "sku 4", "sku 5", None, None]


def test_rows_with_one_assortment_are_searched_together(
    bundle: Bundle, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = list[int](), Bundle.nearest

    def counted(self: Bundle, vectors: np.ndarray, *words: Any) -> Any:
        calls.append(len(vectors))
        return real(self, vectors, *words)

    monkeypatch.setattr(Bundle, "nearest", counted)
    run(bundle, table, tmp_path / "m.parquet")
    assert sorted(calls) == [1, 2, 2, 2]


def test_a_stopped_call_goes_on_with_each_rows_products(
    bundle: Bundle, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PART", 4)
    run(bundle, table, tmp_path / "whole.parquet")
    out, real, written = tmp_path / "m.parquet", pq.write_table, list[Path]()

    def stopping(part: pa.Table, where: Path, **named: Any) -> None:
        written.append(where)
        if len(written) == 2:
            raise KeyboardInterrupt
        real(part, where, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batches.pq, "write_table", stopping)
        run(bundle, table, out)
    assert run(bundle, table, out) == (4, 8)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_list_for_all_is_for_rows_without_their_own(bundle: Bundle, table: Path, tmp_path: Path) -> None:
    common = ShopList(("sku 3",), "shop.txt")
    run(bundle, table, tmp_path / "m.parquet", common)
    rows = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert [len(row["skus"] or ()) for row in rows] == [2, 1, 2, 2, 1, 2, 0, 1]
    run(bundle, table.parent / "night", tmp_path / "n.parquet", common)
    assert {tuple(row["skus"]) for row in pq.read_table(tmp_path / "n.parquet").to_pylist()} == {("sku 3",)}


def test_other_products_make_another_table(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    """And products that the gallery lacks, or another spelling, make no difference."""
    out, place = tmp_path / "m.parquet", folder / "night"
    assert run(bundle, place, out) == (0, 6)
    assert run(bundle, place, out, ShopList(("sku 1",), "x")) == (0, 6)
    assert run(bundle, place, out, ShopList(("new", "SKU 1"), "y")) == (6, 6)
    assert run(bundle, place, out, ShopList(("sku 1", "sku 2"), "x")) == (0, 6)
    assert run(bundle, place, out) == (0, 6)


def test_products_that_the_gallery_lacks_are_one_sentence(bundle: Bundle, table: Path) -> None:
    assert look_up(bundle, [None, None], None) is None
    looked_up = look_up(bundle, lists_of(table), None)
    assert isinstance(looked_up, Assortments) and looked_up.warning
    assert looked_up.warning.startswith("1 of 3 products of row 2 of") and looked_up.warning.endswith(
        "'new'."
    )
    first, second = ShopList(("sku 1", "a", "b"), "x"), ShopList(("sku 1", "B", "c"), "y")
    looked_up = look_up(bundle, [first, second, ShopList(("sku 2",), "z")], None)
    assert looked_up and looked_up.warning
    assert looked_up.warning.startswith(
        "2 of 3 assortments have products that are not in the model's gallery"
    )
    assert looked_up.warning.endswith("'a', 'B', 'c'.")
    with pytest.raises(DataError, match="None of the 2 products of y is in the model's gallery"):
        look_up(bundle, [first, ShopList(("no", "none"), "y")], None)


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli.make(tmp_path_factory.mktemp("shops"))


def test_a_few_pictures_are_matched_with_a_shops_list(cli: Cli, bundle_folder: Path, tmp_path: Path) -> None:
    picture, shop = draw(tmp_path / "p.png", "sku 4"), tmp_path / "shop.txt"
    shop.write_bytes("sku  4\r\nSKU 1\r\nnew 可\r\n".encode("utf-16"))
    words = ("match", picture, "--model", bundle_folder, "--skus", shop)
    ended = cli(*words, "--json")
    assert ended.code == 0 and [match["sku"] for match in json.loads(ended.out)[0]] == ["sku 4", "sku 1"]
    assert ended.err.startswith(f"1 of 3 products of {shop} is not in the model's gallery")
    assert ended.err.endswith("matched with it: 'new 可'.\n")
    shop.write_text("sku 1\n")
    assert "the nearest in the assortment" in " ".join(cli(*words).out.split())


def test_a_folder_is_matched_with_a_list(cli: Cli, bundle_folder: Path, folder: Path, tmp_path: Path) -> None:
    shop, out, page = tmp_path / "shop.txt", tmp_path / "m.parquet", tmp_path / "m.html"
    shop.write_text("sku 4\nsku 1\n")
    words = ("match", folder, "--model", bundle_folder, "--skus", shop)
    ended = cli(*words, "--out", out, "--html", page)
    assert ended.code == 0 and ended.err == "" and "of no product in the picture's assortment" in ended.out
    assert "picture's assortment" in page.read_text("utf-8").replace("&#39;", "'")
    lists = pq.read_table(out)["skus"].to_pylist()
    assert {sku for skus in lists for sku in skus or ()} == {"sku 1", "sku 4"}


BAD_LISTS = (
    (b"", "has no names in it"),
    (b"\xff\xfe\x00", "is not UTF-16"),
    (b"x\ny\n", "None of the 2 products"),
)


@pytest.mark.parametrize(("data", "words"), BAD_LISTS)
def test_a_list_that_is_none_is_refused_first(
    cli: Cli,
    bundle_folder: Path,
    folder: Path,
    tmp_path: Path,
    data: bytes,
    words: str,
) -> None:
    shop, out = tmp_path / "shop.txt", tmp_path / "new/m.parquet"
    shop.write_bytes(data)
    more = ("--model", bundle_folder, "--skus", shop)
    cli.refuses(DataError.exit_code, words, "match", folder / "night/1.png", *more)
    cli.refuses(DataError.exit_code, words, "match", folder, *more, "--out", out)
    assert not out.parent.exists()


def test_a_list_that_is_not_there_is_refused_first(cli: Cli, folder: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.txt"
    cli.refuses(DataError.exit_code, "There is no", "match", folder / "night/1.png", "--skus", gone)


def test_a_list_without_an_end_does_not_wait(shop_file: Path) -> None:
    """A pipe without a writer is empty."""
    os.mkfifo(shop_file.with_name("pipe"))
    with pytest.raises(DataError, match="has no names"):
        read_list(shop_file.with_name("pipe"))
