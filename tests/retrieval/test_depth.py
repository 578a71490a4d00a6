"""Metrics of whole lists, against brute force and pytorch-metric-learning, on problems full of ties."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from skumatch.params import EvaluateParams
from skumatch.retrieval import rank as module
from skumatch.retrieval import search
from skumatch.retrieval.evaluate import evaluate, rank
from skumatch.retrieval.ranking import Ranking
from tests.proving import count

QUICK = EvaluateParams(resamples=100)
FIGURES = {
    "top1": "precision_at_1",
    "map_r": "mean_average_precision_at_r",
    "r_precision": "r_precision",
    "mrr": "mean_reciprocal_rank",
}
VOTERS = 4


class Problem:
    """Small integer vectors: most similarities tie.

    Some SKUs are on one side only, one may hold most of the gallery.
    """

    def __init__(self, seed: int) -> None:
        draws = np.random.default_rng(seed)
        size, query_count, skus = (int(draws.integers(*bounds)) for bounds in ((1, 80), (1, 15), (1, 9)))
        share = draws.dirichlet(np.full(skus, 0.4))
        self.loo = bool(draws.integers(0, 2))
        self.gallery = draws.integers(-1, 2, (size, 3)).astype(np.float32)
        self.labels = draws.choice(skus, size, p=share)
        self.ids = [f"{i:03}" for i in draws.permutation(size)]
        self.queries = (
            self.gallery if self.loo else draws.integers(-1, 2, (query_count, 3)).astype(np.float32)
        )
        self.wanted = self.labels if self.loo else draws.integers(0, skus + 2, query_count)
        self.query_ids = self.ids if self.loo else [f"q{i:03}" for i in draws.permutation(query_count)]

    def rank(self, backend: str) -> Ranking:
        sides = (
            self.gallery,
            self.ids,
            [f"s{i}" for i in self.labels],
            self.queries,
            self.query_ids,
            [f"s{i}" for i in self.wanted],
        )
        return rank(*sides, backend, (self.ids, self.query_ids) if self.loo else None, voters=VOTERS)  # type: ignore[arg-type]

    def listed(self, query: int) -> list[int]:
        """Gallery rows, best first, ties by id; the query itself left out."""
        rows = [row for row in range(len(self.ids)) if not self.loo or row != query]
        return sorted(rows, key=lambda row: (-float(self.gallery[row] @ self.queries[query]), self.ids[row]))

    @property
    def scored(self) -> list[int]:
        return [
            query for query in range(len(self.wanted)) if (self.labels == self.wanted[query]).sum() > self.loo
        ]

    def oracle(self) -> dict[str, float]:
        """By the definitions, in fractions."""
        sums = dict.fromkeys(("map_r", "r_precision", "mrr"), Fraction())
        for query in self.scored:
            right = [bool(self.labels[row] == self.wanted[query]) for row in self.listed(query)]
            total = sum(right)
            sums["r_precision"] += Fraction(sum(right[:total]), total)
            sums["map_r"] += (
                sum((Fraction(sum(right[: i + 1]), i + 1) for i in range(total) if right[i]), Fraction())
                / total
            )
            sums["mrr"] += Fraction(1, right.index(True) + 1)
        return {name: float(value / len(self.scored)) for name, value in sums.items()}

    def votes(self, query: int) -> int:
        """The SKU with most weight among the nearest images, the nearer one of equals."""
        weights: dict[int, float] = {}
        for row in self.listed(query)[:VOTERS]:
            weights[int(self.labels[row])] = weights.get(int(self.labels[row]), 0) + max(
                0.0, float(self.gallery[row] @ self.queries[query])
            )
        return max(weights, key=lambda sku: weights[sku])

    def theirs(self) -> dict[str, float]:
        """pytorch-metric-learning, given our order of ties."""
        size = len(self.ids)

        def knn(
            query: torch.Tensor, k: int, reference: torch.Tensor, *_: object
        ) -> tuple[torch.Tensor, torch.Tensor]:
            order = [self.listed(row)[:k] for row in range(len(query))]
            return torch.zeros(len(query), k), torch.tensor(order)

        calculator = AccuracyCalculator(include=tuple(FIGURES.values()), k=size - self.loo, knn_func=knn)
        sides = [torch.from_numpy(side) for side in (self.queries, self.wanted, self.gallery, self.labels)]
        return dict(calculator.get_accuracy(*sides, ref_includes_query=self.loo))


@pytest.fixture
def double() -> object:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_figures_equal_an_oracle_and_pytorch_metric_learning(
    backend: str, double: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = far = 0
    for seed in range(count(60, 500)):
        monkeypatch.setattr(
            module, "FIRST_K", 1 + seed % 5
        )  # so that lists end before the first right image, or must grow
        monkeypatch.setattr(search, "TILE", (1 + seed % 3, 1 + seed % 7))
        problem = Problem(seed)
        if not problem.scored:
            continue
        ranking = problem.rank(backend)
        evaluation = evaluate(
            ranking, [f"s{problem.wanted[query]}" for query in problem.scored], "full", QUICK, seed=1
        )
        oracle, pml_figures = problem.oracle(), problem.theirs() if len(problem.ids) > problem.loo else {}
        assert (
            evaluation.n == len(problem.scored)
            and evaluation.without_partner == len(problem.wanted) - evaluation.n
        )
        for name, value in oracle.items():
            assert getattr(evaluation, name) == pytest.approx(value, abs=1e-12)
        for name, called in FIGURES.items():
            assert getattr(evaluation, name) == pytest.approx(pml_figures[called], abs=1e-12)
        votes = [problem.votes(query) == problem.wanted[query] for query in problem.scored]
        assert evaluation.scorers["knn"] == pytest.approx(np.mean(votes), abs=1e-12)
        compared += 1
        far += int((ranking.depth.first > 3 + ranking.depth.right).sum()) if ranking.depth else 0
    assert compared > count(40, 350) and far > 0


def test_a_query_without_a_partner_has_no_place() -> None:
    vectors = np.eye(3, dtype=np.float32)
    depth = rank(vectors[:2], ["a1", "b1"], ["a", "b"], vectors, ["q1", "q2", "q3"], ["a", "b", "c"]).depth
    assert depth is not None and depth.first.tolist() == [1, 1, 0] and depth.right.tolist() == [1, 1, 0]
    assert depth.average_precision.tolist() == depth.r_precision.tolist() == [1, 1, 0]


def test_the_place_of_a_far_image_is_counted_among_thousands() -> None:
    draws = np.random.default_rng(5)
    gallery = draws.normal(size=(5000, 8)).astype(np.float32)
    gallery[1000:1400] = gallery[1000]  # equal images, so that ties are counted too
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    skus, ids = [f"s{i % 50}" for i in range(5000)], [f"{i:04}" for i in range(5000)]
    chosen = [4321, 1100, 7]
    skus = ["lone" if i in chosen else sku for i, sku in enumerate(skus)]
    queries = np.vstack([-gallery[chosen], gallery[1050:1051]])
    depth = rank(gallery, ids, skus, queries, ["q0", "q1", "q2", "q3"], ["lone"] * 4).depth
    scores = (gallery.astype(np.float64) @ queries.T.astype(np.float64)).astype(np.float32)
    for query in range(4):
        order = sorted(range(5000), key=lambda row: (-scores[row, query], row))
        place = 1 + min(order.index(row) for row in chosen)
        assert depth is not None and depth.first[query] == place
    assert depth is not None and (depth.first[:3] > 100).any() and depth.first[3] == 101


def test_one_search_lists_five_products_beyond_many_images_of_the_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A good encoder lists all images of the query's own product first."""
    draws = np.random.default_rng(0)
    labels = np.arange(8).repeat(40)
    gallery = np.hstack([3 * np.eye(8)[labels], draws.normal(0, 0.3, (320, 8))]).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    searched, nearest = [], search.SearchIndex.nearest

    def counting(index: search.SearchIndex, queries: search.Vectors, *args: int, **words: bool) -> object:
        searched.append(len(queries))
        return nearest(index, queries, *args, **words)

    monkeypatch.setattr(search.SearchIndex, "nearest", counting)
    ids, skus = [f"{row:03}" for row in range(320)], [f"s{label}" for label in labels]
    queries = gallery[::20] + np.float32(0.001)
    ranking = rank(gallery, ids, skus, queries, [f"q{n}" for n in range(16)], skus[::20], "torch")
    assert searched == [16] and (ranking.skus != "").all()
    assert sorted(ranking.skus[:, 0].tolist()) == sorted(skus[::20]) and (ranking.positions[:, 1] == 41).all()
