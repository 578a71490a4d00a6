"""Splits are a function of content, keep duplicates together, and never train on what must stay unseen."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.data.split import MIN_FOR_VAL, counts, is_unseen, split
from skumatch.errors import DataError
from skumatch.params import DataParams, SplitParams
from tests.conftest import ROOT
from tests.proving import count

Images = list[tuple[int, str, int]]  # SKU, side, picture; three pictures in a row are near-copies of each other
SIDES = ["train", "test", "catalogue"]


def manifest(images: Images, name: str = "{}") -> pd.DataFrame:
    pixels = [hashlib.sha256(str(picture).encode()).hexdigest() for _, _, picture in images]
    rows = [(f"{side}/sku{sku}/{name.format(i)}", pixels[i], f"sku{sku}", side) for i, (sku, side, _) in enumerate(images)]
    frame = pd.DataFrame(rows, columns=["id", "pixels", "sku", "side"])
    near = pd.Series([picture // 3 for _, _, picture in images])
    return frame.assign(group=frame.groupby(near)["pixels"].transform("min"))


pictures = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(SIDES), st.integers(0, 60)), min_size=1, max_size=120)
deliveries = pictures.map(lambda images: [(100, "train", 301), (102, "train", 304), *images])  # two SKUs, not unseen below
FEW_UNSEEN = SplitParams(val_share=0.3, unseen_share=0.0)
SOME_UNSEEN = SplitParams(val_share=0.3, unseen_share=0.3)
THOROUGH = settings(max_examples=count(150, 1500), deadline=None)


@THOROUGH
@given(deliveries, st.sampled_from([FEW_UNSEEN, SOME_UNSEEN]), st.randoms(use_true_random=False))
def test_roles_follow_from_content_alone(images: Images, params: SplitParams, random) -> None:  # type: ignore[no-untyped-def]
    first = split(manifest(images), params, DataParams(), 7)
    renamed = manifest(images, "{:05}.jpeg").assign(original=manifest(images)["id"])
    shuffled = renamed.sample(frac=1, random_state=random.randrange(1000))
    second = split(shuffled, params, DataParams(), 7).merge(renamed[["id", "original"]], on="id")
    assert second.set_index("original")["role"].to_dict() == first.set_index("id")["role"].to_dict()


@THOROUGH
@given(deliveries, st.sampled_from([FEW_UNSEEN, SOME_UNSEEN]))
def test_each_image_has_one_role_and_a_group_of_duplicates_one_fate(images: Images, params: SplitParams) -> None:
    frame = manifest(images)
    found = split(frame, params, DataParams(), 7).merge(frame[["id", "side"]], on="id")
    assert found["id"].tolist() == sorted(frame["id"])
    by_side = {side: set(found.loc[found["side"].eq(side), "role"]) for side in SIDES}
    assert by_side["test"] <= {"query"} and by_side["catalogue"] <= {"catalogue"} and by_side["train"] <= {"train", "val", "gallery"}
    groups = {role: set(found.loc[found["role"].eq(role), "group"]) for role in ("train", "val")}
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & set(found.loc[found["unseen"], "group"]), "a copy of an unseen product's picture is trained on"
    assert not found.loc[found["role"].eq("train"), "unseen"].any()


@THOROUGH
@given(deliveries)
def test_validation_leaves_every_sku_something_to_train_on(images: Images) -> None:
    found = split(manifest(images), FEW_UNSEEN, DataParams(), 7)
    for _, rows in found[found["role"].isin(["train", "val"])].groupby("sku"):
        assert rows["role"].eq("train").any()
        if rows["group"].nunique() < MIN_FOR_VAL:
            assert not rows["role"].eq("val").any()


@settings(max_examples=count(50, 500), deadline=None)
@given(deliveries)
def test_names_of_skus_decide_nothing_but_who_is_unseen(images: Images) -> None:
    frame = manifest(images)
    renamed = frame.assign(sku=["产品 " + sku[::-1] for sku in frame["sku"]])
    first, second = (split(f, FEW_UNSEEN, DataParams(), 7) for f in (frame, renamed))
    assert first["role"].tolist() == second["role"].tolist()


@given(st.integers(0, 5))
def test_unseen_skus_are_fixed_by_name_never_trained_on_and_stay_in_the_gallery(seed: int) -> None:
    frame = manifest([(sku, side, sku * 30 + 3 * n) for sku in range(60) for n, side in enumerate(["train"] * 4 + ["test"])])
    params = SplitParams(val_share=0.2, unseen_share=0.2)
    found = split(frame, params, DataParams(), seed)
    again = split(frame[frame["sku"] != "sku7"], params, DataParams(), seed + 1)
    unseen = set(found.loc[found["unseen"], "sku"])
    assert 0 < len(unseen) < 30 and unseen == {sku for sku in frame["sku"] if is_unseen(sku, params)}
    assert unseen - {"sku7"} == set(again.loc[again["unseen"], "sku"])
    assert set(found.loc[found["unseen"], "role"]) == {"gallery", "query"}


def test_about_the_asked_share_is_kept_for_validation() -> None:
    frame = manifest([(sku, "train", 300 * sku + 3 * n) for sku in range(40) for n in range(50)])
    share = split(frame, SplitParams(val_share=0.1, unseen_share=0), DataParams(), 7)["role"].eq("val").mean()
    assert 0.08 < share < 0.12


def test_catch_all_classes_have_a_role_of_their_own() -> None:
    frame = manifest([(0, "train", 1), (1, "train", 4), (2, "train", 7), (2, "test", 10)])
    found = split(frame, FEW_UNSEEN, DataParams(others=("sku2",)), 7)
    assert set(found.loc[found["sku"].eq("sku2"), "role"]) == {"other"}


def test_one_sku_is_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="Only 1 SKU would be left"):
        split(manifest([(0, "train", 1), (0, "test", 2)]), FEW_UNSEEN, DataParams(), 7)


def test_queries_with_a_duplicate_are_counted() -> None:
    images = [(0, "train", 0), (1, "train", 30), (0, "test", 1), (1, "test", 60), (1, "test", 31)]
    found = counts(split(manifest(images), FEW_UNSEEN, DataParams(), 7))
    assert found["images"] == {"query": 3, "train": 2} and found["skus"] == {"query": 2, "train": 2}
    assert found["queries_with_duplicate"] == {"gallery": 2, "train": 2} and found["unseen"] == []


SCRIPT = """
import sys; sys.path.insert(0, {root!r})
from tests.data.test_split import SOME_UNSEEN, DataParams, manifest, split
images = [(n % 9, "train" if n % 4 else "test", 300 * (n % 9) + n) for n in range(200)]
print(split(manifest(images), SOME_UNSEEN, DataParams(), 7).to_csv())
"""


def test_the_machine_decides_nothing(tmp_path: Path) -> None:
    machines = [
        {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "2", "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"},
    ]
    command = [sys.executable, "-c", SCRIPT.format(root=str(ROOT))]
    found = [subprocess.run(command, env=os.environ | m, check=True, capture_output=True, cwd=tmp_path).stdout for m in machines]
    assert found[0] == found[1] and b"val" in found[0]
