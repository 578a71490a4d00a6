"""Splits depend on content only, keep duplicates together, and never train on unseen SKUs."""

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

from skumatch.data.protocols import protocols
from skumatch.data.split import counts, is_unseen, split
from skumatch.errors import DataError
from skumatch.params import DataParams, SplitParams
from tests.conftest import ROOT
from tests.proving import count

Images = list[
    tuple[int, str, int]
]  # SKU, side, picture; three pictures in a row are near-copies of each other
SIDES = ["train", "test", "catalogue"]


def manifest(images: Images, name: str = "{}") -> pd.DataFrame:
    pixels = [hashlib.sha256(str(picture).encode()).hexdigest() for _, _, picture in images]
    rows = [
        (f"{side}/sku{sku}/{name.format(i)}", pixels[i], f"sku{sku}", side)
        for i, (sku, side, _) in enumerate(images)
    ]
    frame = pd.DataFrame(rows, columns=["id", "pixels", "sku", "side"])
    near = pd.Series([picture // 3 for _, _, picture in images])
    return frame.assign(group=frame.groupby(near)["pixels"].transform("min"))


pictures = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from(SIDES), st.integers(0, 60)), min_size=1, max_size=120
)
deliveries = pictures.map(
    lambda images: [(100, "train", 301), (102, "train", 304), *images]
)  # two SKUs, not unseen below
FEW_UNSEEN = SplitParams(val_share=0.3, unseen_share=0.0)
SOME_UNSEEN = SplitParams(val_share=0.3, unseen_share=0.3)
THOROUGH = settings(max_examples=count(150, 1500))


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
def test_each_image_has_one_role_and_a_group_of_duplicates_one_fate(
    images: Images, params: SplitParams
) -> None:
    frame = manifest(images)
    roles = split(frame, params, DataParams(), 7).merge(frame[["id", "side"]], on="id")
    assert roles["id"].tolist() == sorted(frame["id"])
    by_side = {side: set(roles.loc[roles["side"].eq(side), "role"]) for side in SIDES}
    assert (
        by_side["test"] <= {"query"}
        and by_side["catalogue"] <= {"catalogue"}
        and by_side["train"] <= {"train", "val", "gallery"}
    )
    groups = {role: set(roles.loc[roles["role"].eq(role), "group"]) for role in ("train", "val")}
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & set(roles.loc[roles["unseen"], "group"]), (
        "a copy of an unseen product's picture is trained on"
    )
    assert not roles.loc[roles["role"].eq("train"), "unseen"].any()


@THOROUGH
@given(deliveries)
def test_validation_leaves_every_sku_something_to_train_on(images: Images) -> None:
    roles = split(manifest(images), FEW_UNSEEN, DataParams(), 7)
    for _, rows in roles[roles["role"].isin(["train", "val"])].groupby("sku"):
        assert rows["role"].eq("train").any()
        if rows["group"].nunique() < 3:
            assert not rows["role"].eq("val").any()


def test_skus_of_fewer_than_three_groups_are_never_validated_on() -> None:
    """With two groups, validation would take half of all that is known of the product."""
    sizes = {sku: 1 + sku % 4 for sku in range(80)}
    frame = manifest([(sku, "train", 300 * sku + 3 * n) for sku, size in sizes.items() for n in range(size)])
    roles = split(frame, SplitParams(val_share=0.5, unseen_share=0), DataParams(), 7)
    validated = {sizes[int(sku.removeprefix("sku"))] for sku in roles.loc[roles["role"].eq("val"), "sku"]}
    assert validated == {3, 4}


def test_no_sku_loses_all_its_groups_to_validation() -> None:
    """However many are drawn: at nine of ten that would be most SKUs of three."""
    frame = manifest([(sku, "train", 300 * sku + 3 * n) for sku in range(40) for n in range(3)])
    roles = split(frame, SplitParams(val_share=0.9, unseen_share=0), DataParams(), 7)
    assert roles.loc[roles["role"].eq("train"), "sku"].nunique() == 40 and roles["role"].eq("val").any()


