"""An assortment: the answer is that of a gallery of these products alone, however their names are written."""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import skumatch
from skumatch.bundle import Assortment, Bundle, LabelledVectors, write_bundle
from skumatch.bundle.assortment import EVERY_SKU, GalleryPart, Shelves
from skumatch.errors import DataError
from skumatch.retrieval.search import Backend, dot
from skumatch.retrieval.thresholds import Thresholds, scores_of
from tests.proving import count

Picture = Callable[[int], Image.Image]
BACKENDS: tuple[Backend, ...] = ("faiss", "torch")
pytestmark = pytest.mark.filterwarnings("ignore:.*AnyType")  # MLflow's own, at its import


def made_gallery(skus: Sequence[str], embeddings: np.ndarray | None = None) -> LabelledVectors:
    """A row a name; without embeddings, all rows are one vector."""
    vectors = np.ones((len(skus), 1), np.float32) if embeddings is None else embeddings
    return LabelledVectors([f"{row:04}" for row in range(len(skus))], list(skus), vectors)


def only(gallery: LabelledVectors, skus: Sequence[str]) -> LabelledVectors:
    """The rows of some SKUs, chosen one by one."""
    rows = [row for row, sku in enumerate(gallery.skus) if sku in skus]
    ids, names, vectors = gallery
    return LabelledVectors([ids[row] for row in rows], [names[row] for row in rows], vectors[rows])


Answer = list[tuple[str, str, float]]  # SKU, gallery id and similarity, best first


def answers(part: GalleryPart, queries: np.ndarray, wanted: int) -> list[Answer]:
    ids, skus, _ = part.gallery
    lists = part.nearest(queries, wanted)
    return [[(skus[row], ids[row], cosine) for row, cosine in nearest] for nearest in lists]


def counted(gallery: LabelledVectors, skus: Sequence[str], query: np.ndarray, wanted: int) -> Answer:
    """All rows of the whole gallery in order, without those of other products; each product's first one."""
    similarities = dot(gallery.embeddings, query[None]).tolist()
    order = sorted(range(len(similarities)), key=lambda row: (-similarities[row], row))
    best: dict[str, tuple[str, str, float]] = {}
    for row in order:
        if gallery.skus[row] in skus:
            best.setdefault(gallery.skus[row], (gallery.skus[row], gallery.ids[row], similarities[row]))
    return list(best.values())[:wanted]


