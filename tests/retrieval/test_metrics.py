"""Hits from lists, checked one query at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skumatch.retrieval import metrics

SKUS = st.sampled_from("abcdefg")


@given(st.lists(st.tuples(st.permutations("abcde"), SKUS), min_size=1, max_size=30), st.integers(1, 5))
def test_hits_are_those_of_a_loop(rows: list[tuple[list[str], str]], k: int) -> None:
    ranked, wanted = (
        np.array([row for row, _ in rows], dtype=object),
        np.array([sku for _, sku in rows], dtype=object),
    )
    places = metrics.right_place(ranked, wanted)
    assert places.tolist() == [row.index(sku) + 1 if sku in row else 0 for row, sku in rows]
    assert metrics.hits_at(places, k).tolist() == [sku in row[:k] for row, sku in rows]


def test_place_among_images_comes_from_the_positions() -> None:
    ranked, wanted = np.array([["a", "b"], ["a", "b"]], dtype=object), np.array(["b", "x"], dtype=object)
    assert metrics.right_place(ranked, wanted, np.array([[1, 9], [1, 2]])).tolist() == [9, 0]


def test_a_query_that_is_nowhere_is_never_a_hit() -> None:
    assert not metrics.hits_at(np.array([0, 0]), 5).any()


@given(st.lists(st.tuples(SKUS, st.booleans()), min_size=1))
def test_mean_by_is_that_of_a_loop(pairs: list[tuple[str, bool]]) -> None:
    labels, values = np.array([sku for sku, _ in pairs], dtype=object), np.array([hit for _, hit in pairs])
    names, means, counts = metrics.mean_by(values, labels)
    assert names.tolist() == sorted(set(labels))
    for name, mean, count in zip(names, means, counts, strict=True):
        own = [hit for sku, hit in pairs if sku == name]
        assert (mean, count) == (sum(own) / len(own), len(own))


def test_partners_are_looked_up_in_the_gallery() -> None:
    assert metrics.with_partner(np.array(["a", "b", "a"], dtype=object), ["b", "c"]).tolist() == [
        False,
        True,
        False,
    ]
