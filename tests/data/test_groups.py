"""classes.csv beside `all/` puts SKUs into groups; an unusable one is refused with a remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from skumatch.data.delivery import archives, folders, source
from skumatch.data.delivery.importer import import_data
from skumatch.errors import DataError
from skumatch.files import read_json
from tests.conftest import Delivery


def imported(folder: Path, root: Path) -> dict[str, str]:
    import_data(folder, root)
    return dict(read_json(root / "import.json")["groups"])


@pytest.mark.parametrize("packed", [False, True])
def test_groups_are_carried_into_the_version(delivery: Delivery, tmp_path: Path, packed: bool) -> None:
    folder = delivery(skus=3)
    text = (
        "\ufeffsku,group,aisle\nsku 0, Apple ,Fruit\nsku 1,Apple,Fruit\nsku 1,Apple,Vegetable\n"
        "sku 2,,\ngone,Milk,Packages\n"
    )
    (folder / "classes.csv").write_text(text, "utf-8")
    (folder / "all/train/sku 0/classes.csv").write_text("sku,group\nsku 0,Wrong\n")
    source = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)) if packed else folder
    assert imported(source, tmp_path / "data") == {"sku 0": "Apple", "sku 1": "Apple"}


def test_a_delivery_without_the_table_has_no_groups(delivery: Delivery, tmp_path: Path) -> None:
    assert imported(delivery(), tmp_path / "data") == {}


def test_new_groups_alone_make_a_new_version(delivery: Delivery, tmp_path: Path) -> None:
    folder = delivery()
    import_data(folder, tmp_path / "data")
    assert not import_data(folder, tmp_path / "data").changed
    (folder / "classes.csv").write_text("sku,group\nsku 0,Milk\n")
    assert import_data(folder, tmp_path / "data").changed
    assert read_json(tmp_path / "data/import.json")["groups"] == {"sku 0": "Milk"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_groups_are_found_however_their_skus_are_spelt(
    delivery: Delivery, tmp_path: Path, encoding: str
) -> None:
    folder = delivery(skus=2)
    for side in ("train", "test"):
        (folder / "all" / side / "sku 0").rename(folder / "all" / side / "Café 0")
    text = "SKU, Group \r\nCafe\u0301\u00a00,Ka\u0308se\r\nSKU 1,\u00a0\r\n"
    (folder / "classes.csv").write_bytes(text.encode(encoding))
    assert imported(folder, tmp_path / "data") == {"Café 0": "Käse"}


def test_a_table_without_bounds_is_refused(
    delivery: Delivery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = delivery()
    (folder / "classes.csv").write_text("sku,group\nsku 0,Milk\n")
    for module in (source, folders, archives):
        monkeypatch.setattr(module, "MAX_TABLE_BYTES", 20)
    for path in (folder, Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", folder))):
        with pytest.raises(DataError, match="classes.csv has over 0 MB, too much for a table"):
            import_data(path, tmp_path / "data")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sku;group\na;b\n", "lacks a column"),
        ("sku,group\nsku 0,a\nsku 0,b\n", "'sku 0' into two groups"),
        ("", "can't be read"),
        ('sku,group\n"a', "can't be read"),
        ("sku,group\nsku 0,a,\nsku 1,b,\n", "can't be read"),
        ("sku,group\nsku 0,a\nSKU\u00a00,b\n", "into two groups"),
        ("sku,group\0\n", "NUL character in line 1"),
    ],
)
def test_a_table_that_says_nothing_sound_is_refused(
    delivery: Delivery, tmp_path: Path, text: str, why: str
) -> None:
    folder = delivery()
    (folder / "classes.csv").write_text(text)
    with pytest.raises(DataError, match=why) as caught:
        import_data(folder, tmp_path / "data")
    assert "classes.csv" in str(caught.value) and not (tmp_path / "data").exists()
