from __future__ import annotations

import hashlib
import os
import tarfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from skumatch.data import shards
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import images, read_manifest
from skumatch.errors import DataError, StorageError
from skumatch.files import read_json
from skumatch.texts import read_names
from tests.conftest import Delivery, draw


def hashes(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def members(shard: Path) -> list[str]:
    with tarfile.open(shard) as tar:
        return tar.getnames()


def test_the_manifest_finds_the_original_bytes(delivery: Delivery, tmp_path: Path) -> None:
    folder = delivery()
    import_data(folder, tmp_path / "data")
    rows = read_manifest(tmp_path / "data")
    pictures = images(tmp_path / "data", rows)
    assert len(rows) == 24
    for i, name in enumerate(rows["id"]):
        original = (folder / "all" / name).read_bytes()
        assert pictures.read_bytes(i) == original
        assert rows["sha256"][i] == hashlib.sha256(original).hexdigest()
        assert pictures[i].size == (rows["width"][i], rows["height"][i])


def test_shards_open_with_plain_tar_and_split_at_their_size(
    delivery: Delivery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 4000)
    import_data(delivery(), tmp_path / "data")
    rows = read_manifest(tmp_path / "data")
    shard_paths = sorted((tmp_path / "data/shards").iterdir())
    assert len(shard_paths) > 1 and {path.name for path in shard_paths} == set(rows["shard"])
    assert sorted(name for shard in shard_paths for name in members(shard)) == sorted(
        f"{digest}.png" for digest in rows["sha256"]
    )
    assert len(images(tmp_path / "data", rows)[20].getbands()) == 3


def test_copies_are_stored_once(delivery: Delivery, tmp_path: Path) -> None:
    folder = delivery()
    side = folder / "all/train/sku 0"
    (side / "copy.png").write_bytes((side / "0.png").read_bytes())
    import_data(folder, tmp_path / "data")
    rows = read_manifest(tmp_path / "data").set_index("id")
    original, copy = rows.loc["train/sku 0/0.png"], rows.loc["train/sku 0/copy.png"]
    assert original["offset"] == copy["offset"] and len(rows) == 25
    assert len(members(next((tmp_path / "data/shards").iterdir()))) == 24


def test_the_same_delivery_gives_the_same_bytes_and_changes_nothing(
    delivery: Delivery, tmp_path: Path
) -> None:
    folder = delivery()
    (folder / "all/train/sku 0/broken.png").write_bytes(b"no picture")
    first = import_data(folder, tmp_path / "data")
    before = hashes(tmp_path / "data")
    for path in sorted((folder / "all").rglob("*.png"), reverse=True):
        os.utime(path, (1, 1))
    second = import_data(folder, tmp_path / "data")
    import_data(folder, tmp_path / "elsewhere")
    assert (first.changed, second.changed) == (True, False)
    assert hashes(tmp_path / "data") == before == hashes(tmp_path / "elsewhere")


def test_images_that_cannot_be_used_are_set_aside_with_a_reason(delivery: Delivery, tmp_path: Path) -> None:
    folder = delivery()
    side = folder / "all/train/sku 0"
    (side / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (side / "cut.png").write_bytes((side / "0.png").read_bytes()[:90])
    (side / "zero.png").write_bytes(b"")
    draw(side / "small.png", "small", (31, 200))
    imported = import_data(folder, tmp_path / "data")
    reasons = {entry["id"].split("/")[-1]: entry["reason"] for entry in imported.quarantined}
    assert reasons == {
        "broken.jpg": "truncated",
        "cut.png": "truncated",
        "zero.png": "empty",
        "small.png": "tiny",
    }
    assert (
        imported.images == 24
        and read_json(tmp_path / "data/import.json")["quarantined"] == imported.quarantined
    )


def test_transparent_pictures_lie_on_white(delivery: Delivery, tmp_path: Path) -> None:
    folder = delivery()
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(folder / "all/train/sku 0/0.png")
    import_data(folder, tmp_path / "data")
    rows = read_manifest(tmp_path / "data")
    row = rows.index[rows["id"].eq("train/sku 0/0.png")][0]
    assert rows["mode"][row] == "RGBA"
    assert images(tmp_path / "data", rows)[row].getpixel((5, 5)) == (255, 255, 255)


def test_a_subset_of_skus(delivery: Delivery, tmp_path: Path) -> None:
    import_data(delivery(), tmp_path / "data", skus={"sku 1": "line 1", "sku 3": "line 2"})
    assert set(read_manifest(tmp_path / "data")["sku"]) == {"sku 1", "sku 3"}
    with pytest.raises(
        DataError, match="no SKU named 'sku 9', as line 2 says; correct the list: one SKU a line"
    ):
        import_data(delivery(), tmp_path / "data", skus={"sku 1": "line 1", "sku 9": "line 2"})


def test_a_list_names_skus_however_they_are_spelt(delivery: Delivery, tmp_path: Path) -> None:
    """A folder's name may be decomposed and a list's composed, or the other way.

    Blanks and case don't tell SKUs apart.
    """
    root = delivery(skus=4)
    names = [unicodedata.normalize("NFD", "Café crème"), "Øko\u00a0Äpfel", "SKU four"]
    for number, name in enumerate(names):
        for side in ("train", "test"):
            (root / "all" / side / f"sku {number}").rename(root / "all" / side / name)
    (tmp_path / "skus.txt").write_text(
        unicodedata.normalize("NFC", "Café crème\n") + "øko A\u0308pfel\u200b\nsku FOUR\n"
    )
    import_data(root, tmp_path / "data", read_names(tmp_path / "skus.txt"))
    assert set(read_manifest(tmp_path / "data")["sku"]) == {"Café crème", "Øko\u00a0Äpfel", "SKU four"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sku\nsku 0\n", "no SKU named 'sku', as line 1 of"),
        ("sku 0,4\n", "no SKU named 'sku 0,4', as line 1 of"),
        ('"sku 0"\n', "no SKU named '\"sku 0\"', as line 1 of"),
        ("# all\nsku 0\n", "no SKU named '# all', as line 1 of"),
        ("sku 0\n\nsku 8\nsku 9\n", "no SKU named 'sku 8', as line 3 of .* .2 of 3 names are of none."),
        ("sku 0\x1a\n", "no SKU named 'sku 0.x1a'"),
    ],
)
def test_a_list_with_other_names_is_refused(
    delivery: Delivery, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "skus.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        import_data(delivery(), tmp_path / "data", read_names(tmp_path / "skus.txt"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("other", ["sku  0", "sku\u00a00", "sku 0\u200b", "SKU 0"])
def test_skus_that_are_spelt_alike_are_refused(delivery: Delivery, tmp_path: Path, other: str) -> None:
    root = delivery()
    (root / "all/train/sku 1").rename(root / "all/train" / other)
    with pytest.raises(DataError, match="differ only in case, blanks or invisible characters"):
        import_data(root, tmp_path / "data")


def test_a_failed_import_leaves_the_version_that_was_there(
    delivery: Delivery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_data(delivery(), tmp_path / "data")
    before = hashes(tmp_path / "data")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.ShardWriter, "add", full)
    with pytest.raises(StorageError, match="No space left"):
        import_data(delivery(skus=2, name="other"), tmp_path / "data")
    assert hashes(tmp_path / "data") == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".data")] == []


def test_a_side_without_one_usable_image_is_refused(delivery: Delivery, tmp_path: Path) -> None:
    folder = delivery(skus=1, test=1)
    (folder / "all/test/sku 0/0.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no usable test image"):
        import_data(folder, tmp_path / "data")
    assert not (tmp_path / "data").exists()
