"""A file's content decides whether it is a picture, not its extension or place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.data.delivery.archives import folder_images, open_source
from skumatch.data.delivery.importer import import_data
from skumatch.data.delivery.layout import DeliveredFile, sorted_out
from skumatch.data.images import FORMATS, known_format
from skumatch.data.manifest import images, read_manifest
from skumatch.errors import DataError, StorageError
from skumatch.matching.pictures import list_pictures, open_pictures
from tests.data.hostile import CONTAINERS, good, reference, saved
from tests.data.test_layout import zipped

PHOTO = saved(reference(), "JPEG", quality=95)
ENDINGS = ("", ".jfif", ".JPE", ".mpo", ".jpg_large", ".jpg~", ".image", ".5", ".数", ".txt")
OTHERS = {
    "empty": b"",
    "notes": b"BMW, GIF and RIFF are words, too",
    "sound": b"RIFF\x24\0\0\0WAVEfmt ",
    "labels.csv": b"sku,group\n",
    "one.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "one.heic": b"\0\0\0\x18ftypheic",
    "raw.NEF": saved(reference(), "TIFF"),
    "raw.dng": saved(reference(), "TIFF"),
    ".hidden": PHOTO,
    "._1.jpg": PHOTO,
    "Thumbs.db": PHOTO,
}
KINDS = {"hidden": 2, "thumbs": 1, "camera-raw": 2, "not-an-image": 6}


@pytest.fixture
def delivery(tmp_path: Path) -> Path:
    """A picture under each ending on the train side, other files beside them, and one on the test side."""
    root = tmp_path / "delivery"
    train = {f"a{ending}": PHOTO for ending in ENDINGS} | OTHERS
    for side, files in (("train", train), ("test", {"photo": PHOTO})):
        folder = root / "all" / side / "cola"
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    return root


WANTED = sorted([*(f"train/cola/a{ending}" for ending in ENDINGS), "test/cola/photo"])


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_import_takes_pictures_of_any_ending(delivery: Path, tmp_path: Path, packed: bool) -> None:
    given = zipped(delivery, tmp_path / "d.zip") if packed else delivery
    imported = import_data(given, tmp_path / "data")
    rows = read_manifest(tmp_path / "data")
    pictures = images(tmp_path / "data", rows)
    assert (list(rows["id"]), imported.junk, imported.quarantined) == (WANTED, KINDS, [])
    assert [pictures[i].size for i in range(len(rows))] == [reference().size] * len(WANTED)


def test_evaluate_and_match_take_pictures_of_any_ending(delivery: Path, tmp_path: Path) -> None:
    sides = [name for side in ("test", "train") for name in folder_images(delivery, side).ids]
    matched = open_pictures(list_pictures([delivery]), tmp_path).ids
    assert sides == WANTED
    assert [name.removeprefix("all/") for name in matched] == WANTED


@pytest.mark.parametrize("ending", ENDINGS)
def test_match_takes_a_file_or_a_row_of_any_ending(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PHOTO)
    pq.write_table(pa.table({"path": [path.name]}), tmp_path / "t.parquet")
    for given_ in (path, tmp_path / "t.parquet"):
        assert open_pictures(list_pictures([given_]), tmp_path)[0].size == reference().size


def test_a_catalogue_picture_without_an_ending_is_named_by_its_sku(delivery: Path, tmp_path: Path) -> None:
    folder = tmp_path / "iconic"
    folder.mkdir()
    for name in ("cola", "Tea 1.5", "Milk 1.5.jpg", "juice.jfif"):
        (folder / name).write_bytes(PHOTO)
    (folder / "notes").write_text("nothing")
    imported = import_data(delivery, tmp_path / "data", catalogue=folder)
    rows = read_manifest(tmp_path / "data")
    assert set(rows.loc[rows["side"].eq("catalogue"), "sku"]) == {"cola", "Tea 1.5", "Milk 1.5", "juice"}
    assert imported.junk["not-an-image"] == KINDS["not-an-image"] + 1


def test_a_named_picture_of_other_content_is_set_aside(delivery: Path, tmp_path: Path) -> None:
    (delivery / "all/train/cola/b.jpe").write_bytes(b"no picture")
    imported = import_data(delivery, tmp_path / "data")
    (entry,) = imported.quarantined
    assert (entry["id"], entry["reason"]) == ("train/cola/b.jpe", "no-image")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/notes").write_text("nothing")
    with pytest.raises(DataError, match="has no pictures below it"):
        list_pictures([tmp_path / "p"])


def test_tables_of_a_delivery_are_no_pictures_and_still_read(delivery: Path) -> None:
    (delivery / "classes.csv").write_text("sku,group\ncola,drinks\n", "utf-8")
    shutil.move(delivery / "all/train/cola/labels.csv", delivery / "meta.csv")
    rows = [f"all/{name},cola zero" for name in WANTED]
    (delivery / "meta.csv").write_text("\n".join(["image_path,label", *rows]), "utf-8")
    with open_source(delivery) as source:
        assert source.groups == {"cola": "drinks"} and "Kaggle" in source.edition
        assert {item.sku for item in source.items} == {"cola zero"} and len(source.items) == len(WANTED)


def test_a_file_that_cannot_be_looked_at_stops_the_import(tmp_path: Path) -> None:
    def away(_: object) -> bytes:
        raise StorageError("Could not read x: Input/output error; check that the data is complete.")

    assert (
        sorted_out([DeliveredFile("x", "x.jpg", 9)], away)[0].kind is None
    )  # named as a picture: nothing is read
    with pytest.raises(StorageError, match="Could not read x"):
        sorted_out([DeliveredFile("x", "x", 9)], away)


@given(st.binary(max_size=40))
def test_other_bytes_begin_as_no_picture(data: bytes) -> None:
    assert not known_format(b"\x01" + data)


def test_every_format_is_known_by_its_first_bytes() -> None:
    assert {container for _, container, _ in CONTAINERS} == set(FORMATS)
    pictures = [saved(reference(), container, **options) for _, container, options in CONTAINERS]
    assert all(known_format(data[:32]) for data in [*pictures, *(data for _, data, _ in good())])
