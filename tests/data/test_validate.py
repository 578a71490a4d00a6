"""Promise 18: one defect, one failed expectation."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.data.validation import suite
from skumatch.data.validation.drift import Profile, profile_of
from skumatch.data.validation.findings import ExpectationResult, require, warnings_of
from skumatch.data.validation.validate import validate, validate_bytes
from skumatch.errors import ValidationFailed
from skumatch.params import DataParams, ValidateParams
from tests.conftest import Delivery
from tests.data.manifests import cell, made, named, summary_of, typed

PARAMS = ValidateParams()


@cache
def baseline() -> Profile:
    profile = profile_of(made(), DataParams())
    assert profile
    return profile


def findings(
    frame: pd.DataFrame, before: Profile | None = None, quarantined: int = 0
) -> list[ExpectationResult]:
    return validate(frame, summary_of(frame, quarantined), PARAMS, DataParams(), before)


def failed(results: list[ExpectationResult]) -> list[str]:
    return [finding.rule.name for finding in results if not finding.passed]


def test_sound_data_passes_every_expectation() -> None:
    results = findings(made(), baseline())
    require(results)
    assert len(results) == len(EVERY) - 1 and all(
        finding.passed and not finding.broken for finding in results
    )


def test_the_order_of_rows_changes_nothing() -> None:
    frame = cell(made(), "format", "XBM")
    records = [finding.record() for finding in findings(frame)]
    assert [finding.record() for finding in findings(frame.sample(frac=1, random_state=3))] == records


# Each defect, under the name of the expectation that is meant.


def of(frame: pd.DataFrame, sku: int, side: str) -> pd.Index:
    """The rows of the `sku`-th SKU on that side."""
    name = frame["sku"].unique()[sku]
    return frame.index[frame["sku"].eq(name) & frame["side"].eq(side)]


def without(frame: pd.DataFrame, *rows: pd.Index) -> pd.DataFrame:
    return frame.drop(index=np.concatenate(rows)).reset_index(drop=True)


def same_id(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        **{
            name: frame[name].where(frame.index != 4, frame[name][3])
            for name in ("id", "sku", "side", "name")
        }
    )


def decomposed(frame: pd.DataFrame) -> pd.DataFrame:
    cafe = frame["sku"].eq("Café crème 1")
    assert cafe.any()
    return named(frame.assign(sku=frame["sku"].where(~cafe, unicodedata.normalize("NFD", "Café crème 1"))))


def slim(frame: pd.DataFrame) -> pd.DataFrame:
    return cell(cell(frame, "width", 40, slice(0, 2)), "height", 480, slice(0, 2))  # type: ignore[arg-type]


def long(frame: pd.DataFrame) -> pd.DataFrame:
    kept = frame.index > 2
    return frame.assign(width=frame["width"].where(kept, 20_000), height=frame["height"].where(kept, 9_000))


def same_place(frame: pd.DataFrame) -> pd.DataFrame:
    return cell(frame, "offset", frame["offset"][3], 4)


def copies(frame: pd.DataFrame) -> pd.DataFrame:
    pixels = frame["pixels"].where(
        frame["side"].eq("test"), frame.groupby(["sku", "side"])["pixels"].transform("first")
    )
    return frame.assign(pixels=pixels)


def conflicts(frame: pd.DataFrame) -> pd.DataFrame:
    for n in range(2):
        frame = cell(frame, "pixels", frame["pixels"][of(frame, 1, "train")[n]], of(frame, 0, "train")[n])
    return frame


def leaked(frame: pd.DataFrame) -> pd.DataFrame:
    for sku in range(13):
        frame = cell(frame, "pixels", frame["pixels"][of(frame, sku, "train")[0]], of(frame, sku, "test")[0])
    return frame


def no_query(frame: pd.DataFrame) -> pd.DataFrame:
    names = frame["sku"].unique()
    moved = frame["sku"].isin(names[:11]) & frame["side"].eq("test")
    takers = pd.Series(np.resize(names[11:], len(frame)), index=frame.index)
    return typed(named(frame.assign(sku=frame["sku"].where(~moved, takers))))


def swapped(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(width=frame["height"], height=frame["width"])


DEFECTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "columns": lambda f: f.drop(columns="mode"),
    "types": lambda f: f.assign(width=f["width"].astype(float)),
    "missing": lambda f: cell(f, "mode", None),
    "id": same_id,
    "id-parts": lambda f: cell(f, "id", "train/another/one.jpg"),
    "sku": lambda f: named(cell(f, "sku", "")),
    "sku-written": decomposed,
    "name": lambda f: named(cell(f, "name", "a/b.jpg")),
    "side": lambda f: named(cell(f, "side", "both")),
    "format": lambda f: cell(f, "format", "XBM"),
    "mode": lambda f: cell(f, "mode", "HSV"),
    "short-side": lambda f: cell(f, "width", 31),
    "long-side": long,
    "aspect": slim,
    "sha256": lambda f: cell(f, "sha256", "0" * 63),
    "pixels": lambda f: cell(f, "pixels", "no hash"),
    "shard": lambda f: cell(f, "shard", "../0000000000000000.tar"),
    "offset": lambda f: cell(f, "offset", -1536, 0),
    "length": lambda f: cell(f, "length", 0),
    "place": same_place,
    "overlap": lambda f: cell(f, "length", 2_000),
    "duplicates": copies,
    "conflicts": conflicts,
    "leaked": leaked,
    "sparse": lambda f: without(f, of(f, 0, "train")[1:], of(f, 1, "train")[1:]),
    "no-gallery": lambda f: without(f, of(f, 0, "train"), of(f, 1, "train")),
    "no-query": no_query,
    "drift-removed": lambda f: f[~f["sku"].isin(f["sku"].unique()[:3])],
    "drift-added": lambda f: made(skus=41),
    "drift-skus": lambda f: without(
        f, *(of(f, n, side)[k:] for n in range(3) for side, k in (("train", 2), ("test", 1)))
    ),
    "drift-images": lambda f: without(f, *(of(f, n, "test")[1:] for n in range(20))),
    "drift-size": lambda f: f.assign(width=f["width"] * 2, height=f["height"] * 2),
    "drift-aspect": swapped,
}
ELSEWHERE = {"quarantine", "count", "skus", "bytes"}
EVERY = [
    rule.name
    for rule in (*suite.schema_rules(), *suite.rules(PARAMS), *suite.drift_rules(PARAMS), *suite.byte_rules())
]


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_fails_exactly_its_expectation(name: str) -> None:
    assert failed(findings(DEFECTS[name](made()), baseline())) == [name]


def test_too_many_images_set_aside_fail_that_expectation() -> None:
    (finding,) = [f for f in findings(made(), baseline(), quarantined=5) if not f.passed]
    assert finding.rule.name == "quarantine"
    assert finding.observed == "5 of 225, 2.22 %" and finding.offenders[0] == "train/x/0.jpg (tiny)"
    assert failed(findings(made(), baseline(), quarantined=4)) == []


def test_a_single_sku_fails_that_expectation() -> None:
    assert failed(findings(made(skus=1))) == ["skus"]


def test_other_images_than_were_imported_fail_that_expectation() -> None:
    frame = made()
    assert failed(validate(frame, summary_of(frame) | {"images": 221}, PARAMS, DataParams(), baseline())) == [
        "count"
    ]


def test_every_expectation_has_a_defect() -> None:
    assert len(EVERY) == len(set(EVERY)) and set(EVERY) == set(DEFECTS) | ELSEWHERE and len(EVERY) >= 25


def test_an_empty_manifest_fails_and_nothing_breaks() -> None:
    assert failed(findings(made().head(0), baseline())) == ["skus"]


def test_catch_all_classes_and_the_catalogue_are_no_skus_to_judge() -> None:
    frame = made()
    relabelled = frame.assign(sku=frame["sku"].where(frame.index != 0, "others"))
    two = named(
        relabelled.assign(
            side=relabelled["side"].where(relabelled.index != 1, "catalogue"),
            sku=relabelled["sku"].where(relabelled.index != 1, "only there"),
        )
    )
    assert failed(findings(typed(two), baseline())) == []


# What is said.


def test_the_error_names_expectation_count_bound_and_the_worst_offenders_first() -> None:
    frame = made()
    for row, width in ((3, 31), (5, 7), (8, 12)):
        frame = cell(frame, "width", width, row)
    frame = cell(frame, "height", 60, [3, 5, 8])  # type: ignore[arg-type]
    with pytest.raises(ValidationFailed) as caught:
        require(findings(frame), "/pages/validation.html")
    sentence = str(caught.value)
    assert caught.value.exit_code == 13
    assert (
        "broke 1 of 30 expectations: No image is under 32 px on its shorter side (3 of 220, 1.36 %; worst: "
        in sentence
    )
    assert [sentence.index(f"{size} x 60 px") for size in (7, 12, 31)] == sorted(
        sentence.index(f"{size} x 60 px") for size in (7, 12, 31)
    )
    assert frame["id"][5] in sentence and sentence.endswith(
        ". /pages/validation.html shows them. Correct the data, or the bound under `validate` in params.yaml."
    )


def test_copies_with_two_labels_stand_side_by_side() -> None:
    frame = conflicts(made())
    (finding,) = [f for f in findings(frame) if not f.passed]
    pixels = frame.set_index("id")["pixels"]
    first, second, third, fourth = (pixels[name] for name in finding.offenders)
    assert first == second != third == fourth and finding.notes == ["2 SKUs with these pixels"] * 4


def test_what_passes_but_is_worth_knowing_is_a_warning() -> None:
    frame = made(skus=30)
    before = profile_of(frame, DataParams())
    assert warnings_of(findings(frame, before), PARAMS) == []
    frame = without(frame, of(frame, 4, "train")[1:], of(frame, 7, "test"))
    results = findings(frame[~frame["sku"].eq("Кефир 9")].reset_index(drop=True), before)
    require(results)
    assert warnings_of(results, PARAMS) == [
        "1 SKU has fewer than 2 gallery images, so a match rests on very few pictures: Кефир 4.",
        "1 SKU has no query, so nothing is known of its accuracy: Milch 1 l 7.",
        "1 SKU of the version before is gone: Кефир 9.",
    ]


# The bytes in the shards.


def test_one_changed_byte_in_a_shard_is_found(delivery: Delivery, tmp_path: Path) -> None:
    root = tmp_path / "data"
    import_data(delivery(skus=5, train=5, test=3), root)
    frame = read_manifest(root)
    require(validate_bytes(root, frame))
    shard = root / "shards" / frame.loc[7, "shard"]
    data = bytearray(shard.read_bytes())
    data[int(frame.loc[7, "offset"]) + 20] ^= 1
    shard.unlink()  # the import may have made a link of it
    shard.write_bytes(data)
    (finding,) = validate_bytes(root, frame)
    assert (finding.rule.name, finding.passed, finding.offenders) == ("bytes", False, [frame.loc[7, "id"]])


def checked(
    frame: pd.DataFrame, before: Profile | None = None, gone: Collection[str] = ()
) -> list[ExpectationResult]:
    return validate(frame, summary_of(frame, 0), PARAMS, DataParams(), before, gone)


def test_retired_products_count_in_no_figure_by_sku() -> None:
    """Fifteen of twenty that have no gallery picture, a single one, or no query would be too many."""
    frame = made()
    skus = frame["sku"].unique()[:15].tolist()
    for spoilt in (
        without(frame, *(of(frame, number, "train") for number in range(15))),
        without(frame, *(of(frame, number, "train")[1:] for number in range(15))),
        without(frame, *(of(frame, number, "test") for number in range(15))),
    ):
        assert failed(checked(spoilt)) and failed(checked(spoilt, gone=skus)) == []
    assert failed(checked(frame, gone=frame["sku"].unique()[:19].tolist())) == ["skus"]


def test_a_retired_product_counts_as_gone_in_the_drift() -> None:
    frame = made(skus=30)
    before = profile_of(frame, DataParams())
    sku = frame["sku"].unique()[3]
    gone = f"1 SKU of the version before is gone: {sku}."
    assert warnings_of(checked(frame, before, gone=[sku]), PARAMS) == [gone]


def test_new_products_of_one_photo_break_no_expectation() -> None:
    """Where there is a version to tell them by; the same photos of known products are too few."""
    frame = made(skus=30)
    sparse = without(frame, *(of(frame, number, "train")[1:] for number in range(8)))
    known = profile_of(frame, DataParams())
    older = profile_of(frame[~frame["sku"].isin(frame["sku"].unique()[:8])], DataParams())
    assert "sparse" in failed(checked(sparse)) and "sparse" in failed(checked(sparse, known))
    assert "sparse" not in failed(checked(sparse, older))
