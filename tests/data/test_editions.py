"""Each edition of RP2K is recognised, and its images get the right side and SKU."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest

from skumatch.data.delivery import editions
from skumatch.data.delivery.archives import open_source
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.errors import DataError
from tests.conftest import ROOT
from tests.data.zips import both_sides, picture, write_zip

NAMES = ("可口可乐（罐装）", "百事可乐", "others")


def lay(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def read(path: Path) -> tuple[str, list[str]]:
    with open_source(path) as source:
        return source.edition, [item.id for item in source.items]


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """The tree of Kaggle's edition, its meta.csv with the columns it is known to have."""
    files = {
        f"rp2k_dataset/all/{side}/{sku}/{side}_{k}_{n}.png": picture(100 * k + n)
        for k, sku in enumerate(NAMES)
        for side in ("train", "test")
        for n in range(3)
    }
    rows = [f"{name.removeprefix('rp2k_dataset/')},{name.split('/')[3]},rp2k" for name in files]
    return lay(
        tmp_path / "kaggle",
        files | {"meta.csv": ("\ufeffimage_path,instance_id,domain\n" + "\n".join(rows)).encode()},
    )


def lossy(name: str) -> str:
    """A name as one Windows edition has it: mojibake with all but Latin letters lost."""
    return name.encode().decode("cp437").encode("latin-1", "replace").decode("latin-1").replace("?", "+")


def test_kaggle(kaggle: Path) -> None:
    title, ids = read(kaggle)
    assert title == "RP2K from Kaggle (meta.csv: 18 rows)"
    assert len(ids) == 18 and {name.split("/")[1] for name in ids} == set(NAMES)


def test_kaggle_with_names_that_were_lost_in_unpacking(kaggle: Path) -> None:
    for folder in sorted((kaggle / "rp2k_dataset/all").glob("*/*")):
        folder.rename(folder.with_name(lossy(folder.name)))
    (kaggle / "rp2k_dataset/all/train/unlisted").mkdir()
    (kaggle / "rp2k_dataset/all/train/unlisted/1.png").write_bytes(picture(7))
    (kaggle / "rp2k_dataset/all/train" / lossy(NAMES[0]) / "not in meta.png").write_bytes(picture(8))
    title, ids = read(kaggle)
    assert "12 of its images not found by path" in title
    assert {name.split("/")[1] for name in ids} == {*NAMES, "unlisted"}
    assert f"train/{NAMES[0]}/not in meta.png" in ids and len(ids) == 20


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_kaggle_as_spreadsheets_write_its_table(kaggle: Path, encoding: str) -> None:
    before = read(kaggle)
    text = unicodedata.normalize("NFD", (kaggle / "meta.csv").read_text("utf-8-sig")).replace("\n", "\r\n")
    (kaggle / "meta.csv").write_bytes(text.encode(encoding))
    assert read(kaggle) == before


@pytest.mark.parametrize("head", ["path,label", "Image_Path,Class_Name", "filename,category"])
def test_kaggle_under_other_column_names(kaggle: Path, head: str) -> None:
    rows = [line.rsplit(",", 1)[0] for line in (kaggle / "meta.csv").read_text("utf-8-sig").splitlines()[1:]]
    (kaggle / "meta.csv").write_text("\n".join([head, *rows]), "utf-8")
    assert "RP2K from Kaggle" in read(kaggle)[0]


def test_kaggle_whose_table_relabels_and_moves(kaggle: Path) -> None:
    rows = (kaggle / "meta.csv").read_text("utf-8-sig").splitlines()[1:]
    relabelled = [line.rsplit(",", 1)[0] + ("," + ("val" if "/test/" in line else "train")) for line in rows]
    relabelled[0] = relabelled[0].replace(f",{NAMES[0]},train", f",{NAMES[1]},test")
    (kaggle / "meta.csv").write_text("\n".join(["image_path,instance_id,split", *relabelled]), "utf-8")
    assert f"test/{NAMES[1]}/train_0_0.png" in read(kaggle)[1]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"a,b\n1,2\n", "has no column for the images' path and class .found: a, b."),
        (b"", "can't be read as a table"),
        (b"\xff\xfe\x00", "meta.csv is not UTF-16-LE"),
        ("image_path,instance_id\né,1\n".encode("latin-1"), "meta.csv is not UTF-8 .byte 0xE9 in line 2"),
        (b"image_path,instance_id\na/b.png,x,\n", "can't be read as a table"),
    ],
)
def test_a_meta_csv_that_cannot_be_used(kaggle: Path, table: bytes, words: str) -> None:
    (kaggle / "meta.csv").write_bytes(table)
    with pytest.raises(DataError, match=words):
        read(kaggle)


