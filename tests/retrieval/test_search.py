"""Search: exact, the same from every backend, ties to the lower index."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.errors import DataError, ParameterError
from skumatch.retrieval import backends, search
from skumatch.retrieval.search import Backend, top_k
from tests.proving import count

BACKENDS: tuple[Backend, ...] = ("faiss", "torch")


def oracle(gallery: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair, one by one, sorted by (-similarity, index)."""
    rows = []
    for query in queries.astype(np.float64):
        scored = [
            (-np.float32(sum(row * query)), index) for index, row in enumerate(gallery.astype(np.float64))
        ]
        rows.append(sorted(scored)[:k])
    return np.array([[-s for s, _ in row] for row in rows], np.float32), np.array(
        [[i for _, i in row] for row in rows]
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Small integer vectors, so that many similarities tie exactly."""
    seed, n, m, d = draw(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 6), st.integers(1, 5))
    )
    generator = np.random.default_rng(seed)
    gallery, queries = generator.integers(-1, 2, (n, d)), generator.integers(-1, 2, (m, d))
    return gallery.astype(np.float32), queries.astype(np.float32), draw(st.integers(1, 70))


def unit(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    vectors = generator.normal(size=(n, d)).astype(np.float32)
    normed: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed


@pytest.mark.parametrize("backend", BACKENDS)
@given(problem=problems())
@settings(max_examples=count(30, 500))
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
    results = [top_k(gallery, np.vstack([queries, gallery[:3]]), 20, backend) for backend in BACKENDS]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


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
    monkeypatch.setattr(backends, "QUERY_BLOCK", 7)
    monkeypatch.setattr(backends, "GALLERY_BLOCK", 11)
    monkeypatch.setattr(search, "CELLS", 100)
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


@pytest.mark.parametrize("queries", [64, 256])
def test_faiss_searches_small_batches_with_blas(queries: int) -> None:
    """Its own kernel for few queries takes twice as long for these; it compares queries x dimensions."""
    faiss = pytest.importorskip("faiss")
    gallery = np.eye(256, dtype=np.float32)
    rows = top_k(gallery, gallery[:queries], 1, "faiss")[1]
    assert rows[:, 0].tolist() == list(range(queries))
    assert faiss.cvar.distance_compute_blas_threshold <= queries * 256


def test_flat_faiss_and_torch_name_the_same_five_of_nearly_all_queries() -> None:
    """Bare float32 answers of both, and ours, on vectors with near-copies as a shelf has them."""
    faiss = pytest.importorskip("faiss")
    generator = np.random.default_rng(6)
    size, query_count = count(4000, 40_000), count(1000, 20_000)
    gallery, queries = unit(generator, size, 64), unit(generator, query_count, 64)
    gallery[size // 2 :] += (
        0.05 * generator.normal(size=(size - size // 2, 64)).astype(np.float32) + gallery[: size - size // 2]
    )
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    flat = faiss.IndexFlatIP(64)
    flat.add(gallery)
    by_backend = {backend: top_k(gallery, queries, 5, backend)[1] for backend in BACKENDS}
    np.testing.assert_array_equal(by_backend["faiss"], by_backend["torch"])
    products = torch.from_numpy(gallery).T
    references = (
        flat.search(queries, 5)[1],
        torch.cat(
            [(part @ products).topk(5).indices for part in torch.from_numpy(queries).split(500)]
        ).numpy(),
    )
    for neighbours in references:
        same = (np.sort(neighbours, axis=1) == np.sort(by_backend["faiss"], axis=1)).all(axis=1)
        assert same.mean() >= 0.9999


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_is_as_exact_where_similarities_are_not_asked_for(backend: Backend) -> None:
    generator = np.random.default_rng(11)
    gallery, queries = unit(generator, 3000, 32), unit(generator, 300, 32)
    gallery[1000:1500] = gallery[:500]  # ties
    gallery[2000:2500] = gallery[500:1000] + np.float32(1e-7) * unit(
        generator, 500, 32
    )  # less apart than rounding
    index = search.SearchIndex(gallery, backend)
    (similarities, whole), (rough, order) = (
        index.nearest(queries, 40),
        index.nearest(queries, 40, scored=False),
    )
    np.testing.assert_array_equal(order, whole)
    np.testing.assert_array_equal(index.score(queries, whole), similarities)
    np.testing.assert_allclose(rough, similarities, rtol=0, atol=1e-5)


def crowd(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A query, and a gallery in which 300 vectors are similar to it, less apart than float32 can err."""
    query = unit(generator, 1, 64)
    across = generator.normal(size=(300, 64)).astype(np.float32)
    across -= (across @ query.T) * query
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    angles = np.sqrt(2 * generator.uniform(0, 1e-5, (300, 1))).astype(np.float32)
    gallery = np.vstack([query * np.cos(angles) + across * np.sin(angles), unit(generator, 500, 64)])
    return generator.permutation(gallery).astype(np.float32), query


@pytest.mark.parametrize("scored", [True, False])
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 20))
@settings(max_examples=count(20, 200))
def test_whatever_a_backend_errs_the_answer_is_exact(scored: bool, seed: int, k: int) -> None:
    """A backend whose similarities are as wrong as float32 allows (here 8e-6) proposes others first."""
    generator = np.random.default_rng(seed)
    gallery, query = crowd(generator)
    wrong = generator.uniform(-8e-6, 8e-6, len(gallery))

    def propose(queries: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        rough = (queries.astype(np.float64) @ gallery.T.astype(np.float64) + wrong).astype(np.float32)
        order = np.argsort(-rough, axis=1, kind="stable")[:, :most]
        return np.take_along_axis(rough, order, axis=1), order

    index = search.SearchIndex(gallery)
    index._propose = propose
    similarities, indices = index.nearest(query, k, scored)
    wanted_similarities, wanted = oracle(gallery, query, k)
    np.testing.assert_array_equal(indices, wanted)
    np.testing.assert_allclose(similarities, wanted_similarities, rtol=0, atol=0 if scored else 1e-5)


def test_before_counts_right_among_vectors_closer_than_rounding() -> None:
    generator = np.random.default_rng(12)
    query = unit(generator, 1, 512)
    gallery = query + np.float32(1e-6) * generator.normal(size=(400, 512)).astype(np.float32)
    whole_similarities, whole = oracle(gallery, query, len(gallery))
    for place in range(0, 400, 37):
        counts = search.SearchIndex(gallery).before(query, whole_similarities[:, place], whole[:, place])
        assert counts.tolist() == [place]


def test_before_counts_what_a_sorted_list_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(7)
    gallery, queries = (generator.integers(-1, 2, (n, 3)).astype(np.float32) for n in (200, 30))
    whole_similarities, whole = oracle(gallery, queries, 200)
    rows = generator.integers(0, 200, 30)
    places = np.argmax(whole == rows[:, None], axis=1)
    monkeypatch.setattr(search, "TILE", (7, 11))
    counts = search.SearchIndex(gallery).before(queries, whole_similarities[np.arange(30), places], rows)
    np.testing.assert_array_equal(counts, places)


def test_a_gallery_of_one_vector_takes_no_more_memory_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    monkeypatch.setattr(search, "CELLS", 5000)
    gallery = np.repeat(unit(np.random.default_rng(8), 1, 16), 2000, axis=0)
    index = search.SearchIndex(gallery)
    propose = index._propose

    def watched(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        widths.append(len(queries) * k)
        return propose(queries, k)

    monkeypatch.setattr(index, "_propose", watched)
    assert (index.nearest(gallery[:40], 3)[1] == np.arange(3)).all()
    assert max(widths) <= 5000


class Gpus:
    """Stand-in for a faiss with GPUs that records its calls."""

    METRIC_INNER_PRODUCT = 0

    def __init__(self, gpus: int) -> None:
        self.gpus, self.asked = gpus, list[tuple[str, int]]()
        self.cvar = SimpleNamespace()

    def get_num_gpus(self) -> int:
        return self.gpus

    def omp_get_max_threads(self) -> int:
        return 2

    def StandardGpuResources(self) -> object:  # noqa: N802 - faiss's name
        return object()

    def knn_gpu(
        self, _: object, queries: np.ndarray, gallery: np.ndarray, k: int, **__: object
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._answer("gpu", queries, gallery, k)

    def knn(
        self, queries: np.ndarray, gallery: np.ndarray, k: int, **__: object
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._answer("cpu", queries, gallery, k)

    def _answer(
        self, where: str, queries: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append((where, k))
        scores = queries @ gallery.T
        order = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), order


@pytest.mark.parametrize(
    ("gpus", "device", "where"), [(1, "cuda", "gpu"), (1, "cpu", "cpu"), (0, "cuda", "cpu")]
)
def test_faiss_takes_the_gpu_where_there_is_one_and_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, gpus: int, device: str, where: str
) -> None:
    fake = Gpus(gpus)
    monkeypatch.setitem(sys.modules, "faiss", fake)
    monkeypatch.setattr(backends, "GPU_MOST", 40)
    generator = np.random.default_rng(9)
    gallery, queries = unit(generator, 300, 8), unit(generator, 10, 8)
    for k in (5, 100):  # more than a GPU's kernels list is listed by the CPU
        results = top_k(gallery, queries, k, "faiss", device)
        for mine, expected in zip(results, oracle(gallery, queries, k), strict=True):
            np.testing.assert_array_equal(mine, expected)
    assert {place for place, k in fake.asked if k <= 40} == {where} and {
        place for place, k in fake.asked if k > 40
    } == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gpu_gives_the_same_answer(backend: Backend) -> None:
    generator = np.random.default_rng(10)
    gallery, queries = unit(generator, 20_000, 128), unit(generator, 500, 128)
    for mine, expected in zip(
        top_k(gallery, queries, 32, backend, "cuda"), top_k(gallery, queries, 32, backend), strict=True
    ):
        np.testing.assert_array_equal(mine, expected)
