"""Unknown products: their stand-ins, and the promised unknown rate for products never trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skumatch.data.delivery.archives import folder_images
from skumatch.data.protocols import protocols
from skumatch.data.split import share
from skumatch.model.embed import embed
from skumatch.model.encoder import build
from skumatch.model.fetched import fetched_weights
from skumatch.model.weights import fetch_weights
from skumatch.params import EncoderParams, EvaluateParams, RuntimeParams
from skumatch.retrieval.calibration import UNSEEN, VALIDATION, Embedded, fit_thresholds, scores
from skumatch.retrieval.openset import OpenSet
from skumatch.retrieval.protocols import ask
from skumatch.retrieval.ranking import Ranking
from skumatch.retrieval.thresholds import Thresholds
from skumatch.retrieval.unknowns import HELD_OUT, OTHERS, RETIRED, WITHOUT_GALLERY, open_set
from tests.conftest import ROOT
from tests.proving import IN_PROOF, count

PHOTOS = ROOT.parent / "shared/data/grocery-store"
TARGET = 0.05
POINT = 0.01
QUICK = EvaluateParams(resamples=200)
Vectors = NDArray[np.float32]


def called(thresholds: Thresholds, ranking: Ranking) -> float:
    assert ranking.depth is not None
    return float(thresholds.unknown(scores(ranking).only(ranking.depth.right > 0)).mean())


class Shelf:
    """Products as clouds of vectors.

    Those trained on are dense and far apart; the others wider, each of its own width.
    """

    def __init__(self, seed: int, trained: int = 60, new: int = 500, images: int = 8) -> None:
        self.draws = np.random.default_rng(seed)
        self.images, self.items, self.parts = images, pd.DataFrame(), []
        self.add("trained", trained, 0.3)
        self.add("new", new, 0.5)
        mine = self.items["sku"].str.startswith("trained")
        self.items["trained"] = mine & (np.arange(len(self.items)) % images < images // 2)

    def add(self, name: str, skus: int, width: float, role: str = "gallery", trained: bool = False) -> None:
        centres = self.draws.normal(0, 1, (skus, 1, 24))
        widths = width * self.draws.lognormal(0, 0.15, (skus, 1, 1))
        self.place(name, centres + widths * self.draws.normal(0, 1, (skus, self.images, 24)), role, trained)

    def place(self, name: str, vectors: NDArray[np.float64], role: str, trained: bool) -> None:
        skus, images, dim = vectors.shape
        flat = vectors.reshape(-1, dim)
        self.parts.append((flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32))
        names = [f"{name} {sku:04}" for sku in range(skus) for _ in range(images)]
        ids = [f"{role} {sku} {i % images}" for i, sku in enumerate(names)]
        made = pd.DataFrame({"id": ids, "sku": names, "role": role, "group": ids, "trained": trained})
        self.items = pd.concat([self.items, made], ignore_index=True)

    @property
    def embedded(self) -> Embedded:
        return Embedded(self.items, np.concatenate(self.parts))

    def only(self, mask: pd.Series[bool]) -> Embedded:
        return Embedded(self.items[mask].reset_index(drop=True), np.concatenate(self.parts)[mask.to_numpy()])


def test_products_never_trained_on_meet_the_rate_within_a_point() -> None:
    """Promise 22 for new products like those fitted on: thresholds of some, tested on later ones."""
    missed, by_validation = [], []
    for seed in range(count(4, 40)):
        shelf = Shelf(seed)
        fitted = fit_thresholds(shelf.embedded, TARGET)
        biased = fit_thresholds(shelf.only(~shelf.items["sku"].str.startswith("new")), TARGET)
        assert (fitted.fitted_on, biased.fitted_on) == (UNSEEN, VALIDATION)
        shelf.add("later", 500, 0.5)
        later = shelf.embedded
        ranking = later.rank(shelf.items[shelf.items["sku"].str.startswith("later")])
        missed.append(called(fitted, ranking) - TARGET)
        by_validation.append(called(biased, ranking) - TARGET)
    assert abs(np.mean(missed)) < POINT / 2 and np.mean(np.abs(missed) < POINT) > 0.75, missed
    assert min(by_validation) > 10 * POINT, "pictures of trained products can't stand for new ones"


def test_own_duplicates_would_make_the_rate_too_low_and_are_passed_over() -> None:
    shelf = Shelf(1)
    copies = shelf.items["id"].str[-1].astype(int) // 2  # pairs of a product's pictures are one ...
    vectors = np.concatenate(shelf.parts)
    vectors[1::2] = vectors[::2]
    grouped = shelf.items.assign(group=shelf.items["sku"] + copies.astype(str))
    loose, kept = (fit_thresholds(Embedded(items, vectors), TARGET) for items in (shelf.items, grouped))
    assert loose.similarity is not None and kept.similarity is not None
    assert loose.similarity > 0.99 > kept.similarity


def test_too_few_products_give_no_thresholds_and_say_so() -> None:
    fitted = fit_thresholds(Shelf(0, trained=9, new=9).embedded, TARGET)
    assert (fitted.similarity, fitted.margin, fitted.fitted) == (None, None, False)
    assert "nothing" in fitted.fitted_on and "10 SKUs with 100 pictures" in fitted.fitted_on


def test_what_a_model_was_trained_on_is_never_fitted_on() -> None:
    shelf = Shelf(0, new=20)
    before = fit_thresholds(shelf.embedded, TARGET)
    assert (before.pictures, before.skus, before.fitted_on) == (160, 20, UNSEEN)
    shelf.items.loc[shelf.items["sku"].eq("new 0000"), "trained"] = (
        True  # another model was trained on it: no new product any more
    )
    assert fit_thresholds(shelf.embedded, TARGET).pictures == 152


@given(st.randoms(use_true_random=False))
def test_thresholds_know_no_order(random: object) -> None:
    shelf = Shelf(3, trained=3, new=14)
    order = np.random.default_rng(random.getrandbits(32)).permutation(len(shelf.items))  # type: ignore[attr-defined]
    mixed = Embedded(shelf.items.iloc[order].reset_index(drop=True), shelf.embedded.vectors[order], "torch")
    assert fit_thresholds(mixed, TARGET) == fit_thresholds(shelf.embedded, TARGET)


def figures_of(shelf: Shelf, thresholds: Thresholds) -> OpenSet | None:
    items = shelf.items.assign(unseen=~shelf.items["sku"].str.startswith("trained"), sha256=shelf.items["id"])
    answered = ask("full", protocols(items)["full"], items, shelf.embedded.vectors)
    return open_set(Embedded(items, shelf.embedded.vectors), answered, thresholds, QUICK, seed=1)


def test_the_test_asks_held_out_products_products_without_pictures_and_catch_alls() -> None:
    shelf = Shelf(2, trained=20, new=30)
    for name, skus, width in (("trained", 20, 0.3), ("new", 30, 0.5), ("stranger", 5, 0.5)):
        shelf.add(name, skus, width, role="query")
    shelf.add("others", 1, 0.5, role="other")
    shelf.items.loc[shelf.items["role"].eq("other"), "sku"] = "others"
    copied = shelf.items.index[shelf.items["role"].eq("other")][0]
    shelf.items.loc[copied, "group"] = shelf.items.loc[
        0, "group"
    ]  # a copy of a product's picture shows that product
    figures = figures_of(shelf, Thresholds(similarity=0.5, margin=0.02))
    assert figures is not None
    assert {kind.name: kind.n for kind in figures.kinds} == {HELD_OUT: 240, WITHOUT_GALLERY: 40, OTHERS: 7}
    assert (figures.known, figures.unknown) == (400, 287)
    assert figures.called is not None and figures.called_unseen is not None and figures.found is not None
    assert (figures.called.n, figures.called_unseen.n, figures.found.n) == (400, 240, 287)
    assert figures.auroc == pytest.approx(
        sum(kind.auroc * kind.n for kind in figures.kinds) / figures.unknown
    )
    assert figures.found.share == pytest.approx(
        sum((kind.found or 0) * kind.n for kind in figures.kinds) / figures.unknown
    )
    assert figures.auroc_interval[0] < figures.auroc < figures.auroc_interval[1] <= 1
    assert OpenSet.model_validate(json.loads(figures.model_dump_json())) == figures


def test_figures_without_any_fault_are_not_certain() -> None:
    shelf = Shelf(2, trained=20, new=0)
    gallery = shelf.parts[0].reshape(20, 8, 24).astype(np.float64)
    shelf.place("trained", gallery, "query", trained=False)
    shelf.add("others", 1, 0.5, role="other")
    shelf.items.loc[shelf.items["role"].eq("other"), "sku"] = "others"
    figures = figures_of(shelf, Thresholds(similarity=0.5, margin=0.02))
    assert figures is not None and figures.auroc == figures.oscr == 1
    limit = 0.025 ** (1 / min(20, figures.unknown))  # each catch-all picture is a cluster
    assert figures.auroc_interval == figures.oscr_interval == (pytest.approx(limit), 1)


def test_without_thresholds_the_figures_are_there_and_no_rate_is() -> None:
    shelf = Shelf(2, trained=5, new=5)
    shelf.add("new", 5, 0.5, role="query")
    figures = figures_of(shelf, Thresholds())
    assert (
        figures is not None
        and figures.called is None
        and figures.found is None
        and figures.kinds[0].found is None
    )


def test_where_every_product_was_trained_on_and_has_pictures_nothing_is_unknown() -> None:
    shelf = Shelf(2, trained=5, new=0)
    shelf.add("trained", 5, 0.3, role="query")
    assert figures_of(shelf, Thresholds(similarity=0.5)) is None


def test_a_held_out_product_is_asked_of_the_gallery_without_it() -> None:
    ranking = Ranking(
        *(np.array(names, dtype=object) for names in (["q", "r"], ["a", "c"], [["a", "b"], ["a", "b"]])),
        similarities=np.array([[0.9, 0.5], [0.8, 0.7]], np.float32),
        gallery_ids=np.array([["1", "2"], ["1", "2"]], dtype=object),
        positions=np.ones((2, 2), np.int64),
    )
    assert np.allclose(scores(ranking), [[0.9, 0.8], [0.4, 0.1]])
    assert np.allclose(scores(ranking, without_own=True), [[0.5, 0.8], [1.5, 0.1]]), (
        "a second that there is none of is at -1"
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Vectors]:
    """Columns id, sku, group, side of real photos, and vectors by an encoder trained on none of them."""
    weights, spec = tmp_path_factory.mktemp("weights"), EncoderParams(height=96, width=96)
    fetch_weights(spec, weights)
    encoder, rows, parts = build(spec, fetched_weights(weights)).eval(), [], []
    for side in ("train", "test"):
        images = folder_images(PHOTOS, side, ())
        digests = [hashlib.sha256(images.read_bytes(i)).hexdigest() for i in range(len(images))]
        rows.append(pd.DataFrame({"id": images.ids, "sku": images.skus, "group": digests, "side": side}))
        parts.append(embed(encoder, images, 64, RuntimeParams(device="cpu", threads=1)))
    return pd.concat(rows, ignore_index=True), np.concatenate(parts)


def rate(embedded: Embedded, fitted_on: pd.Series[bool]) -> float:
    """Return the unknown rate of queries, with thresholds fitted on gallery pictures of other SKUs.

    If all SKUs are fitted on, all queries count.
    """
    items = embedded.items
    fitted = fit_thresholds(replace(embedded, items=items.assign(trained=~fitted_on)), TARGET)
    assert (fitted.fitted_on, fitted.skus) == (UNSEEN, items.loc[fitted_on, "sku"].nunique())
    return called(fitted, embedded.rank(items[items["role"].eq("query") & (~fitted_on | fitted_on.all())]))


@IN_PROOF
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the grocery photos of ../shared")
def test_real_photos_meet_the_rate_where_queries_are_like_the_gallery(
    photos: tuple[pd.DataFrame, Vectors],
) -> None:
    """Promise 22 on real photos: gallery and queries drawn from one pile, several times.

    The mean, as 81 SKUs make single draws uncertain.

    The published test side comes from other visits to the shops: there the rate is several times the target.
    No fit on the gallery can know of that, so a run reports the rate that its queries meet.
    """
    items, vectors = photos
    same, others = [], []
    for draw in range(count(4, 12)):
        drawn = pd.Series([share(f"{draw}:{digest}") < 0.6 for digest in items["group"]])
        half = pd.Series([share(f"{draw}:{sku}") < 0.5 for sku in items["sku"]])
        embedded = Embedded(items.assign(role=np.where(drawn, "gallery", "query"), trained=False), vectors)
        same.append(rate(embedded, half | True))
        others += [rate(embedded, half), rate(embedded, ~half)]
    assert np.mean(same) == pytest.approx(TARGET, abs=POINT), same
    assert np.mean(others) == pytest.approx(TARGET, abs=POINT), others
    published = Embedded(
        items.assign(role=items["side"].map({"train": "gallery", "test": "query"}), trained=False), vectors
    )
    assert rate(published, items["sku"].notna()) > 3 * TARGET


def test_photos_of_retired_products_are_a_kind_of_their_own() -> None:
    """But for those that a model was trained on, and duplicates of pictures that serve."""
    shelf = Shelf(3, trained=30, new=60)
    shelf.add("gone", 12, 0.5, role="retired")
    shelf.add("known", 4, 0.5, role="retired", trained=True)
    copies = shelf.items["sku"].eq("gone 0000")
    shelf.items.loc[copies, "group"] = shelf.items.loc[shelf.items["role"].eq("gallery"), "group"].iloc[0]
    shelf.add("trained", 30, 0.3, role="query")
    figures = figures_of(shelf, Thresholds(similarity=0.5, margin=0.02))
    assert figures is not None
    kinds = {kind.name: kind for kind in figures.kinds}
    assert set(kinds) == {RETIRED} and kinds[RETIRED].n == figures.unknown == 11 * 8
    assert kinds[RETIRED].found is not None and kinds[RETIRED].found > 0
