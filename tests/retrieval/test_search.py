"""Search: exact, the same from every backend, ties to the lower index."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.errors import DataError, ParameterError
from skumatch.retrieval import search
from skumatch.retrieval.search import Backend, top_k

BACKENDS: tuple[Backend, ...] = ("faiss", "torch")


def oracle(gallery: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair, one by one, sorted by (-similarity, index)."""
    rows = []
    for query in queries.astype(np.float64):
        scored = [(-np.float32(sum(row * query)), index) for index, row in enumerate(gallery.astype(np.float64))]
        rows.append(sorted(scored)[:k])
    return np.array([[-s for s, _ in row] for row in rows], np.float32), np.array([[i for _, i in row] for row in rows])


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Small integer vectors, so that many similarities tie exactly."""
    seed, n, m, d = draw(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 6), st.integers(1, 5)))
    generator = np.random.default_rng(seed)
    gallery, queries = generator.integers(-1, 2, (n, d)), generator.integers(-1, 2, (m, d))
    return gallery.astype(np.float32), queries.astype(np.float32), draw(st.integers(1, 70))


def unit(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    vectors = generator.normal(size=(n, d)).astype(np.float32)
    normed: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed


@pytest.mark.parametrize("backend", BACKENDS)
@given(problem=problems())
@settings(max_examples=150, deadline=None)
def test_equals_brute_force_with_ties(backend: Backend, problem: tuple[np.ndarray, np.ndarray, int]) -> None:
    gallery, queries, k = problem
    similarities, indices = top_k(gallery, queries, k, backend)
    wanted_similarities, wanted_indices = oracle(gallery, queries, k)
    np.testing.assert_array_equal(indices, wanted_indices)
    np.testing.assert_array_equal(similarities, wanted_similarities)


def test_backends_agree_to_the_last_bit() -> None:
    generator = np.random.default_rng(1)
    gallery, queries = unit(generator, 3000, 64), unit(generator, 200, 64)
    gallery[generator.integers(0, 3000, 500)] = gallery[0]  # hundreds of equal images
    found = [top_k(gallery, np.vstack([queries, gallery[:3]]), 20, backend) for backend in BACKENDS]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_images_equal_gives_the_first_indices(backend: Backend) -> None:
    gallery = np.repeat(unit(np.random.default_rng(2), 1, 48), 500, axis=0)
    similarities, indices = top_k(gallery, gallery[:2], 7, backend)
    np.testing.assert_array_equal(indices, [range(7)] * 2)
    assert (similarities == similarities[0, 0]).all()


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    gallery, queries = unit(generator, 500, 16), unit(generator, 50, 16)
    whole = top_k(gallery, queries, 9, "torch")
    monkeypatch.setattr(search, "QUERY_BLOCK", 7)
    monkeypatch.setattr(search, "GALLERY_BLOCK", 11)
    monkeypatch.setattr(search, "RESCORE_BYTES", 1)
    for tiled, full in zip(top_k(gallery, queries, 9, "torch"), whole, strict=True):
        np.testing.assert_array_equal(tiled, full)


@pytest.mark.parametrize("backend", BACKENDS)
def test_k_is_capped_and_types_are_fixed(backend: Backend) -> None:
    gallery = unit(np.random.default_rng(4), 3, 8)
    similarities, indices = top_k(gallery, gallery, 10, backend)
    assert similarities.shape == indices.shape == (3, 3)
    assert similarities.dtype == np.float32 and indices.dtype == np.int64
    assert (indices[:, 0] == np.arange(3)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_queries_no_answers(backend: Backend) -> None:
    similarities, indices = top_k(np.ones((4, 2), np.float32), np.empty((0, 2), np.float32), 3, backend)
    assert similarities.shape == indices.shape == (0, 3)


def test_vectors_that_are_no_numbers_are_named() -> None:
    gallery = np.ones((4, 2), np.float32)
    gallery[2, 1] = np.nan
    with pytest.raises(DataError, match=r"The gallery .* row 2\b"):
        top_k(gallery, np.ones((1, 2), np.float32), 1)
    with pytest.raises(DataError, match=r"query set .* row 0\b"):
        top_k(np.ones((4, 2), np.float32), np.full((1, 2), np.inf, np.float32), 1)


def test_empty_gallery_is_refused() -> None:
    with pytest.raises(DataError, match="gallery is empty"):
        top_k(np.empty((0, 2), np.float32), np.ones((1, 2), np.float32), 1)


def test_missing_faiss_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ParameterError, match=r"search\.backend=torch"):
        top_k(np.ones((2, 2), np.float32), np.ones((1, 2), np.float32), 1, "faiss")
