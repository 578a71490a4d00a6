"""The bench of assortments: each SKU as often as any other, and figures that a count by hand confirms."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.assortment import ShopPhotos, assortments, bench_assortment
from benchmarks.assortment_table import table
from skumatch.bundle import LabelledVectors
from skumatch.errors import DataError, ParameterError
from skumatch.retrieval.thresholds import Thresholds
from tests.cli import Cli
from tests.conftest import ROOT, make_shelf
from tests.proving import IN_PROOF

SKUS = [f"s{number}" for number in range(21)]


def test_each_sku_is_in_as_many_assortments_as_any_other() -> None:
    cuts = list(assortments(SKUS, 0.1, rounds=30, seed=1))
    assert len(cuts) == 300 and {len(cut) for cut in cuts} == {2, 3}
    assert set(Counter(sku for cut in cuts for sku in cut).values()) == {30}
    assert len({frozenset(cut) for cut in cuts}) > 100 and cuts == list(assortments(SKUS, 0.1, 30, 1))


@pytest.mark.parametrize("share", [0, -1, 0.6, 0.04, float("nan")])
def test_a_share_without_such_assortments_is_refused(share: float) -> None:
    with pytest.raises(ParameterError, match=r"give shares from 0\.048 to 0\.5, as there are 21 SKUs"):
        list(assortments(SKUS, share, 1, 0))


@pytest.fixture
def photos() -> ShopPhotos:
    """Queries between their own product and another one, and one of a product without a gallery picture."""
    generator = np.random.default_rng(3)
    vectors = np.linalg.qr(generator.normal(size=(32, 32)))[0][:21].astype(np.float32)
    others = generator.uniform(0.3, 0.6, (21, 1)) * np.roll(vectors, 1, axis=0)
    mixed = 0.5 * vectors + others + 0.05 * generator.normal(size=(21, 32))
    queries = np.vstack([mixed, generator.normal(size=(1, 32))]).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    skus = np.array([*SKUS, "none"], dtype=object)
    return ShopPhotos(
        LabelledVectors(SKUS, SKUS, vectors), skus, queries, Thresholds(similarity=0.15, margin=0.1)
    )


def test_figures_are_those_of_a_count(photos: ShopPhotos) -> None:
    [worth] = bench_assortment(photos, [0.2], rounds=8, seed=4)
    cosines = photos.vectors.astype(float) @ photos.gallery.embeddings.T.astype(float)
    right, inside = list[bool](), list[bool]()
    outside, dissimilar = defaultdict[str, list[bool]](list), defaultdict[str, list[bool]](list)
    for cut in assortments(sorted(SKUS), 0.2, 8, 4):
        columns = [SKUS.index(sku) for sku in cut]
        for sku, row in zip(photos.skus, cosines[:, columns], strict=True):
            second, best = np.sort(row)[-2:]
            unknown = best < 0.15 or best - second < 0.1
            (inside if sku in cut else outside[sku]).append(unknown)
            if sku not in cut:
                dissimilar[sku].append(best < 0.15)
            if sku in cut:
                right.append(cut[int(row.argmax())] == sku)
    assert (worth.assortments, worth.queries, worth.skus, worth.size) == (40, 21, 21, 4.2)
    assert worth.restricted.value == pytest.approx(np.mean(right))
    assert worth.inside_unknown.value == pytest.approx(np.mean(inside))
    whole = cosines[:21].argmax(axis=1) == np.arange(21)
    assert worth.whole.value == pytest.approx(whole.mean()) and not whole.all()
    assert worth.gain.value == pytest.approx(np.mean(right) - whole.mean()) and worth.gain.value > 0
    # A photo counts once, however often it is asked.
    assert worth.outside_unknown.value == pytest.approx(np.mean([*map(np.mean, outside.values())]))
    assert worth.outside_by_similarity.value == pytest.approx(np.mean([*map(np.mean, dissimilar.values())]))
    assert 0 < worth.outside_by_similarity.value < worth.outside_unknown.value < 1


def test_the_table_has_a_column_for_each_size(photos: ShopPhotos) -> None:
    shown = table(list(bench_assortment(photos, [0.1, 0.5], 2, 0)), photos.thresholds)
    assert len(shown.columns) == 3 and shown.row_count == 7 and "21 photos of 21 SKUs" in str(shown.title)
    without = table(list(bench_assortment(photos, [0.5], 1, 0)), Thresholds(fitted_on="nothing, as it is"))
    assert str(without.caption) == "No thresholds: fitted on nothing, as it is."


@IN_PROOF
def test_the_command_prints_and_writes_every_figure(tmp_path: Path) -> None:
    cli, target = Cli(tmp_path, tmp_path / "home", module="benchmarks"), tmp_path / "figures.json"
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shelf = make_shelf(tmp_path / "photos", 4, 2, 1)
    words = ("assortment", "--data", shelf, "--model", "frozen:smoke@none")
    done = cli(*words, "--shares", "0.25,0.5", "--rounds", "3", "--json", target)
    assert done.code == 0, done.err
    figures = json.loads(target.read_text("utf-8"))
    assert [row["assortments"] for row in figures["rows"]] == [12, 6] and "top-1, assortment" in done.out
    (tmp_path / "skus.txt").write_text("sku 0\nnew\n")
    cli.refuses(DataError.exit_code, "has no SKU named 'new'", *words, "--skus", tmp_path / "skus.txt")
    for shares in ("a", "0.1;0.2", "0.2,0.7"):
        cli.refuses(ParameterError.exit_code, "give numbers above 0 and up", *words, "--shares", shares)
