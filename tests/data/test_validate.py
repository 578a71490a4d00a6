from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from skumatch.config import DataParams, ValidateParams
from skumatch.data.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.data.validate import check_bytes, require, validate, warnings_of
from skumatch.errors import ValidationFailed
from skumatch.files import read_json
from tests.conftest import Delivery

PARAMS = ValidateParams()
Imported = tuple[Path, pd.DataFrame, dict[str, object]]


@pytest.fixture
def imported(delivery: Delivery, tmp_path: Path) -> Imported:
    root = tmp_path / "data"
    import_data(delivery(skus=5, train=5, test=3), root)
    return root, read_manifest(root), read_json(root / "import.json")


def failed(frame: pd.DataFrame, summary: dict[str, object], params: ValidateParams = PARAMS) -> list[str]:
    return [r["sentence"] for r in validate(frame, summary, params, DataParams()) if not r["passed"]]


def test_sound_data_passes_every_expectation(imported: Imported) -> None:
    _, frame, summary = imported
    results = validate(frame, summary, PARAMS, DataParams())
    require(results)
    assert len(results) >= 12 and all(r["passed"] for r in results)


def set_cell(frame: pd.DataFrame, column: str, value: object, row: int = 3) -> pd.DataFrame:
    changed = frame.copy()
    changed.loc[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: set_cell(f, "id", f.loc[4, "id"]), "an id of its own"),
        (lambda f: set_cell(f, "sku", ""), "has a SKU"),
        (lambda f: set_cell(f, "side", "both"), "train or test side"),
        (lambda f: set_cell(f, "format", "XBM"), "known format"),
        (lambda f: set_cell(f, "width", 31), "px wide"),
        (lambda f: set_cell(f, "height", 31), "px high"),
        (lambda f: set_cell(f, "sha256", "0"), "SHA-256"),
        (lambda f: f.drop(columns="mode"), "has its columns"),
        (lambda f: set_cell(f, "pixels", f.loc[39, "pixels"]), "carry two SKUs"),
        (lambda f: f.assign(pixels=f["sku"]), "exact duplicates"),
        (lambda f: f[(f["sku"] != "sku 0") | (f["side"] != "train") | f["name"].eq("0.png")], "2 gallery images"),
    ],
)
def test_each_defect_fails_exactly_its_expectation(imported: Imported, spoil, words: str) -> None:  # type: ignore[no-untyped-def]
    _, frame, summary = imported
    (sentence,) = failed(spoil(frame).reset_index(drop=True), summary)
    assert words in sentence


def test_too_many_images_set_aside(imported: Imported) -> None:
    _, frame, summary = imported
    entry = {"id": "train/a/b.png", "reason": "empty", "sentence": "x"}
    assert failed(frame, summary | {"quarantined": [entry]}) == ["at most 2.0% of images were set aside"]
    assert "1 images were set aside: train/a/b.png (empty)." in warnings_of(frame, summary | {"quarantined": [entry]}, PARAMS, DataParams())


def test_the_error_names_expectation_count_and_offender(imported: Imported) -> None:
    _, frame, summary = imported
    with pytest.raises(ValidationFailed) as caught:
        require(validate(set_cell(frame, "format", "XBM"), summary, PARAMS, DataParams()))
    assert f"known format (1 of 40, worst: {frame.loc[3, 'id']})" in str(caught.value)


def test_lonely_skus_are_named(imported: Imported) -> None:
    _, frame, summary = imported
    one = frame[(frame["sku"] != "sku 0") | (frame["side"] != "train") | frame["name"].eq("0.png")]
    two = one[(one["sku"] != "sku 1") | (one["side"] != "test")]
    sentences = warnings_of(two, summary, PARAMS, DataParams())
    assert any("fewer than 2 gallery images" in s and "sku 0" in s for s in sentences)
    assert any("no query" in s and "sku 1" in s for s in sentences)


def test_one_changed_byte_in_a_shard_is_found(imported: Imported) -> None:
    root, frame, _ = imported
    check_bytes(root, frame)
    shard = root / "shards/00000.tar"
    data = bytearray(shard.read_bytes())
    data[int(frame.loc[7, "offset"]) + 20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValidationFailed, match=frame.loc[7, "id"]):
        check_bytes(root, frame)
