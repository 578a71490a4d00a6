"""Slices: their members, none without data, and the clusters of their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.params import EvaluateParams
from skumatch.report.slices import FAMILIES, NAMES
from skumatch.retrieval.clusters import clusters_of
from skumatch.retrieval.slices import slices_of, thirds

QUICK = EvaluateParams(resamples=200)
VALUES = st.lists(st.integers(0, 12), min_size=1, max_size=60)


@given(VALUES)
def test_thirds_keep_equal_values_together_and_order(values: list[int]) -> None:
    third = thirds(np.array(values))
    assert set(third) <= {0, 1, 2}
    for value, place in zip(values, third, strict=True):
        assert {place} == {p for v, p in zip(values, third, strict=True) if v == value}
        assert all(p <= place for v, p in zip(values, third, strict=True) if v < value)


@given(st.integers(1, 40))
def test_thirds_of_distinct_values_are_equal_in_number(size: int) -> None:
    counts = np.bincount(thirds(np.random.default_rng(size).permutation(3 * size)), minlength=3)
    assert counts.tolist() == [size] * 3


def test_a_large_group_of_equals_does_not_pull_the_rest_into_its_third() -> None:
    assert thirds(np.array([5] * 4 + [10] * 20)).tolist() == [0] * 4 + [1] * 20
    assert thirds(np.array([10] * 24)).tolist() == [1] * 24


def shop() -> tuple[pd.DataFrame, np.ndarray]:
    """Six SKUs of 1, 2, 3, 10, 20 and 30 gallery images with two queries each."""
    skus = np.repeat(list("abcdef"), 2)
    facts = pd.DataFrame({"sku": skus, "gallery_images": np.repeat([1, 2, 3, 10, 20, 30], 2)})
    facts["width"], facts["height"] = 100, np.arange(50, 170, 10)
    facts["blur"], facts["brightness"] = np.arange(12) * 100.0, 128.0
    facts["unseen"], facts["new"] = facts["sku"].eq("a"), False
    facts["product_group"] = facts["sku"].map({"a": "milk", "b": "milk", "c": "juice"})
    return facts, facts["sku"].isin(["a", "d", "e", "f"]).to_numpy() & (np.arange(12) != 6)


def test_slices_tell_queries_apart_by_what_is_known_of_them() -> None:
    facts, hits = shop()
    slice_by_name = {
        (part.family, part.name): part
        for part in slices_of(facts, hits, clusters_of(facts["sku"], facts["sku"]), QUICK, seed=1)
    }
    assert [name for family, name in slice_by_name if family == "thirds"] == ["head", "middle", "tail"]
    assert (
        slice_by_name["thirds", "tail"].n,
        slice_by_name["thirds", "tail"].skus,
        slice_by_name["thirds", "tail"].top1,
    ) == (
        4,
        2,
        0.5,
    )
    assert (
        slice_by_name["thirds", "tail"].about == "1 to 2 gallery images"
        and slice_by_name["thirds", "head"].about == "20 to 30 gallery images"
    )
    assert slice_by_name["thirds", "middle"].top1 == 0.25 and slice_by_name["thirds", "head"].top1 == 1
    assert (
        slice_by_name["size", "low"].about == "shorter side 50 to 80 px"
    )  # four of 100 px and more are equal: their middle is in the last third
    assert sum(part.n for (family, _), part in slice_by_name.items() if family == "aspect") == 12
    assert slice_by_name["blur", "high"].about == "variance of the Laplacian 800 to 1,100"
    assert (slice_by_name["unseen", "unseen"].n, slice_by_name["unseen", "seen"].n) == (2, 10)
    assert (
        slice_by_name["group", "milk"].n,
        slice_by_name["group", "milk"].top1,
        slice_by_name["group", "juice"].n,
    ) == (4, 0.5, 2)
    for part in slice_by_name.values():
        assert 0 <= part.interval[0] <= part.top1 <= part.interval[1] <= 1


def test_families_that_tell_nothing_apart_are_left_out() -> None:
    facts, hits = shop()
    families = {
        part.family for part in slices_of(facts, hits, clusters_of(facts["sku"], facts["sku"]), QUICK, seed=1)
    }
    assert families == {
        "thirds",
        "size",
        "aspect",
        "blur",
        "unseen",
        "group",
    }  # all are equally bright, and none is new
    bare = facts[["sku", "gallery_images"]].assign(gallery_images=7)
    assert slices_of(bare, hits, clusters_of(facts["sku"], facts["sku"]), QUICK, seed=1) == ()


def test_the_slices_of_a_family_hold_each_query_once() -> None:
    facts, hits = shop()
    slices = slices_of(facts, hits, clusters_of(facts["sku"], facts["sku"]), QUICK, seed=1)
    for family in {part.family for part in slices} - {"group"}:
        parts = [part for part in slices if part.family == family]
        assert sum(part.n for part in parts) == len(facts)
        assert sum(part.n * part.top1 for part in parts) == pytest.approx(hits.sum())


PAIRS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), min_size=1, max_size=40)


@given(PAIRS)
def test_clusters_are_the_finest_that_part_neither_sku_nor_group(pairs: list[tuple[int, int]]) -> None:
    skus, groups = (
        np.array([f"{letter}{pair[side]}" for pair in pairs], dtype=object)
        for side, letter in ((0, "s"), (1, "g"))
    )
    clusters = clusters_of(skus, groups)
    names = list(range(len(pairs)))
    for _ in names:  # spread the smallest name until nothing changes
        names = [
            min(n for n, pair in zip(names, pairs, strict=True) if pair[0] == own[0] or pair[1] == own[1])
            for own in pairs
        ]
    assert (
        len(set(zip(clusters.tolist(), names, strict=True))) == len(set(names)) == len(set(clusters.tolist()))
    )


def test_products_served_from_a_catalogue_picture_are_a_slice() -> None:
    facts, hits = shop()
    facts["catalogue_only"] = facts["sku"].isin(["b", "c"])
    parts = {
        part.name: part
        for part in slices_of(facts, hits, clusters_of(facts["sku"], facts["sku"]), QUICK, seed=1)
        if part.family == "catalogue_only"
    }
    sizes = {name: (part.n, part.skus) for name, part in parts.items()}
    assert sizes == {"catalogue": (4, 2), "shelf": (8, 4)}
    assert parts["catalogue"].about == "products served from their catalogue picture alone"
    assert parts["catalogue"].top1 == 0 and "catalogue_only" in FAMILIES and "catalogue_only" in NAMES