def test_the_renumbered_edition(tmp_path: Path) -> None:
    files = {
        f"rp2k/{side}/{sku}/{n}.png": picture(n)
        for side in ("train", "val")
        for sku in ("0", "17", "1331")
        for n in range(2)
    }
    title, ids = read(lay(tmp_path / "d", files))
    assert "renumbered" in title and "`others`" in title
    assert {name.rsplit("/", 1)[0] for name in ids} == {
        f"{side}/{sku}" for side in ("train", "test") for sku in ("0", "17", "others")
    }


def test_numbers_without_the_catch_all_class_are_no_edition(tmp_path: Path) -> None:
    files = {f"{side}/{sku}/1.png": picture() for side in ("train", "val") for sku in ("0", "17")}
    with pytest.raises(DataError, match="is not in RP2K's layout"):
        read(lay(tmp_path / "d", files))


def test_a_numeric_sku_in_the_plain_layout_keeps_its_name(tmp_path: Path) -> None:
    title, ids = read(lay(tmp_path / "d", dict(both_sides("1331"))))
    assert title == "plain RP2K layout" and ids == ["test/1331/2.png", "train/1331/1.png"]


def test_the_published_zip_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "rp2k_dataset.zip", both_sides())
    assert read(path)[0] == "plain RP2K layout"
    monkeypatch.setattr(editions, "PUBLISHED_BYTES", path.stat().st_size)
    assert "its SHA-256 differs" in read(path)[0]
    monkeypatch.setattr(editions, "PUBLISHED_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert read(path)[0] == "RP2K as published (SHA-256 verified)"


@pytest.mark.parametrize(("kept", "missing"), [("test", "train"), ("train", "test")])
def test_an_edition_of_one_side(tmp_path: Path, kept: str, missing: str) -> None:
    with pytest.raises(DataError, match=f"has no {missing} side"):
        read(lay(tmp_path / "d", {f"all/{kept}/sku/1.png": picture()}))


@pytest.mark.parametrize("zipped", [False, True])
def test_catalogue_pictures_are_a_third_side(tmp_path: Path, zipped: bool) -> None:
    iconic = lay(
        tmp_path / "iconic",
        {f"{NAMES[0]}.png": picture(5), "2.5L 水.png": picture(6), ".DS_Store": b"x", "notes.txt": b"x"},
    )
    files = dict(both_sides(NAMES[0])) | {f"all/catalogue/{NAMES[0]}/back.png": picture(9)}
    path = write_zip(tmp_path / "d.zip", files.items()) if zipped else lay(tmp_path / "d", files)
    imported = import_data(path, tmp_path / "data", catalogue=iconic)
    assert (imported.images, imported.skus, imported.catalogue, imported.catalogue_only) == (5, 1, 3, 1)
    assert imported.junk == {"hidden": 1, "not-an-image": 1}
    rows = import_rows(tmp_path / "data")
    assert rows[f"catalogue/{NAMES[0]}/{NAMES[0]}.png"] == ("catalogue", NAMES[0])
    assert rows["catalogue/2.5L 水/2.5L 水.png"] == ("catalogue", "2.5L 水")
    assert rows[f"catalogue/{NAMES[0]}/back.png"] == ("catalogue", NAMES[0])


def import_rows(root: Path) -> dict[str, tuple[str, str]]:
    frame = read_manifest(root)
    return {row.id: (row.side, row.sku) for row in frame.itertuples()}


def test_the_grocery_stores_catalogue(tmp_path: Path) -> None:
    store = ROOT.parent / "shared/data/grocery-store"
    if not store.is_dir():
        pytest.skip(f"there is no {store}")
    skus = ["Alpro-Fresh-Soy-Milk", "Anjou", "Arla-Sour-Milk"]
    imported = import_data(store, tmp_path / "data", skus=skus, catalogue=store / "iconic")
    assert (imported.skus, imported.catalogue, imported.catalogue_only, imported.quarantined) == (3, 3, 0, [])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "There is no folder"),
        ({"a/b.png": b"x"}, "has no catalogue picture"),
        ({"SKU.png": b"x"}, "differ only in case"),
    ],
)
def test_a_catalogue_that_cannot_be_used(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    folder = lay(tmp_path / "d", dict(both_sides()))
    with pytest.raises(DataError, match=words):
        import_data(folder, tmp_path / "data", catalogue=lay(tmp_path / "iconic", files))
    assert not (tmp_path / "data").exists()


def test_a_catalogue_picture_that_the_delivery_has_too(tmp_path: Path) -> None:
    folder = lay(tmp_path / "d", dict(both_sides()) | {"all/catalogue/sku/sku.png": picture(3)})
    with pytest.raises(DataError, match=r"are both catalogue/sku/sku\.png"):
        import_data(folder, tmp_path / "data", catalogue=lay(tmp_path / "iconic", {"sku.png": picture(4)}))
