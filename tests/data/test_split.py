from __future__ import annotations

import hashlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.config import DataParams, SplitParams
from skumatch.data.split import split
from skumatch.errors import DataError


def manifest(images: list[tuple[int, str, int]]) -> pd.DataFrame:
    pixels = [hashlib.sha256(str(picture).encode()).hexdigest() for _, _, picture in images]
    rows = [(f"{side}/sku{sku}/{i}", pixels[i], f"sku{sku}", side) for i, (sku, side, _) in enumerate(images)]
    return pd.DataFrame(rows, columns=["id", "pixels", "sku", "side"])


deliveries = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["train", "test"]), st.integers(0, 60)), min_size=1, max_size=120).map(
    lambda images: [(100, "train", 1), (101, "train", 2), *images]  # two SKUs of which at least one image is trained on
)
FEW_UNSEEN = SplitParams(val_share=0.3, unseen_share=0.0)


@settings(max_examples=300, deadline=None)
@given(deliveries, st.randoms(use_true_random=False))
def test_roles_follow_from_content_alone(images: list[tuple[int, str, int]], random) -> None:  # type: ignore[no-untyped-def]
    frame = manifest(images)
    shuffled = frame.sample(frac=1, random_state=random.randrange(1000))
    first, second = (split(f, FEW_UNSEEN, DataParams(), 7) for f in (frame, shuffled))
    pd.testing.assert_frame_equal(first, second)
    joined = first.merge(frame[["id", "side", "pixels"]], on="id")
    assert len(first) == len(frame)
    assert set(joined.loc[joined["side"].eq("test"), "role"]) <= {"query"}
    assert "query" not in set(joined.loc[joined["side"].eq("train"), "role"])
    for _, group in joined[joined["role"].isin(["train", "val"])].groupby(["sku", "pixels"]):
        assert group["role"].nunique() == 1  # copies of a picture never lie on both sides


@given(st.integers(0, 5))
def test_unseen_skus_are_fixed_by_name_never_trained_on_and_stay_in_the_gallery(seed: int) -> None:
    frame = manifest([(sku, side, sku * 10 + n) for sku in range(60) for n, side in enumerate(["train"] * 4 + ["test"])])
    found = split(frame, SplitParams(val_share=0.2, unseen_share=0.2), DataParams(), seed)
    again = split(frame[frame["sku"] != "sku7"], SplitParams(val_share=0.2, unseen_share=0.2), DataParams(), seed + 1)
    unseen = set(found.loc[found["unseen"], "sku"])
    assert 0 < len(unseen) < 30
    assert unseen - {"sku7"} == set(again.loc[again["unseen"], "sku"])
    assert set(found.loc[found["unseen"], "role"]) == {"gallery", "query"}


def test_catch_all_classes_have_a_role_of_their_own() -> None:
    frame = manifest([(0, "train", 1), (1, "train", 2), (2, "train", 3), (2, "test", 4)])
    found = split(frame, FEW_UNSEEN, DataParams(others=("sku2",)), 7)
    assert set(found.loc[found["sku"].eq("sku2"), "role"]) == {"other"}


def test_one_sku_is_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="Only 1 SKU would be left"):
        split(manifest([(0, "train", 1), (0, "test", 2)]), FEW_UNSEEN, DataParams(), 7)
