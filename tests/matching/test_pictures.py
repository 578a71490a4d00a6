"""Kinds of input that can be matched, and the name of each picture."""

from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skumatch.data.images import REASONS, Images, decode
from skumatch.data.manifest import SCHEMA
from skumatch.errors import DataError, ImageError, StorageError
from skumatch.matching import given as givens
from skumatch.matching import tables
from skumatch.matching.pictures import gallery_pictures, list_pictures
from tests.conftest import ROOT, draw
from tests.matching.conftest import opened


def test_a_folder_is_listed_by_its_paths_without_what_is_no_picture(folder: Path, tmp_path: Path) -> None:
    names = opened([folder], tmp_path).ids
    assert names == sorted(names) and len(names) == 14
    assert {"morning/0.png", "broken.jpg"} < set(names) and "notes.txt" not in names


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to(folder / "other.png")
    (folder / "again").symlink_to(folder / "night")
    assert len(opened([folder], tmp_path)) == 14


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_a_table_of_bytes_is_read_in_the_order_of_its_rows(folder: Path, tmp_path: Path, kind: str) -> None:
    data = [path.read_bytes() for path in sorted((folder / "night").iterdir(), reverse=True)]
    column = data if kind == "bytes" else [{"bytes": content, "path": None} for content in data]
    pq.write_table(
        pa.table({"image": column, "id": [f"p{number}" for number in range(6)]}),
        tmp_path / "t.parquet",
        row_group_size=2,
    )
    pictures = opened([tmp_path / "t.parquet"], tmp_path)
    assert pictures.ids == [f"p{number}" for number in range(6)]
    assert [pictures.read_bytes(i) for i in range(6)] == data


def test_without_ids_rows_are_numbered(folder: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [(folder / "other.png").read_bytes()]}), tmp_path / "t.parquet")
    assert opened([tmp_path / "t.parquet"], tmp_path).ids == ["0"]


def test_a_table_of_paths_is_read_from_its_own_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"path": ["other.png", str(folder / "night/0.png")]}), folder / "t.parquet")
    monkeypatch.chdir(tmp_path)
    pictures = opened([folder / "t.parquet"], tmp_path)
    assert [pictures.read_bytes(i) for i in range(2)] == [
        (folder / name).read_bytes() for name in ("other.png", "night/0.png")
    ]


