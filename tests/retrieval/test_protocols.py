"""Figures under the protocols, against counts made by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.data.protocols import protocols
from skumatch.params import EvaluateParams
from skumatch.retrieval.protocols import ask, hits_without_duplicates, without_duplicates
from tests.proving import count

QUICK = EvaluateParams(resamples=200)


class Shop:
    """Random pictures of six SKUs as small integer vectors.

    There are many ties, duplicates across both sides, and some SKUs on one side only.
    """

    def __init__(self, seed: int) -> None:
        draws = np.random.default_rng(seed)
        size = int(draws.integers(12, 40))
        self.items = pd.DataFrame(
            {
                "id": [f"{i:03}" for i in draws.permutation(size)],
                "sku": [f"s{i}" for i in draws.integers(0, 6, size)],
                "role": draws.choice(["gallery", "gallery", "query", "catalogue"], size),
                "group": [f"g{i}" for i in draws.integers(0, 15, size)],
                "unseen": False,
            }
        )
        self.items.loc[:1, "role"], self.items.loc[:1, "sku"] = ["gallery", "query"], "s0"
        self.items["sha256"] = [hashlib.sha256(image.encode()).hexdigest() for image in self.items["id"]]
        self.items["unseen"] = self.items["sku"].isin(["s4", "s5"])
        self.vectors = draws.integers(-1, 2, (size, 3)).astype(np.float32)
        self.lists = protocols(self.items)

    def hit(self, query: int, gallery: list[int]) -> bool | None:
        """Whether the nearest picture in `gallery`, ties by id, is of the query's SKU.

        None if none could be.
        """
        sku = self.items["sku"]
        if sku[query] not in {sku[i] for i in gallery}:
            return None
        best = min(
            gallery, key=lambda i: (-float(self.vectors[i] @ self.vectors[query]), self.items["id"][i])
        )
        return bool(sku[best] == sku[query])

    def where(self, column: str, value: object) -> list[int]:
        return self.items.index[self.items[column].eq(value)].tolist()


shops = st.builds(Shop, st.integers(0, 2**32 - 1))


@given(shops)
@settings(max_examples=count(30, 500))
def test_top1_without_duplicates_equals_a_count_by_hand(shop: Shop) -> None:
    gallery, groups = shop.where("role", "gallery"), shop.items["group"]
    hits = [shop.hit(q, [i for i in gallery if groups[i] != groups[q]]) for q in shop.where("role", "query")]
    scored = [hit for hit in hits if hit is not None]
    answered = ask("full", shop.lists["full"], shop.items, shop.vectors)
    figure = without_duplicates(
        hits_without_duplicates(answered, shop.items, shop.vectors), answered, QUICK, 1
    )
    if not scored:
        assert figure is None
        return
    assert figure is not None and (figure.n, figure.without_partner) == (len(scored), len(hits) - len(scored))
    assert figure.top1 == pytest.approx(np.mean(scored), abs=1e-12)
    assert figure.interval[0] <= figure.top1 <= figure.interval[1]


@given(shops)
@settings(max_examples=count(30, 500))
def test_a_query_never_finds_itself(shop: Shop) -> None:
    queries = shop.where("role", "query")
    hits = [shop.hit(q, [i for i in queries if i != q]) for q in queries]
    scored = [hit for hit in hits if hit is not None]
    answered = ask("test_loo", shop.lists["test_loo"], shop.items, shop.vectors)
    assert answered.answerable == bool(scored)
    if scored:
        evaluation = answered.evaluate(QUICK, 1, "00")
        assert (evaluation.n, evaluation.without_partner) == (len(scored), len(hits) - len(scored))
        assert evaluation.top1 == pytest.approx(np.mean(scored), abs=1e-12)


@given(shops, st.sampled_from(["unseen", "catalogue"]))
@settings(max_examples=count(30, 500))
def test_galleries_hold_only_what_the_protocol_names(shop: Shop, name: str) -> None:
    if name not in shop.lists:
        return
    unseen = set(shop.where("unseen", True)) if name == "unseen" else set(shop.items.index)
    gallery = [i for i in shop.where("role", "gallery" if name == "unseen" else "catalogue") if i in unseen]
    hits = [shop.hit(q, gallery) for q in shop.where("role", "query") if q in unseen]
    scored = [hit for hit in hits if hit is not None]
    answered = ask(name, shop.lists[name], shop.items, shop.vectors)  # type: ignore[arg-type]
    assert answered.answerable == bool(scored)
    if scored:
        evaluation = answered.evaluate(QUICK, 1, "00")
        assert (evaluation.protocol, evaluation.n) == (
            name,
            len(scored),
        ) and evaluation.top1 == pytest.approx(np.mean(scored), abs=1e-12)


@given(shops)
@settings(max_examples=30)
def test_k5_is_the_mean_over_its_draws(shop: Shop) -> None:
    lists, hits = shop.lists["k5"], []
    at = {image: i for i, image in shop.items["id"].items()}
    for _, draw in lists.groupby("draw"):
        sides = {part: [at[image] for image in rows["id"]] for part, rows in draw.groupby("part")}
        hits += [shop.hit(q, sides["gallery"]) for q in sides["query"]]
    scored = [hit for hit in hits if hit is not None]
    answered = ask("k5", lists, shop.items, shop.vectors)
    assert answered.answerable == bool(scored)
    if scored:
        evaluation = answered.evaluate(QUICK, 1, "00")
        assert evaluation.n == len(scored) and evaluation.top1 == pytest.approx(np.mean(scored), abs=1e-12)


def test_queries_that_were_dropped_are_in_no_figure() -> None:
    shop = Shop(3)
    dropped = shop.where("role", "query")[0]
    kept = shop.items.drop(index=dropped).reset_index(drop=True)
    answered = ask("full", shop.lists["full"], kept, np.delete(shop.vectors, dropped, axis=0))
    assert shop.items["id"][dropped] not in answered.ranking.query_ids
    whole = ask("full", shop.lists["full"], shop.items, shop.vectors)
    assert (
        answered.hashes["gallery"] == whole.hashes["gallery"]
        and answered.hashes["queries"] != whole.hashes["queries"]
    )
