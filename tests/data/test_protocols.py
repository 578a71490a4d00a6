"""The protocols' lists: their members and non-members, independent of names and order of files."""

from __future__ import annotations

import hashlib

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.data.protocols import describe, protocols
from tests.proving import count

ROLES = ["train", "val", "gallery", "query", "query", "catalogue", "other"]
Images = list[tuple[int, str]]  # SKU and role


def rows(images: Images, name: str = "{}") -> pd.DataFrame:
    """Pictures of content of their own; SKUs 0 and 1 are unseen."""
    columns = {
        "id": [f"{role}/{sku}/{name.format(i)}" for i, (sku, role) in enumerate(images)],
        "sku": [f"sku{sku}" for sku, _ in images],
        "role": [role for _, role in images],
        "unseen": [sku < 2 for sku, _ in images],
        "sha256": [hashlib.sha256(str(i).encode()).hexdigest() for i in range(len(images))],
    }
    return pd.DataFrame(columns)


deliveries = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(ROLES)), max_size=80).map(
    lambda images: [(3, "train"), (3, "query"), *images]
)
THOROUGH = settings(max_examples=count(60, 1000))


@THOROUGH
@given(deliveries)
def test_each_protocol_has_whom_it_names(images: Images) -> None:
    frame = rows(images)
    made = {name: lists.merge(frame, on="id") for name, lists in protocols(frame).items()}
    assert not any(lists["role"].eq("other").any() for lists in made.values())
    gallery, query = frame["role"].isin(["train", "val", "gallery"]), frame["role"].eq("query")
    sides = {
        name: {part: set(lists.loc[lists["part"].eq(part), "id"]) for part in set(lists["part"])}
        for name, lists in made.items()
    }
    assert sides["full"] == {"gallery": set(frame.loc[gallery, "id"]), "query": set(frame.loc[query, "id"])}
    assert sides["test_loo"] == {"both": set(frame.loc[query, "id"])}
    unseen = {
        "gallery": set(frame.loc[gallery & frame["unseen"], "id"]),
        "query": set(frame.loc[query & frame["unseen"], "id"]),
    }
    assert sides.get("unseen", unseen) == unseen and ("unseen" in sides) == all(unseen.values())
    catalogue = set(frame.loc[frame["role"].eq("catalogue"), "id"])
    assert ("catalogue" in sides) == bool(catalogue)
    if catalogue:
        assert sides["catalogue"] == {"gallery": catalogue, "query": sides["full"]["query"]}


@THOROUGH
@given(deliveries)
def test_k5_draws_at_most_five_and_all_where_there_are_fewer(images: Images) -> None:
    frame = rows(images)
    lists = protocols(frame)["k5"].merge(frame, on="id")
    assert set(lists["draw"]) == set(range(10)) and not lists.duplicated(["draw", "id"]).any()
    whole = protocols(frame)["full"].merge(frame, on="id").groupby(["part", "sku"]).size()
    for (_, part, sku), size in lists.groupby(["draw", "part", "sku"]).size().items():
        assert size == min(5, whole[part, sku])


@THOROUGH
@given(deliveries, st.integers(0, 1000))
def test_names_and_order_change_no_protocol(images: Images, seed: int) -> None:
    first, second = rows(images), rows(images, "{:04}.jpg").sample(frac=1, random_state=seed)
    assert describe(first, protocols(first)) == describe(second, protocols(second))


def test_draws_differ_and_a_relabelled_picture_changes_the_hash() -> None:
    images = [(sku, role) for sku in range(6) for role in ("train", "query") for _ in range(20)]
    frame = rows(images)
    lists = protocols(frame)["k5"]
    assert len({frozenset(part["id"]) for _, part in lists.groupby("draw")}) == 10
    before = describe(frame, protocols(frame))
    assert before["k5"]["draws"] == 10 and before["full"]["gallery"] == before["full"]["queries"] == 120
    relabelled = frame.assign(sku=["sku4" if i == 60 else sku for i, sku in enumerate(frame["sku"])])
    after = describe(relabelled, protocols(relabelled))
    assert before["full"]["hash"] != after["full"]["hash"]
