from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from skumatch.data.delivery.archives import folder_images, open_source
from skumatch.data.delivery.layout import kind_by_name
from skumatch.errors import DataError
from tests.conftest import Delivery


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def test_zip_and_folder_hold_the_same_items(delivery: Delivery, tmp_path: Path) -> None:
    folder = delivery()
    with open_source(folder) as a, open_source(zipped(folder, tmp_path / "d.zip")) as b:
        assert [item.id for item in a.items] == [item.id for item in b.items]
        assert [a.read(item) for item in a.items] == [b.read(item) for item in b.items]


def test_junk_is_counted_by_kind_and_left_out(delivery: Delivery) -> None:
    folder = delivery()
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / "all/train/sku 0" / name).write_text("x")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX/x.png").write_text("x")
    (folder / "all/train/sku 0/link.png").symlink_to(folder / "all/train/sku 0/0.png")
    (folder / "lonely.png").write_bytes((folder / "all/train/sku 0/0.png").read_bytes())
    with open_source(folder) as source:
        assert source.junk == {
            "hidden": 1,
            "thumbs": 1,
            "not-an-image": 1,
            "__MACOSX": 1,
            "outside-the-layout": 1,
            "link": 1,
        }
        assert len(source.items) == 24


def test_kind_by_name_keeps_images() -> None:
    assert kind_by_name("all/train/a/b.JPG") is None


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda root: None, "There is no"),
        (lambda root: root.mkdir(), "is empty"),
        (
            lambda root: (root / "train/a").mkdir(parents=True) or (root / "train/a/x.png").write_text("x"),
            "not in RP2K's layout",
        ),
        (
            lambda root: (
                (root / "all/train/a").mkdir(parents=True) or (root / "all/train/a/x.png").write_text("x")
            ),
            "has no test side",
        ),
        (
            lambda root: (
                (root / "all/test/a").mkdir(parents=True) or (root / "all/test/a/x.png").write_text("x")
            ),
            "has no train side",
        ),
        (lambda root: root.write_text("x"), "neither a folder nor a zip"),
    ],
)
def test_what_is_no_delivery_is_refused_in_a_sentence(tmp_path: Path, prepare, words: str) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "given"
    prepare(root)
    with pytest.raises(DataError, match=words), open_source(root):
        pass


def test_folder_images_leaves_catch_all_classes_out(delivery: Delivery) -> None:
    images = folder_images(delivery(), "train", others=("sku 1",))
    assert set(images.skus) == {"sku 0", "sku 2", "sku 3"}
    assert images[0].mode == "RGB"
