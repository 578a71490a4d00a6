"""The prototype scorer against a count by hand, with and without the query in the gallery."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.retrieval.scorers import prototype_hits
from tests.proving import count


def by_hand(gallery: np.ndarray, skus: list[str], query: np.ndarray, left_out: int | None) -> str:
    """The SKU of the nearest prototype, the first name of equals; zero vectors stay zero."""
    best: tuple[float, str] = (-np.inf, "")
    for sku in sorted(set(skus)):
        rows = [i for i, name in enumerate(skus) if name == sku and i != left_out]
        if rows:
            total = gallery[rows].sum(axis=0, dtype=np.float64)
            length = float(np.linalg.norm(total))
            unit = (total / length if length else total).astype(np.float32)
            score = float(np.float32(unit.astype(np.float64) @ query.astype(np.float64)))
            best = max(best, (score, sku), key=lambda pair: pair[0])
    return best[1]


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(["faiss", "torch"]))
@settings(max_examples=count(30, 500))
def test_hits_are_those_of_a_count_by_hand(seed: int, loo: bool, backend: str) -> None:
    draws = np.random.default_rng(seed)
    size, skus = int(draws.integers(1, 25)), int(draws.integers(1, 6))
    gallery, names = (
        draws.integers(-1, 2, (size, 3)).astype(np.float32),
        [f"s{i}" for i in draws.integers(0, skus, size)],
    )
    ids = [f"{i:02}" for i in range(size)]
    queries = gallery if loo else draws.integers(-1, 2, (8, 3)).astype(np.float32)
    wanted = names if loo else [f"s{i}" for i in draws.integers(0, skus + 1, 8)]
    query_ids = ids if loo else [f"q{i}" for i in range(8)]
    hits = prototype_hits((gallery, ids, names), (queries, query_ids, wanted), backend)  # type: ignore[arg-type]
    expected = [
        by_hand(gallery, names, queries[i], i if loo else None) == wanted[i] for i in range(len(wanted))
    ]
    assert hits.tolist() == expected


def test_a_prototype_is_steadier_than_one_odd_picture() -> None:
    gallery = np.array([[1, 0], [0.9, 0.1], [0.95, 0.05], [0.2, 1], [0, 1], [0.8, 0.25]], np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    names = ["a", "a", "a", "b", "b", "b"]  # the last picture of b looks like a
    query = (np.array([[0.85, 0.2]], np.float32), ["q"], ["a"])
    assert prototype_hits((gallery, [f"{i}" for i in range(6)], names), query).tolist() == [True]