def test_what_an_unseen_product_shows_too_is_no_group_to_train_on() -> None:
    """It is neither counted nor drawn: else it could be all that is left of a SKU."""
    params = SplitParams(val_share=0.9, unseen_share=0.3)
    unseen = next(number for number in range(100) if is_unseen(f"sku{number}", params))
    seen = [number for number in range(100) if not is_unseen(f"sku{number}", params)]
    own = [(sku, "train", 300 * sku + 3 * n) for sku in seen for n in range(3)]
    shared = [(sku, "train", 90_000 + 3 * number) for number in seen for sku in (number, unseen)]
    roles = split(manifest([*own, *shared]), params, DataParams(), 7)
    assert roles.loc[roles["role"].eq("train"), "sku"].nunique() == len(seen)
    assert set(roles.loc[roles["sku"].eq(f"sku{unseen}"), "role"]) == {"gallery"}


@settings(max_examples=count(50, 500))
@given(deliveries)
def test_names_of_skus_decide_nothing_but_who_is_unseen(images: Images) -> None:
    frame = manifest(images)
    renamed = frame.assign(sku=["产品 " + sku[::-1] for sku in frame["sku"]])
    first, second = (split(f, FEW_UNSEEN, DataParams(), 7) for f in (frame, renamed))
    assert first["role"].tolist() == second["role"].tolist()


@given(st.integers(0, 5))
def test_unseen_skus_are_fixed_by_name_never_trained_on_and_stay_in_the_gallery(seed: int) -> None:
    frame = manifest(
        [
            (sku, side, sku * 30 + 3 * n)
            for sku in range(60)
            for n, side in enumerate(["train"] * 4 + ["test"])
        ]
    )
    params = SplitParams(val_share=0.2, unseen_share=0.2)
    roles = split(frame, params, DataParams(), seed)
    again = split(frame[frame["sku"] != "sku7"], params, DataParams(), seed + 1)
    unseen = set(roles.loc[roles["unseen"], "sku"])
    assert 0 < len(unseen) < 30 and unseen == {sku for sku in frame["sku"] if is_unseen(sku, params)}
    assert unseen - {"sku7"} == set(again.loc[again["unseen"], "sku"])
    assert set(roles.loc[roles["unseen"], "role"]) == {"gallery", "query"}


def test_about_the_asked_share_is_kept_for_validation() -> None:
    frame = manifest([(sku, "train", 300 * sku + 3 * n) for sku in range(40) for n in range(50)])
    share = split(frame, SplitParams(val_share=0.1, unseen_share=0), DataParams(), 7)["role"].eq("val").mean()
    assert 0.08 < share < 0.12


def test_catch_all_classes_have_a_role_of_their_own() -> None:
    frame = manifest([(0, "train", 1), (1, "train", 4), (2, "train", 7), (2, "test", 10)])
    roles = split(frame, FEW_UNSEEN, DataParams(others=("sku2",)), 7)
    assert set(roles.loc[roles["sku"].eq("sku2"), "role"]) == {"other"}


def test_one_sku_is_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="Only 1 SKU would be left"):
        split(manifest([(0, "train", 1), (0, "test", 2)]), FEW_UNSEEN, DataParams(), 7)


def test_queries_with_a_duplicate_are_counted() -> None:
    images = [(0, "train", 0), (1, "train", 30), (0, "test", 1), (1, "test", 60), (1, "test", 31)]
    counted = counts(split(manifest(images), FEW_UNSEEN, DataParams(), 7))
    assert counted["images"] == {"query": 3, "train": 2} and counted["skus"] == {"query": 2, "train": 2}
    assert counted["queries_with_duplicate"] == {"gallery": 2, "train": 2} and counted["unseen"] == []


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
    outputs = [
        subprocess.run(command, env=os.environ | m, check=True, capture_output=True, cwd=tmp_path).stdout
        for m in machines
    ]
    assert outputs[0] == outputs[1] and b"val" in outputs[0]