class Problem(NamedTuple):
    """Queries [n, d], assortments, and how many products of each are wanted."""

    gallery: LabelledVectors
    queries: np.ndarray
    lists: list[list[str]]
    wanted: int


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Small integer vectors, so that many similarities tie exactly; some assortments of the SKUs."""
    seed, rows, products = draw(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(1, 9)))
    generator = np.random.default_rng(seed)
    skus = [f"s{number}" for number in generator.integers(0, products, rows)]
    vectors = generator.integers(-1, 2, (rows, 4)).astype(np.float32)
    queries = generator.integers(-1, 2, (5, 4)).astype(np.float32)
    some = st.lists(st.sampled_from(sorted(set(skus))), min_size=1, max_size=9)
    lists, wanted = draw(st.lists(some, min_size=1, max_size=6)), draw(st.integers(2, 10))
    return Problem(made_gallery(skus, vectors), queries, lists, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@given(problem=problems())
@settings(max_examples=count(30, 500))
def test_an_assortment_is_a_gallery_of_its_products(backend: Backend, problem: Problem) -> None:
    """Equal SKUs, pictures, similarities and order of ties; each is matched twice, others between."""
    gallery, queries, lists, wanted = problem
    shelves = Shelves(gallery, backend)
    for names in (*lists, *lists):
        matches = answers(shelves.part(shelves.resolve(names)), queries, wanted)
        assert matches == answers(GalleryPart(only(gallery, names), backend), queries, wanted)
        assert matches == [counted(gallery, names, query, wanted) for query in queries]


def test_a_bundle_answers_as_one_of_these_products(
    encoder_dir: Path, gallery: LabelledVectors, loaded: Bundle, picture: Picture, tmp_path: Path
) -> None:
    pictures = [picture(number) for number in (0, 1, 2, 3, 99)]
    for skus in (["sku 1"], ["sku 1", "sku 3"], ["sku 0", "sku 1", "sku 2"]):
        folder = tmp_path / str(len(skus))
        write_bundle(folder, encoder_dir, only(gallery, skus), {"similarity": 0.9}, [])
        alone = Bundle.load(folder)
        assert loaded.match(pictures, 3, loaded.assortment(skus)) == alone.match(pictures, 3)


def test_a_product_outside_is_unknown_by_the_bundles_thresholds(loaded: Bundle, picture: Picture) -> None:
    [[known, *_]] = loaded.match([picture(5)])
    [[stranger, *_]] = loaded.match([picture(5)], 5, loaded.assortment(["sku 2", "sku 3"]))
    assert (known.sku, known.unknown) == ("sku 1", False)
    assert stranger.unknown and stranger.similarity < 0.9


def test_with_fewer_products_margins_grow() -> None:
    """So fewer pictures are called unknown by the margin; with one product alone none is."""
    embeddings = np.array([[1, 0], [0.99, 0.14], [0, 1]], np.float32)
    shelves, query = Shelves(made_gallery(["a", "b", "c"], embeddings)), embeddings[:1]
    margins, called = [], []
    for names in (["a", "b", "c"], ["a", "c"], ["a"]):
        scores = scores_of(shelves.part(shelves.resolve(names)).nearest(query, 2))
        margins += scores.margin.tolist()
        called += Thresholds(margin=0.05).unknown(scores).tolist()
    assert margins == pytest.approx([0.01, 1.0, 2.0]) and called == [True, False, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_work_and_memory_are_those_of_the_assortment(backend: Backend) -> None:
    gallery = made_gallery([f"s{number % 100}" for number in range(1000)], np.eye(1000, 8, dtype=np.float32))
    shelves = Shelves(gallery, backend)
    part = shelves.part(shelves.resolve(["s7", "s9"]))
    assert len(part) == len(part.index) == 20 and part.gallery.embeddings.nbytes == 20 * 8 * 4
    assert shelves.part(shelves.resolve(["s9", "S7", "s7"])) is part, "taken once for equal assortments"
    everything = shelves.part(shelves.resolve(gallery.skus))
    assert everything is shelves.whole is shelves.part(None)
    assert everything.gallery.embeddings is gallery.embeddings


def test_parts_used_longest_ago_go_first() -> None:
    gallery = made_gallery([f"s{number}" for number in range(10)])
    shelves = Shelves(gallery)
    first, second = shelves.resolve(["s0", "s1", "s2", "s3"]), shelves.resolve(["s4", "s5", "s6", "s7"])
    third = shelves.resolve(["s8", "s9", "s0"])
    kept, lost = shelves.part(first), shelves.part(second)
    assert shelves.part(first) is kept
    shelves.part(third)
    assert shelves.part(first) is kept and shelves.part(second) is not lost
    assert sum(len(part) for part in shelves._parts.values()) <= len(gallery.ids)


NAMES = ["Milk, 1 l", "Crème fraîche", "可口可乐", 'Eggs; "large"', "Straße"]


@pytest.mark.parametrize(
    ("written", "sku"),
    [
        ("milk,  1 L ", "Milk, 1 l"),
        (unicodedata.normalize("NFD", "crème FRAÎCHE"), "Crème fraîche"),
        ("可口\u200b可乐", "可口可乐"),
        ('EGGS; "Large"', 'Eggs; "large"'),
        ("STRASSE", "Straße"),
    ],
)
def test_a_name_may_have_any_spelling_that_is_alike(written: str, sku: str) -> None:
    skus = Shelves(made_gallery(NAMES)).resolve([written, sku, "", " \t"])
    assert skus == Assortment((sku,), (), "the assortment") and skus.warning is None


def test_names_that_a_gallery_spells_in_two_ways_mean_both() -> None:
    """An import refuses such galleries; a bundle of elsewhere may have one."""
    assert Shelves(made_gallery(["Milk", "milk", "tea"])).resolve(["MILK"]).skus == ("Milk", "milk")


def test_products_that_the_gallery_lacks_are_counted_and_named() -> None:
    shelves = Shelves(made_gallery(["a", "b"]))
    few = shelves.resolve(["a", "x\u202e"], "shop.txt")
    counted = "1 of 2 products of shop.txt is not in the model's gallery, so no picture is matched with it"
    assert few.missing == ("x\u202e",) and few.warning == f"{counted}: 'x\\u202e'."
    many = shelves.resolve([*"abcdefgh", "C"], "shop.txt").warning
    assert many and many.startswith("6 of 8 products of shop.txt are not in")
    assert many.endswith("matched with them: 'c', 'd', 'e' and 3 more.")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "has no names in it"),
        (["", " ", "\u200b"], "has no names in it"),
        (["x"], "The product of shop.txt is not in the model's gallery: 'x'; correct the names"),
        (["x", "y", "z", "zz", "X"], "None of the 4 products .* is in .*'x', 'y', 'z' and 1 more; correct"),
        ("a", "is no list; give a list"),
        (b"a", "is no list; give a list"),
        (7, "is no list; give a list"),
        (["a", 7], "has 7 in it, which is no text"),
        (["a", None], "has None in it, which is no text"),
        (["a", ["a"]], "has .* in it, which is no text"),
    ],
)
def test_a_list_without_products_is_refused(names: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Shelves(made_gallery(["a", "b"])).resolve(names, "shop.txt")


def encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def frame(picture: Picture) -> pd.DataFrame:
    return pd.DataFrame({"image": [encoded(picture(5)), encoded(picture(2))]})


@pytest.fixture(scope="module")
def stored(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as MLflow keeps it."""
    from skumatch.bundle import bundle_hash
    from skumatch.registry.mlflow_model import _save_model

    folder, package = tmp_path_factory.mktemp("staged"), Path(skumatch.__file__).parent
    return _save_model(folder, made, bundle_hash(made), None, None, package)  # type: ignore[arg-type]


