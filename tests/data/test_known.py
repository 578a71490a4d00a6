"""A picture is decoded once: not again if the existing version or a stopped import knows its facts."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from skumatch.data.delivery import examine as module
from skumatch.data.delivery import known
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import COLUMNS, read_manifest
from skumatch.errors import DataError
from skumatch.files import read_json, write_json
from tests.code import code_hash
from tests.conftest import Delivery, draw

# What decides a picture's facts, and its hash without comments and docstrings, for each FACTS_VERSION.
DECIDES = ("data/images.py", "data/jpeg.py", "data/fingerprints.py", "data/delivery/examine.py")
CODE = {2: "ec17c787d95e660b376965ae4f20f19dc472a010ecf6c123ff7e997e67e59b75"}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes in bytes of the pictures that were decoded."""
    sizes: list[int] = []
    decode = module._facts

    def counted(image: Image.Image, data: bytes, min_short_side: int) -> module.PictureFacts:
        sizes.append(len(data))
        return decode(image, data, min_short_side)

    monkeypatch.setattr(module, "_facts", counted)
    return sizes


def test_an_import_decodes_new_pictures_only(delivery: Delivery, tmp_path: Path, decoded: list[int]) -> None:
    folder, root = delivery(), tmp_path / "data"
    import_data(folder, root)
    first = len(decoded)
    assert first == len(read_manifest(root))
    draw(folder / "all/train/sku 1/new.png", "new")
    import_data(folder, root)
    assert len(decoded) == first + 1
    import_data(folder, tmp_path / "fresh")
    columns = [name for name in COLUMNS if name not in ("shard", "offset")]
    assert read_manifest(root)[columns].equals(read_manifest(tmp_path / "fresh")[columns])


def test_a_stopped_import_goes_on(
    delivery: Delivery, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, root = delivery(), tmp_path / "data"
    monkeypatch.setattr(known, "PART", 2)
    monkeypatch.setattr(module, "BATCH", 1)
    whole = len(list((folder / "all").rglob("*.png")))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skumatch.data.delivery.importer.Rows.table", stop)
    with pytest.raises(KeyboardInterrupt):
        import_data(folder, root)
    assert not root.exists() and len(decoded) == whole
    monkeypatch.undo()
    again: list[int] = []
    monkeypatch.setattr(module, "_facts", lambda *args: again.append(1) or pytest.fail("decoded again"))
    import_data(folder, root)
    assert not again and len(read_manifest(root)) == whole
    assert not list(tmp_path.glob(".data.*")), "an import that ended well leaves nothing beside its version"


def test_a_version_of_other_facts_is_examined_again(
    delivery: Delivery, tmp_path: Path, decoded: list[int]
) -> None:
    folder, root = delivery(), tmp_path / "data"
    import_data(folder, root)
    first, summary = len(decoded), read_json(root / "import.json")
    assert summary["facts"] == module.FACTS_VERSION
    before = {name: value for name, value in summary.items() if name != "facts"}
    for older in (before, before | {"facts": 1}):
        write_json(root / "import.json", older)
        import_data(folder, root)
        assert read_json(root / "import.json") == summary
    assert len(decoded) == 3 * first


def test_a_known_picture_may_be_too_small_now(delivery: Delivery, tmp_path: Path) -> None:
    folder, root = delivery(), tmp_path / "data"
    import_data(folder, root)
    with pytest.raises(DataError, match="tiny"):
        import_data(folder, root, min_short_side=10_000)


def test_a_change_of_what_decides_facts_asks_for_a_new_facts_version() -> None:
    assert max(CODE) == module.FACTS_VERSION
    assert CODE[module.FACTS_VERSION] == code_hash(DECIDES), (
        "Code that decides a picture's facts was changed. If the same bytes may give other facts, "
        "raise FACTS_VERSION in skumatch/data/delivery/examine.py and add it here; "
        f"else put the new hash here: {code_hash(DECIDES)}"
    )