def products(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """sku, state, drawn_as of each product."""
    table = pd.DataFrame(rows, columns=["sku", "state", "drawn_as"], dtype=str)
    return table.assign(since="", until="")


@THOROUGH
@given(deliveries, st.sets(st.integers(0, 8), max_size=4), st.booleans())
def test_retired_products_are_neither_matched_against_nor_trained_on(
    images: Images,
    gone: set[int],
    serve_catalogue: bool,
) -> None:
    """And all others have the roles of a manifest without them."""
    frame = manifest(images)
    table = products(*((f"sku{sku}", "retired", "") for sku in sorted(gone)))
    data = DataParams(serve_catalogue=serve_catalogue)
    roles = split(frame, SOME_UNSEEN, data, 7, table).merge(frame[["id", "side"]], on="id")
    retired = roles["sku"].isin(table["sku"])
    assert set(roles.loc[retired & roles["side"].eq("catalogue"), "role"]) <= {"idle"}
    assert set(roles.loc[retired & roles["side"].ne("catalogue"), "role"]) <= {"retired"}
    assert not roles.loc[~retired, "role"].isin(["retired", "idle"]).any()
    alone = split(frame[~frame["sku"].isin(table["sku"])], FEW_UNSEEN, data, 7)
    beside = split(frame, FEW_UNSEEN, data, 7, table)
    assert beside[beside["id"].isin(alone["id"])]["role"].tolist() == alone["role"].tolist()


def test_a_catch_all_class_stays_one_even_if_it_is_retired() -> None:
    frame = manifest([(0, "train", 1), (1, "train", 4), (2, "train", 7)])
    roles = split(frame, FEW_UNSEEN, DataParams(others=("sku2",)), 7, products(("sku2", "retired", "")))
    assert set(roles.loc[roles["sku"].eq("sku2"), "role"]) == {"other"}


@pytest.mark.parametrize("serve_catalogue", [False, True])
def test_a_catalogue_picture_serves_where_a_product_has_no_other(serve_catalogue: bool) -> None:
    images = [(0, "train", 1), (0, "catalogue", 4), (1, "train", 7), (2, "catalogue", 10), (3, "test", 13)]
    images += [(3, "catalogue", 16), (4, "catalogue", 19)]
    data = DataParams(serve_catalogue=serve_catalogue)
    table = products(("sku4", "retired", ""))
    roles = split(manifest(images), FEW_UNSEEN, data, 7, table).set_index("id")["role"]
    serves = "gallery" if serve_catalogue else "catalogue"
    assert roles["catalogue/sku0/1"] == "catalogue", "its shelf photos serve"
    assert (roles["catalogue/sku2/3"], roles["catalogue/sku3/5"]) == (serves, serves)
    assert roles["catalogue/sku4/6"] == "idle" and roles["test/sku3/4"] == "query"


def test_a_product_is_drawn_by_the_name_that_its_table_says() -> None:
    params = SplitParams(val_share=0.2, unseen_share=0.3)
    unseen = next(f"sku{number}" for number in range(100) if is_unseen(f"sku{number}", params))
    frame = manifest([(sku, "train", 300 * sku) for sku in range(200, 260)])
    own = split(frame, params, DataParams(), 7).drop_duplicates("sku").set_index("sku")["unseen"]
    kept = own.index[~own][0]
    drawn = split(frame, params, DataParams(), 7, products((kept, "sold", unseen))).set_index("sku")["unseen"]
    assert drawn[kept] and drawn.drop(kept).equals(own.drop(kept))


@pytest.mark.parametrize("serve_catalogue", [False, True])
def test_catalogue_pictures_that_serve_are_in_both_protocols(serve_catalogue: bool) -> None:
    images = [(0, "train", 1), (1, "train", 7), (2, "catalogue", 10), (0, "test", 13), (2, "test", 16)]
    frame = manifest(images).assign(sha256=lambda rows: rows["pixels"])
    roles = split(frame, FEW_UNSEEN, DataParams(serve_catalogue=serve_catalogue), 7)
    rows = roles.merge(frame[["id", "sha256", "side"]], on="id")
    made = protocols(rows)
    assert set(made["catalogue"].query("part == 'gallery'")["id"]) == {"catalogue/sku2/2"}
    assert ("catalogue/sku2/2" in set(made["full"]["id"])) is serve_catalogue
