"""Ranked lists and figures against a brute-force oracle; the JSON form is frozen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.errors import DataError
from skumatch.files import write_parquet
from skumatch.params import EvaluateParams
from skumatch.retrieval import rank as module
from skumatch.retrieval import search
from skumatch.retrieval.evaluate import RANKING_SCHEMA, Evaluation, Ranking, evaluate, per_sku, rank
from tests.proving import count

QUICK = EvaluateParams(resamples=200)


class Problem:
    """A seeded gallery and queries of small integer vectors: many ties, some queries without a partner."""

    def __init__(self, seed: int, images: int = 40, queries: int = 12, skus: int = 8) -> None:
        generator = np.random.default_rng(seed)
        self.gallery = generator.integers(-1, 2, (images, 3)).astype(np.float32)
        self.gallery_skus = [f"s{i}" for i in generator.integers(0, skus, images)]
        self.gallery_ids = [f"train/{i:03}" for i in generator.permutation(images)]
        self.queries = generator.integers(-1, 2, (queries, 3)).astype(np.float32)
        self.query_skus = [f"s{i}" for i in generator.integers(0, skus + 2, queries)]
        self.query_ids = [f"test/{i:03}" for i in generator.permutation(queries)]

    def rank(self, backend: str = "faiss") -> Ranking:
        sides = (
            self.gallery,
            self.gallery_ids,
            self.gallery_skus,
            self.queries,
            self.query_ids,
            self.query_skus,
        )
        return rank(*sides, backend=backend)  # type: ignore[arg-type]

    def ordered(self, query: int) -> list[tuple[float, str, str]]:
        """All gallery images, best first, ties by id: (similarity, id, SKU)."""
        scores = [float(row @ self.queries[query]) for row in self.gallery]
        return sorted(
            zip(scores, self.gallery_ids, self.gallery_skus, strict=True),
            key=lambda item: (-item[0], item[1]),
        )

    def distinct(self, query: int) -> list[tuple[str, str, float, int]]:
        """The best image of each SKU, best first, five at most: (SKU, id, similarity, position)."""
        seen: dict[str, tuple[str, str, float, int]] = {}
        for position, (score, image, sku) in enumerate(self.ordered(query), start=1):
            seen.setdefault(sku, (sku, image, score, position))
        return list(seen.values())[:5]


problems = st.builds(
    Problem, st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12), st.integers(1, 9)
)


@given(problem=problems, backend=st.sampled_from(["faiss", "torch"]), first_k=st.sampled_from([1, 2, 32]))
@settings(max_examples=count(30, 500))
def test_ranking_equals_brute_force(problem: Problem, backend: str, first_k: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FIRST_K", first_k)  # so that lists must grow
        patch.setattr(module, "BLOCK", 5)
        patch.setattr(search, "CELLS", 64)
        ranking = problem.rank(backend)
    assert ranking.query_ids.tolist() == sorted(problem.query_ids)
    for row, query_id in enumerate(ranking.query_ids):
        query = problem.query_ids.index(query_id)
        lists = (
            ranking.skus[row],
            ranking.gallery_ids[row],
            ranking.similarities[row],
            ranking.positions[row],
        )
        assert list(zip(*(column.tolist() for column in lists), strict=True)) == problem.distinct(query)
        assert ranking.query_skus[row] == problem.query_skus[query]


@given(problem=problems)
@settings(max_examples=count(30, 500))
def test_figures_equal_brute_force(problem: Problem) -> None:
    scored = [q for q, sku in enumerate(problem.query_skus) if sku in problem.gallery_skus]
    if not scored:
        with pytest.raises(DataError, match="None of the"):
            evaluate(problem.rank(), problem.gallery_skus, "full", QUICK, seed=1)
        return
    evaluation = evaluate(problem.rank(), problem.gallery_skus, "full", QUICK, seed=1)
    own = {q: problem.query_skus[q] for q in scored}
    assert (evaluation.n, evaluation.without_partner, evaluation.skus) == (
        len(scored),
        len(problem.query_skus) - len(scored),
        len(set(own.values())),
    )
    for k in (1, 3, 5):
        by_sku = [own[q] in [sku for sku, *_ in problem.distinct(q)[:k]] for q in scored]
        by_image = [own[q] in [sku for *_, sku in problem.ordered(q)[:k]] for q in scored]
        assert getattr(evaluation, f"top{k}") == pytest.approx(np.mean(by_sku), abs=1e-12)
        assert getattr(evaluation, f"image_top{k}") == pytest.approx(np.mean(by_image), abs=1e-12)
    hits = {q: problem.distinct(q)[0][0] == own[q] for q in scored}
    macro = np.mean([np.mean([hits[q] for q in scored if own[q] == sku]) for sku in set(own.values())])
    assert evaluation.macro_top1 == pytest.approx(macro, abs=1e-12)
    table = per_sku(problem.rank(), problem.gallery_skus)
    assert table["sku"].tolist() == sorted(set(own.values())) and table["n"].sum() == evaluation.n
    assert (table["n"] * table["top1"]).sum() / evaluation.n == pytest.approx(evaluation.top1)


def test_figures_match_pytorch_metric_learning() -> None:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    generator = np.random.default_rng(0)
    gallery, queries = (
        generator.normal(size=(200, 16)).astype(np.float32),
        generator.normal(size=(80, 16)).astype(np.float32),
    )
    gallery, queries = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (gallery, queries))
    labels, wanted = generator.integers(0, 10, 200), generator.integers(0, 12, 80)  # two SKUs have no partner
    texts = [[str(label) for label in side] for side in (labels, wanted)]
    ranking = rank(
        gallery, [f"g{i}" for i in range(200)], texts[0], queries, [f"q{i}" for i in range(80)], texts[1]
    )
    pml_figures = AccuracyCalculator(include=("precision_at_1",), k=1).get_accuracy(
        queries, wanted, gallery, labels
    )
    evaluation = evaluate(ranking, texts[0], "full", QUICK, seed=1)
    assert (
        evaluation.top1 == pytest.approx(pml_figures["precision_at_1"], abs=1e-12)
        and evaluation.without_partner > 0
    )


@given(problem=problems, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_order_of_rows_does_not_matter(problem: Problem, seed: int) -> None:
    before = problem.rank().to_frame()
    generator = np.random.default_rng(seed)
    for vectors, ids, skus in (
        ("gallery", "gallery_ids", "gallery_skus"),
        ("queries", "query_ids", "query_skus"),
    ):
        order = generator.permutation(len(getattr(problem, ids)))
        setattr(problem, vectors, getattr(problem, vectors)[order])
        for name in (ids, skus):
            setattr(problem, name, [getattr(problem, name)[i] for i in order])
    pd.testing.assert_frame_equal(problem.rank().to_frame(), before)


def test_a_query_without_a_partner_is_never_a_hit() -> None:
    vectors = np.eye(3, dtype=np.float32)
    ranking = rank(vectors[:2], ["a1", "b1"], ["a", "b"], vectors, ["q1", "q2", "q3"], ["a", "b", "c"])
    evaluation = evaluate(ranking, ["a", "b"], "full", QUICK, seed=1)
    assert (evaluation.top1, evaluation.n, evaluation.without_partner) == (1.0, 2, 1)
    assert not per_sku(ranking, ["a", "b"])["sku"].eq("c").any()


def test_a_sku_with_many_images_does_not_crowd_out_the_others() -> None:
    gallery = np.array([[1.0, 0.0]] * 300 + [[0.0, 1.0]], np.float32)
    ids, skus = [f"g{i:03}" for i in range(301)], ["crowd"] * 300 + ["lone"]
    ranking = rank(gallery, ids, skus, np.array([[0.9, 0.1]], np.float32), ["q"], ["lone"])
    assert ranking.skus.tolist() == [["crowd", "lone"]] and ranking.positions.tolist() == [[1, 301]]
    evaluation = evaluate(ranking, skus, "full", QUICK, seed=1)
    assert (evaluation.top1, evaluation.top3, evaluation.image_top5) == (0.0, 1.0, 0.0)


def test_frame_goes_through_parquet_and_back(tmp_path: Path) -> None:
    ranking = Problem(1).rank()
    frame = ranking.to_frame()
    assert (
        list(frame.columns)
        == RANKING_SCHEMA.names
        == ["query_id", "query_sku", "rank", "sku", "similarity", "gallery_id", "position"]
    )
    assert frame[["query_id", "rank"]].apply(tuple, axis=1).is_monotonic_increasing
    write_parquet(tmp_path / "ranking.parquet", frame, RANKING_SCHEMA)
    again = Ranking.from_frame(pq.read_table(tmp_path / "ranking.parquet").to_pandas())
    for name in ("query_ids", "query_skus", "skus", "similarities", "gallery_ids", "positions"):
        np.testing.assert_array_equal(getattr(again, name), getattr(ranking, name))
    gallery = Problem(1).gallery_skus
    assert again.depth is None  # what the whole lists say is for who ranked
    assert evaluate(again, gallery, "full", QUICK, 1) == evaluate(
        replace(ranking, depth=None), gallery, "full", QUICK, 1
    )


@pytest.mark.parametrize("spoil", ["row", "order", "column", "twice"])
def test_spoiled_frames_are_refused(spoil: str) -> None:
    frame = Problem(1).rank().to_frame()
    spoiled = {
        "row": frame.drop(index=7),
        "order": frame.iloc[::-1],
        "column": frame.drop(columns="sku"),
        "twice": pd.concat([frame, frame]),
    }
    with pytest.raises(DataError, match="run the evaluate stage again"):
        Ranking.from_frame(spoiled[spoil].reset_index(drop=True))


def test_no_queries_make_an_empty_ranking_that_can_not_be_scored() -> None:
    ranking = rank(
        np.eye(2, dtype=np.float32), ["a1", "b1"], ["a", "b"], np.empty((0, 2), np.float32), [], []
    )
    assert len(Ranking.from_frame(ranking.to_frame())) == 0
    with pytest.raises(DataError, match="None of the 0 queries"):
        evaluate(ranking, ["a", "b"], "full", QUICK, seed=1)


def test_empty_gallery_is_refused() -> None:
    with pytest.raises(DataError, match="gallery is empty"):
        rank(np.empty((0, 2), np.float32), [], [], np.ones((1, 2), np.float32), ["q"], ["a"])


def test_an_image_on_both_sides_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="id occurs twice"):
        rank(np.eye(2, dtype=np.float32), ["x", "y"], ["a", "b"], np.ones((1, 2), np.float32), ["x"], ["a"])


def test_json_form_is_frozen() -> None:
    problem = Problem(2)
    evaluation = evaluate(
        problem.rank(), problem.gallery_skus, "full", QUICK, seed=1, hashes={"gallery": "00"}
    )
    form = json.loads(json.dumps(evaluation.model_dump(mode="json"), allow_nan=False))
    shares = {
        "top1",
        "top3",
        "top5",
        "image_top1",
        "image_top3",
        "image_top5",
        "macro_top1",
        "map_r",
        "r_precision",
        "mrr",
    }
    facts = {
        "protocol",
        "n",
        "without_partner",
        "skus",
        "interval",
        "hashes",
        "near_duplicate_free",
        "slices",
        "scorers",
    }
    assert set(form) >= shares | facts
    assert form["near_duplicate_free"] is None and form["slices"] == []
    assert set(form["scorers"]) == {"nearest", "knn"} and form["scorers"]["nearest"] == form["top1"]
    assert set(form["interval"]) == {"top1", "top3", "top5", "confidence", "method", "clusters"}
    assert form["protocol"] == "full" and form["hashes"] == {"gallery": "00"}
    assert (
        form["interval"]["confidence"] == 0.95
        and form["interval"]["method"] == "cluster bootstrap by SKU, one SKU added"
    )
    for name in ("top1", "top3", "top5"):
        low, high = form["interval"][name]
        assert 0 <= low <= form[name] <= high <= 1
    assert Evaluation.model_validate(form) == evaluation


@given(
    problem=problems,
    groups=st.integers(1, 20),
    backend=st.sampled_from(["faiss", "torch"]),
    first_k=st.sampled_from([1, 32]),
)
@settings(max_examples=count(30, 500))
def test_ignored_images_are_as_if_they_were_not_there(
    problem: Problem, groups: int, backend: str, first_k: int
) -> None:
    draws = np.random.default_rng(len(problem.gallery_ids))
    gallery_groups, query_groups = (
        [str(i) for i in draws.integers(groups, size=len(ids))]
        for ids in (problem.gallery_ids, problem.query_ids)
    )
    sides = (
        problem.gallery,
        problem.gallery_ids,
        problem.gallery_skus,
        problem.queries,
        problem.query_ids,
        problem.query_skus,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FIRST_K", first_k)
        ranking = rank(*sides, backend, (gallery_groups, query_groups))  # type: ignore[arg-type]
    ignored = {
        i: set(np.flatnonzero([name == query_groups[q] for name in gallery_groups]).tolist())
        for q, i in enumerate(problem.query_ids)
    }
    for row, query_id in enumerate(ranking.query_ids):
        query = problem.query_ids.index(query_id)
        kept = [i for i in range(len(gallery_groups)) if i not in ignored[query_id]]
        rest = Problem.__new__(Problem)
        rest.gallery, rest.queries = problem.gallery[kept], problem.queries
        rest.gallery_ids, rest.gallery_skus = (
            [values[i] for i in kept] for values in (problem.gallery_ids, problem.gallery_skus)
        )
        expected = rest.distinct(query)
        lists = (
            ranking.skus[row],
            ranking.gallery_ids[row],
            ranking.similarities[row],
            ranking.positions[row],
        )
        listed = list(zip(*(column.tolist() for column in lists), strict=True))
        assert listed[: len(expected)] == expected
        assert all(sku == "" and image == "" for sku, image, *_ in listed[len(expected) :])


def test_one_scored_sku_has_the_widest_interval() -> None:
    ranking = rank(
        np.eye(2, dtype=np.float32), ["a1", "b1"], ["a", "b"], np.eye(2, dtype=np.float32)[:1], ["q"], ["a"]
    )
    assert evaluate(ranking, ["a", "b"], "full", QUICK, seed=1).interval.top1 == (0.0, 1.0)