def test_bytes_have_the_age_of_their_table(folder: Path, tmp_path: Path) -> None:
    """Else every start would look like other pictures."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [(folder / "other.png").read_bytes()]}), path)
    os.utime(path, ns=(5, 5_000_000_000))
    assert opened([path], tmp_path).extents[0].stamp() == opened([path], tmp_path).extents[0].stamp()
    assert opened([path], tmp_path).extents[0].stamp()[1] == 5_000_000_000


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"photo": [b"x"]}, "no column of pictures .its columns: photo."),
        ({"image": ["text"]}, "no bytes in `image`, whose type is string"),
        ({"image": [[1, 2]]}, "no bytes in `image`, whose type is list"),
        ({"image": [{"path": "a.png"}]}, "no bytes in `image`, whose type is struct"),
        ({"image": [None]}, "no bytes in `image`, whose type is null"),
        ({"image": pa.array([], pa.binary()), "id": pa.array([], pa.string())}, "no rows"),
        ({"image": [b"x", b"y"], "id": ["same", "same"]}, "Two pictures are called same"),
        ({"path": ["a.png", "a.png"]}, "Two pictures are called a.png"),
        ({"path": [1]}, "`path` of the type int64; write it as text"),
        ({"path": ["a", "b"], "id": ["x", None]}, "Row 1 .* has no `id`"),
        ({"path": ["a", "b"], "id": [7, None]}, "Row 1 .* has no `id`"),
        ({"image": [b"x", b"y"], "id": [" ", "x"]}, "Row 0 .* has no `id`"),
        ({"path": ["a"], "id": [1.0]}, "`id` of the type double; write it as text or whole numbers"),
        ({"path": ["a"], "id": [True]}, "`id` of the type bool"),
        ({"path": ["a"], "id": [["x"]]}, "`id` of the type list"),
        ({"path": [b"\xff"]}, "can't be read as a Parquet table"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, columns: dict[str, object], words: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=words):
        opened([tmp_path / "t.parquet"], tmp_path)


def test_what_is_not_there_empty_or_no_table_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no table")
    for path, words in (
        (tmp_path / "gone", "There is no"),
        (tmp_path / "empty", "no pictures"),
        (tmp_path / "t.parquet", "can't be read"),
    ):
        with pytest.raises(DataError, match=words):
            opened([path], tmp_path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    column = pa.array(["a.png"])
    pq.write_table(pa.Table.from_arrays([column, column], ["path", "path"]), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="two columns `path`"):
        list_pictures([tmp_path / "t.parquet"])


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
    ids=str,
)
def test_names_may_be_text_of_any_arrow_type(folder: Path, kind: pa.DataType) -> None:
    names = pa.array(["other.png"]).cast(kind)
    pq.write_table(pa.table({"path": names, "id": names}), folder / "t.parquet")
    pictures = opened([folder / "t.parquet"], folder)
    assert pictures.ids == ["other.png"] and pictures[0].size == (48, 72)


@pytest.mark.parametrize(
    "kind", [pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary())], ids=str
)
def test_bytes_may_be_of_any_arrow_type(folder: Path, tmp_path: Path, kind: pa.DataType) -> None:
    data = (folder / "other.png").read_bytes()
    pq.write_table(pa.table({"image": pa.array([data]).cast(kind), "id": [7]}), tmp_path / "t.parquet")
    pictures = opened([tmp_path / "t.parquet"], tmp_path)
    assert pictures.ids == ["7"] and pictures.read_bytes(0) == data


PATHS = {
    "gone.png": "missing",
    "night": "no-file",
    "pipe.png": "no-file",
    "nul\0.png": "missing",
    "x" * 5000: "missing",
    "other.png/below.png": "missing",
    "~nobody-is-called-so/a.png": "missing",
    "https://example.org/a.png": "missing",
}


def test_a_path_that_leads_to_no_picture_is_that_rows_problem(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    pq.write_table(pa.table({"path": [*PATHS, None, "", " \t", "other.png"]}), folder / "t.parquet")
    pictures = opened([folder / "t.parquet"], folder)
    assert problems(pictures) == [*PATHS.values(), *["no-picture"] * 3, None]
    assert pictures.ids == [*PATHS, *map(str, range(len(PATHS), len(PATHS) + 3)), "other.png"]


def test_bytes_that_are_missing_are_that_rows_problem(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (folder / "other.png").read_bytes()
    monkeypatch.setattr(tables, "MAX_BYTES", len(data))
    pq.write_table(pa.table({"image": [data, None, b"", data + b"\0"]}), tmp_path / "t.parquet")
    assert problems(opened([tmp_path / "t.parquet"], tmp_path)) == [None, "no-picture", "empty", "too-large"]


def test_a_struct_without_bytes_is_found_by_its_path(folder: Path) -> None:
    """Hugging Face's datasets keep the path alone of pictures that aren't embedded."""
    rows = [{"bytes": None, "path": "other.png"}, {"bytes": None, "path": None}, None]
    pq.write_table(
        pa.table({"image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}),
        folder / "t.parquet",
    )
    assert problems(opened([folder / "t.parquet"], folder)) == [None, "no-picture", "no-picture"]


def test_a_file_too_large_or_not_to_be_read_is_a_problem(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = opened([folder / "night"], folder)
    with monkeypatch.context() as patch:
        patch.setattr(givens, "MAX_BYTES", 10)
        assert problems(pictures) == ["too-large"] * 6
    monkeypatch.setattr(givens.os, "access", lambda *_: False)
    assert problems(pictures) == ["forbidden"] * 6


def test_a_disk_that_fails_is_no_rows_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = opened([folder / "night"], folder)

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(givens.os, "stat", failing)
    with pytest.raises(StorageError, match="Input/output error"):
        pictures.read_bytes(0)


def test_paths_are_found_in_either_form_of_unicode_and_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    names = {form: unicodedata.normalize(form, f"é {form}.png") for form in ("NFC", "NFD")}
    for name in names.values():
        draw(tmp_path / name, name)
    draw(tmp_path / "home/a.png", "a")
    other = [unicodedata.normalize("NFD", names["NFC"]), unicodedata.normalize("NFC", names["NFD"])]
    pq.write_table(pa.table({"path": [*other, " ~/a.png\n"]}), tmp_path / "t.parquet")
    assert problems(opened([tmp_path / "t.parquet"], tmp_path)) == [None] * 3


def test_a_table_is_known_by_its_ending_in_any_case_or_its_bytes(folder: Path) -> None:
    for name in ("t.parquet", "T.PARQUET", "table"):
        pq.write_table(pa.table({"path": ["other.png"], "id": ["x"]}), folder / name)
        assert opened([folder / name], folder).ids == ["x"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_csv_of_paths_is_read_by_the_rule_for_texts(folder: Path, encoding: str) -> None:
    (folder / "t.CSV").write_bytes("Path,ID\r\nother.png,007\r\nnight/é.png,NA\r\n".encode(encoding))
    draw(folder / "night/é.png", "x")
    pictures = opened([folder / "t.CSV"], folder)
    assert pictures.ids == ["007", "NA"] and problems(pictures) == [None, None]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.csv", "path\né.png\n".encode("latin-1"), "is not UTF-8 .byte 0xE9 in line 2"),
        ("t.csv", b"path;id\na.png;1\n", "columns of a CSV have commas between them"),
        ("t.csv", b"path\n", "has no rows"),
        ("t.csv", b"", "can't be read as a table"),
        ("t.csv", b"PK\x03\x04", "is a spreadsheet"),
        ("t.tsv", b"path\na.png\n", "is no picture, and no table that can be read"),
        ("t.xlsx", b"PK\x03\x04", "is no picture, and no table that can be read"),
        ("list.txt", b"a.png\n", "is no picture, and no table that can be read"),
    ],
)
def test_another_file_is_taken_for_no_picture(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words):
        list_pictures([tmp_path / name])


def test_a_picture_needs_no_ending_and_a_damaged_one_has_a_row(folder: Path) -> None:
    (folder / "other.png").rename(folder / "picture")
    assert problems(opened([folder / "picture", folder / "broken.jpg"], folder)) == [None, "no-image"]
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(DataError, match="is a device or a pipe"):
        list_pictures([folder / "pipe.png"])


def test_a_table_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table({"image": [bytes(range(256)) * 400, b"x" * 9000], "id": ["a", "b"]}),
        path,
        compression="snappy",
        use_dictionary=False,
    )
    place = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 30 : place + 300] = b"\xff" * 270
    path.write_bytes(data)
    with pytest.raises(DataError, match="can't be read as a Parquet table"):
        opened([path], tmp_path)


def test_the_words_for_problems_are_documented() -> None:
    text = "".join((ROOT / "docs" / name).read_text("utf-8") for name in ("matching.md", "data.md"))
    assert [word for word in (*givens.SENTENCES, *REASONS) if f"| `{word}` |" not in text] == []


def problems(pictures: Images) -> list[str | None]:
    """Why each picture can't be decoded, by the reason's word; None where it can."""
    reasons = list[str | None]()
    for index in range(len(pictures)):
        try:
            pictures.pixels(index)
            reasons.append(None)
        except ImageError as error:
            reasons.append(error.reason)
    return reasons


def test_gallery_pictures_are_those_of_the_same_sku(folder: Path, tmp_path: Path) -> None:
    data = (folder / "other.png").read_bytes()
    (tmp_path / "data/shards").mkdir(parents=True)
    (tmp_path / "data/shards/0").write_bytes(data)
    row = dict.fromkeys(SCHEMA.names) | {
        "id": "train/a/1.png",
        "sku": "a",
        "name": "1.png",
        "shard": "0",
        "offset": 0,
        "length": len(data),
    }
    rows = [row, row | {"id": "train/b/1.png", "sku": "b"}, row | {"id": "test/c/1.png", "sku": "c"}]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "data/manifest.parquet")
    picture = gallery_pictures(tmp_path / "data", ["train/a/1.png", "train/b/1.png"], ["a", "d"])
    assert picture("a") == decode(data)
    assert picture("b") is None and picture("c") is None and picture("d") is None


def test_names_of_any_script_are_kept(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFC", "可口可乐 é.png")
    draw(tmp_path / "p" / name, "x")
    assert opened([tmp_path / "p"], tmp_path).ids == [name]