@pytest.fixture
def model(stored: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        import mlflow.pyfunc

        return mlflow.pyfunc.load_model(str(stored))


def test_the_model_in_mlflow_takes_a_list_of_skus(
    model: Any, loaded: Bundle, frame: pd.DataFrame, picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = [picture(5), picture(2)]
    predictions = model.predict(frame, params={"skus": ["SKU 2", "sku 3", "new"], "top_k": 2})
    matches = loaded.match(pictures, 2, loaded.assortment(["sku 2", "sku 3"]))
    assert predictions["skus"].tolist() == [[match.sku for match in row] for row in matches]
    assert predictions["similarities"].tolist() == [[match.similarity for match in row] for row in matches]
    assert predictions["unknown"].tolist() == [True, False]
    assert model.predict(frame, params={"skus": np.array(["sku 2"])})["skus"].tolist() == [["sku 2"]] * 2
    model.predict(frame, params={"skus": ["new", "sku 3", "sku 2"]})
    assert [record.message.count("'new'") for record in caplog.records] == [1], "said once, not at each call"


def test_without_a_list_the_model_in_mlflow_searches_all(model: Any, frame: pd.DataFrame) -> None:
    spec = next(spec for spec in model.metadata.signature.params.params if spec.name == "skus")
    assert (tuple(spec.default), spec.shape) == (EVERY_SKU, (-1,))
    for params in (None, {}, {"top_k": 5}, {"skus": ["*"]}):
        assert [len(skus) for skus in model.predict(frame, params=params)["skus"]] == [4, 4]


@pytest.mark.parametrize(
    ("skus", "words"),
    [
        ([], "`skus` has no names in it"),
        (["no", "such"], "None of the 2 products of `skus` is in the model's gallery"),
        ("sku 2", "skus"),
        ([2], "skus"),
        (None, "skus"),
        ({"sku 2": 1}, "skus"),
    ],
)
def test_the_model_in_mlflow_refuses_others(model: Any, frame: pd.DataFrame, skus: Any, words: str) -> None:
    """An empty list is a shop's list gone wrong, and never the whole gallery."""
    with pytest.raises(Exception, match=words):
        model.predict(frame, params={"skus": skus})


def test_a_version_registered_before_has_no_such_parameter(made: Path, frame: pd.DataFrame) -> None:
    """Its signature gives `top_k` alone, or nothing: the whole gallery is searched."""
    from skumatch.registry.pyfunc import BundleModel

    model = BundleModel()
    model.load_context(SimpleNamespace(artifacts={"bundle": str(made)}, model_config={}))
    for params in (None, {"top_k": 4}, {"top_k": 4, "skus": None}):
        assert [len(skus) for skus in model.predict(None, frame, params)["skus"]] == [4, 4]
