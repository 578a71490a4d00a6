"""What may be given to be matched, and what each is called."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skumatch.data.images import decode
from skumatch.data.manifest import SCHEMA
from skumatch.errors import DataError
from skumatch.matching.pictures import find_pictures, gallery_pictures
from tests.conftest import draw


def test_a_folder_is_listed_by_its_paths_without_what_is_no_picture(folder: Path, tmp_path: Path) -> None:
    names = find_pictures([folder], tmp_path).ids
    assert names == sorted(names) and len(names) == 14
    assert {"morning/0.png", "broken.jpg"} < set(names) and "notes.txt" not in names


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to(folder / "other.png")
    (folder / "again").symlink_to(folder / "night")
    assert len(find_pictures([folder], tmp_path)) == 14


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_a_table_of_bytes_is_read_in_the_order_of_its_rows(folder: Path, tmp_path: Path, kind: str) -> None:
    data = [path.read_bytes() for path in sorted((folder / "night").iterdir(), reverse=True)]
    column = data if kind == "bytes" else [{"bytes": one, "path": None} for one in data]
    pq.write_table(pa.table({"image": column, "id": [f"p{number}" for number in range(6)]}), tmp_path / "t.parquet", row_group_size=2)
    found = find_pictures([tmp_path / "t.parquet"], tmp_path)
    assert found.ids == [f"p{number}" for number in range(6)]
    assert [found.read_bytes(i) for i in range(6)] == data


def test_without_ids_rows_are_numbered(folder: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [(folder / "other.png").read_bytes()]}), tmp_path / "t.parquet")
    assert find_pictures([tmp_path / "t.parquet"], tmp_path).ids == ["0"]


def test_a_table_of_paths_is_read_from_its_own_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"path": ["other.png", str(folder / "night/0.png")]}), folder / "t.parquet")
    monkeypatch.chdir(tmp_path)
    found = find_pictures([folder / "t.parquet"], tmp_path)
    assert [found.read_bytes(i) for i in range(2)] == [(folder / name).read_bytes() for name in ("other.png", "night/0.png")]


def test_bytes_have_the_age_of_their_table(folder: Path, tmp_path: Path) -> None:
    """Else every start would look like other pictures."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [(folder / "other.png").read_bytes()]}), path)
    os.utime(path, ns=(5, 5_000_000_000))
    assert find_pictures([path], tmp_path).extents[0].stamp() == find_pictures([path], tmp_path).extents[0].stamp()
    assert find_pictures([path], tmp_path).extents[0].stamp()[1] == 5_000_000_000


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"photo": [b"x"]}, "no column of pictures"),
        ({"image": ["text"]}, "no bytes in `image`"),
        ({"image": [b"x", None]}, "Row 1"),
        ({"path": ["a.png", None]}, "Row 1"),
        ({"image": [], "id": []}, "no rows"),
        ({"image": [b"x", b"y"], "id": ["same", "same"]}, "Two pictures are called same"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, columns: dict[str, list[object]], words: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=words):
        find_pictures([tmp_path / "t.parquet"], tmp_path)


def test_what_is_not_there_empty_or_no_table_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no table")
    for path, words in ((tmp_path / "gone", "There is no"), (tmp_path / "empty", "no pictures"), (tmp_path / "t.parquet", "can't be read")):
        with pytest.raises(DataError, match=words):
            find_pictures([path], tmp_path)


def test_gallery_pictures_are_those_of_the_same_sku(folder: Path, tmp_path: Path) -> None:
    data = (folder / "other.png").read_bytes()
    (tmp_path / "data/shards").mkdir(parents=True)
    (tmp_path / "data/shards/0").write_bytes(data)
    row = dict.fromkeys(SCHEMA.names) | {"id": "train/a/1.png", "sku": "a", "name": "1.png", "shard": "0", "offset": 0, "length": len(data)}
    rows = [row, row | {"id": "train/b/1.png", "sku": "b"}, row | {"id": "test/c/1.png", "sku": "c"}]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "data/manifest.parquet")
    picture = gallery_pictures(tmp_path / "data", ["train/a/1.png", "train/b/1.png"], ["a", "d"])
    assert picture("a") == decode(data)
    assert picture("b") is None and picture("c") is None and picture("d") is None


def test_names_of_any_script_are_kept(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFC", "可口可乐 é.png")
    draw(tmp_path / "p" / name, "x")
    assert find_pictures([tmp_path / "p"], tmp_path).ids == [name]
