"""Answers as they are served (the nearest product, or unknown), the queries, and sums of shares."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.params import EvaluateParams
from skumatch.retrieval.answers import SCHEMA, ServedGallery, ask, shares
from skumatch.retrieval.calibration import Embedded
from skumatch.retrieval.search import SearchIndex, nearest_products
from skumatch.retrieval.thresholds import Thresholds

DIM = 16
NO_THRESHOLD = Thresholds()
Rows = list[tuple[str, str, str, str]]  # id, SKU, role, duplicate group


def axis(number: int, tilt: float = 0.0) -> np.ndarray:
    """The unit vector of a product; a tilt makes another picture of it."""
    vector = np.zeros(DIM, np.float32)
    vector[number], vector[DIM - 1] = np.cos(tilt), np.sin(tilt)
    return vector


def embedded(rows: Rows, vectors: list[np.ndarray]) -> Embedded:
    items = pd.DataFrame(rows, columns=["id", "sku", "role", "group"]).assign(trained=False)
    return Embedded(items, np.stack(vectors).astype(np.float32))


def gallery(skus: list[str], vectors: list[np.ndarray], **thresholds: float) -> ServedGallery:
    return ServedGallery(
        skus,
        np.stack(vectors).astype(np.float32),
        Thresholds(**thresholds),
        "faiss",
        "cpu",
        np.stack(VECTORS),
    )


TODAY: Rows = [
    ("train/a", "a", "gallery", "g1"),
    ("train/b", "b", "gallery", "g2"),
    ("train/new", "new", "gallery", "g3"),
    ("train/shy 1", "shy", "gallery", "g4"),
    ("train/shy 2", "shy", "gallery", "g5"),
    ("train/alone", "alone", "gallery", "g6"),
    ("test/a", "a", "query", "q1"),
    ("test/new", "new", "query", "q2"),
    ("test/gone", "gone", "query", "q3"),
    ("test/stranger", "stranger", "query", "q4"),
    ("test/a copy", "a", "query", "g1"),
    ("test/b served", "b", "query", "q5"),
    ("test/b served too", "b", "query", "q5"),
]
VECTORS = [
    axis(0), axis(1), axis(3), axis(4, 0.1), axis(4, -0.1), axis(5),
    axis(0, 0.2), axis(3, 0.2), axis(2, 0.2), axis(6, 0.1), axis(0, 0.3), axis(1), axis(1, 0.3),
]  # fmt: skip
SERVED = gallery(["a", "b", "gone"], [axis(0), axis(1), axis(2)])


def asked(served: ServedGallery = SERVED, released: ServedGallery | None = None) -> pd.DataFrame:
    today = embedded(TODAY, VECTORS)
    rows = today.gallery
    refreshed = ServedGallery(
        rows["sku"].tolist(),
        today.vectors[rows.index.to_numpy()],
        NO_THRESHOLD,
        "faiss",
        "cpu",
        today.vectors,
    )
    galleries = {"served": served, "refreshed": refreshed} | ({"released": released} if released else {})
    return ask(today, galleries, "refreshed")


def test_every_photo_gets_an_answer_of_every_gallery_and_the_status_of_its_product() -> None:
    rows = asked().set_index("query")
    photos = rows[rows["asked_as"].eq("photo")]
    assert photos["status"].to_dict() == {
        "test/a": "old",
        "test/new": "new",
        "test/gone": "retired",
        "test/stranger": "other",
    }
    assert rows.loc[["test/a", "test/gone"], "served"].tolist() == ["a", "gone"]
    assert rows.loc[["test/a", "test/new"], "refreshed"].tolist() == ["a", "new"]
    assert rows["refreshed"].ne("gone").all(), "a product that isn't in the gallery can't be named"
    assert rows["released"].isna().all() and rows["challenger"].isna().all()


def test_a_photo_that_a_gallery_holds_is_asked_of_none_nor_are_its_duplicates() -> None:
    """`a copy` has its group in today's gallery.

    `b served` is a picture that serves, `b served too` its duplicate.
    """
    assert {"test/a copy", "test/b served", "test/b served too"} & set(asked()["query"]) == set()
    other = gallery(["a", "gone"], [axis(0), axis(2)])
    assert {"test/b served", "test/b served too"} <= set(asked(other)["query"])
    released = gallery(["b"], [axis(1)])
    assert "test/b served too" not in set(asked(other, released)["query"]), (
        "nor what the last model release holds"
    )


def test_a_new_product_without_photos_is_asked_by_its_gallery_photos_in_turn() -> None:
    rows = asked()
    alone = rows[rows["asked_as"].eq("gallery")].set_index("query")
    refreshed = alone["refreshed"].fillna("").to_dict()
    assert refreshed == {"train/shy 1": "shy", "train/shy 2": "shy", "train/alone": ""}, (
        "not `new`, which has a photo"
    )
    assert alone["served"].isna().all() and set(alone["status"]) == {"new"}


def test_a_picture_below_a_threshold_is_unknown() -> None:
    rows = asked(gallery(["a", "b", "gone"], [axis(0), axis(1), axis(2)], similarity=0.5)).set_index("query")
    assert rows.loc["test/a", "served_unknown"] == False  # noqa: E712 - pandas' own
    assert rows.loc["test/stranger", "served_unknown"] == True  # noqa: E712


def test_the_columns_are_those_of_the_file() -> None:
    assert list(asked().columns) == SCHEMA.names


def test_shares_add_up_and_a_product_that_is_lacking_is_never_right() -> None:
    result = shares(asked(), EvaluateParams(resamples=200), 7)
    assert set(result) == {"served", "refreshed"} and set(result["served"]) == {"all", "old", "new"}
    for parts in result.values():
        for share in parts.values():
            assert share.right + share.wrong + share.unknown == pytest.approx(1)
            assert share.interval[0] <= share.right <= share.interval[1]
    assert (result["served"]["all"].n, result["served"]["new"].right, result["refreshed"]["new"].right) == (
        2,
        0,
        1,
    )
    assert result["served"]["old"].right == 1


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 10_000))
def test_the_nearest_products_are_those_of_a_search_through_everything(
    skus: int, images: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(images, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"sku {number}" for number in rng.integers(0, skus, images)]
    queries = vectors[rng.integers(0, images, 5)]
    wanted = min(2, len(set(names)))
    for query, nearest in zip(
        queries, nearest_products(SearchIndex(vectors), names, queries, wanted), strict=True
    ):
        cosines = vectors.astype(np.float64) @ query.astype(np.float64)
        best = sorted(
            {
                name: max(c for c, n in zip(cosines, names, strict=True) if n == name) for name in names
            }.values(),
            reverse=True,
        )
        assert [cosine for _, cosine in nearest] == pytest.approx(best[:wanted], abs=1e-6)
        assert len({names[row] for row, _ in nearest}) == wanted


def test_every_photo_of_a_retired_product_is_asked_but_what_a_gallery_holds() -> None:
    rows = [*TODAY, ("train/gone 1", "gone", "retired", "r1"), ("train/gone copy", "gone", "retired", "g2")]
    vectors = [*VECTORS, axis(2, 0.3), axis(2, 0.4)]
    today = embedded(rows, vectors)
    pictures = np.stack(vectors).astype(np.float32)
    shelf = today.gallery
    own = pictures[shelf.index.to_numpy()]
    refreshed = ServedGallery(shelf["sku"].tolist(), own, NO_THRESHOLD, "faiss", "cpu", pictures)
    served = ServedGallery(SERVED.skus, SERVED.vectors, NO_THRESHOLD, "faiss", "cpu", pictures)
    answers = ask(today, {"served": served, "refreshed": refreshed}, "refreshed").set_index("query")
    assert answers.loc["train/gone 1", ["status", "served"]].tolist() == ["retired", "gone"]
    assert "train/gone copy" not in answers.index, "a duplicate of a picture that serves"
    assert answers["refreshed"].ne("gone").all()
