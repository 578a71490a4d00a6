"""Choice of the earlier version for drift, and the largest allowed distance of a new one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.data.packages import catalogue
from skumatch.data.validation.drift import (
    Profile,
    drift_frames,
    profile_of,
    read_baseline,
    shift,
    sku_changes,
)
from skumatch.data.validation.findings import warnings_of
from skumatch.data.validation.validate import validate
from skumatch.errors import DataError
from skumatch.files import canonical_json, write_json
from skumatch.params import DataParams, ValidateParams
from tests.data.manifests import made, named, summary_of, typed

QUANTILES = 101  # 0 to 100 %
Sizes = st.lists(st.floats(1, 1e4), min_size=QUANTILES, max_size=QUANTILES).map(sorted).map(tuple)


def profile(frame: pd.DataFrame) -> Profile:
    profiled = profile_of(frame, DataParams())
    assert profiled
    return profiled


def failed(frame: pd.DataFrame, before: Profile) -> list[str]:
    findings = validate(frame, summary_of(frame), ValidateParams(), DataParams(), before)
    return [finding.rule.name for finding in findings if not finding.passed]


def test_a_weekly_delivery_of_new_products_passes_and_they_are_named() -> None:
    now = made(skus=23)
    findings = validate(now, summary_of(now), ValidateParams(), DataParams(), profile(made(skus=20)))
    assert all(finding.passed for finding in findings)
    (warning,) = warnings_of(findings, ValidateParams())
    assert warning.startswith("3 SKUs are new since the version before: ") and all(
        name in warning for name in now["sku"].unique()[20:]
    )


def test_names_that_all_came_out_otherwise_are_caught() -> None:
    frame = made()
    mojibake = typed(named(frame.assign(sku=[sku.encode().decode("cp437") for sku in frame["sku"]])))
    assert failed(mojibake, profile(frame)) == ["drift-removed", "drift-added"]


def test_a_delivery_of_thumbnails_is_caught() -> None:
    frame = made()
    small = frame.assign(width=frame["width"] // 2, height=frame["height"] // 2)
    assert failed(typed(small), profile(frame)) == ["drift-size"]


def test_a_few_pictures_of_another_size_are_no_drift() -> None:
    frame = made()
    few = frame.index < 40
    mixed = frame.assign(
        width=frame["width"].where(~few, 3 * frame["width"]),
        height=frame["height"].where(~few, 3 * frame["height"]),
    )
    assert failed(mixed, profile(frame)) == []


def test_the_rendered_sample_is_an_earlier_version_of_nothing() -> None:
    frame, names = made(), [sku.name for sku in catalogue(80)]
    places = {sku: place for place, sku in enumerate(frame["sku"].unique())}
    sample = profile(named(frame.assign(sku=[names[3 * places[sku]] for sku in frame["sku"]])))
    assert sample.rendered and not profile(frame).rendered
    assert (
        drift_frames(profile(frame), sample)
        == drift_frames(sample, profile(frame))
        == drift_frames(profile(frame), None)
        == {}
    )


def test_a_profile_is_small_and_the_same_for_the_same_images_in_any_order() -> None:
    frame = made()
    profiled = profile(frame)
    assert profiled == profile(frame.sample(frac=1, random_state=1))
    assert (
        profiled.skus["太太乐鸡精 0"] == (8, 3)
        and len(profiled.short_sides) == len(profiled.aspects) == QUANTILES
    )
    assert profiled.short_sides[0] == 100 and profiled.short_sides[-1] == 106
    assert len(canonical_json(profiled.model_dump(mode="json"))) < 10_000


def test_catch_all_classes_and_the_catalogue_are_not_counted() -> None:
    frame = made()
    mixed = typed(
        named(
            frame.assign(
                sku=frame["sku"].where(frame.index > 9, "others"),
                side=frame["side"].where(frame.index != 12, "catalogue"),
            )
        )
    )
    profiled = profile(mixed)
    assert "others" not in profiled.skus and sum(map(sum, profiled.skus.values())) == 220 - 10 - 1


def test_nothing_on_the_shelf_has_no_profile() -> None:
    assert profile_of(made().assign(side="catalogue"), DataParams()) is None


def test_what_is_new_gone_and_changed() -> None:
    sizes = (1.0,) * QUANTILES
    before = Profile(skus={"a": (4, 2), "b": (1, 0), "gone": (3, 3)}, short_sides=sizes, aspects=sizes)
    now = Profile(skus={"a": (1, 1), "b": (1, 0), "new": (9, 0)}, short_sides=sizes, aspects=sizes)
    rows = sku_changes(now, before).set_index("sku")
    assert rows[["before", "now"]].to_dict("index") == {
        "a": {"before": 6, "now": 2},
        "b": {"before": 1, "now": 1},
        "gone": {"before": 6, "now": 0},
        "new": {"before": 0, "now": 9},
    }
    assert rows["change"].fillna(0).to_dict() == {"a": 3, "b": 1, "gone": 0, "new": 0}
    assert rows["kept"].isna().to_dict() == {"a": False, "b": False, "gone": False, "new": True}
    assert rows["known"].isna().to_dict() == {"a": False, "b": False, "gone": True, "new": False}


@given(sizes=Sizes, factor=st.floats(1, 50))
def test_pictures_larger_by_a_factor_have_shifted_by_it(sizes: tuple[float, ...], factor: float) -> None:
    larger = tuple(factor * size for size in sizes)
    assert shift(sizes, sizes) == 1
    assert shift(larger, sizes) == pytest.approx(factor) == pytest.approx(shift(sizes, larger))


@given(a=Sizes, b=Sizes)
def test_a_shift_is_a_factor_whichever_way_it_is_looked_at(
    a: tuple[float, ...], b: tuple[float, ...]
) -> None:
    assert shift(a, b) == pytest.approx(shift(b, a)) and 1 <= shift(a, b) < np.inf


def test_the_baseline_comes_back_as_it_was_laid(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    assert read_baseline(path) is None
    write_json(path, {"baseline": None})
    assert read_baseline(path) is None
    write_json(path, {"baseline": profile(made()).model_dump(mode="json")})
    assert read_baseline(path) == profile(made())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"baseline": 3}', '{"baseline": {"format": "skumatch-profile-1", "skus": {}}}']
)
def test_a_baseline_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(DataError, match="no profile of an earlier data version"):
        read_baseline(path)


@pytest.mark.parametrize(
    ("name", "value"), [("short_sides", [0.0] * QUANTILES), ("aspects", [1.0]), ("skus", {"a": [-1, 2]})]
)
def test_a_profile_out_of_range_is_told(tmp_path: Path, name: str, value: object) -> None:
    sound = json.loads(profile(made()).model_dump_json())
    write_json(tmp_path / "baseline.json", {"baseline": sound | {name: value}})
    with pytest.raises(DataError):
        read_baseline(tmp_path / "baseline.json")
