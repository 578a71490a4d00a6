"""Stages embed and evaluate: queries, facts about photos, and agreement of hits, figures and slices."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.files import read_json, sha256, write_json
from skumatch.model import encoder as encoders
from skumatch.params import EncoderParams, EvaluateParams, Params, RuntimeParams, SplitParams
from skumatch.retrieval.figures import Evaluation
from skumatch.retrieval.hits import pair
from skumatch.stages import embed, evaluate, split
from tests.conftest import draw
from tests.stages.champions import serve, training

PARAMS = Params(
    seed=1,
    split=SplitParams(unseen_share=0.5, val_share=0),
    evaluate=EvaluateParams(resamples=200, tail_images=4),
    runtime=RuntimeParams(device="cpu", threads=1),
)
MODELS = ("challenger", "refreshed")
KNOWN, LEARNT = (
    "test/sku 0/0.png",
    "test/sku 3/0.png",
)  # a query that is also trained on, and one the champion learnt from


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after both stages.

    There are two models, two queries that only one of them knows, and an earlier version without one of the
    SKUs.
    """
    root, folder = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("delivery")
    for sku, number in product(range(6), range(7)):
        draw(
            folder / "all" / ("train" if number < 4 else "test") / f"sku {sku}" / f"{number % 4}.png",
            f"{sku} {number}",
        )
    shutil.copyfile(folder / "all/train/sku 0/0.png", folder / "all/test/sku 0/0.png")
    with Image.open(folder / "all/train/sku 2/1.png") as picture:
        picture.save(folder / "all/test/sku 2/near.jpg", quality=92)
    (folder / "classes.csv").write_text("sku,group\nsku 0,milk\nsku 1,milk\nsku 3,juice\n")
    import_data(folder, root / "data")
    split.run(root, PARAMS)
    for seed, place in enumerate((root / "out/train/encoder", root / "inputs/champion/encoder")):
        torch.manual_seed(seed)
        encoders.save(
            encoders.build(EncoderParams(model="smoke", weights="none", height=32, width=32), None).eval(),
            place,
        )
    pixels = read_manifest(root / "data").set_index("id")["pixels"]
    training(root / "inputs/champion", [pixels[LEARNT]])
    roles = pq.read_table(root / "out/split/split.parquet").to_pandas()
    training(root / "out/train", pixels[roles.loc[roles["role"].eq("train"), "id"]])
    profile = {
        "skus": {f"sku {i}": (4, 3) for i in range(5)},
        "short_sides": [48.0] * 101,
        "aspects": [1.0] * 101,
    }
    write_json(root / "inputs/baseline.json", {"baseline": profile})
    embed.run(root, PARAMS)
    serve(root, without=["sku 5"])
    evaluate.run(root, PARAMS)
    return root


def hits(root: Path, model: str) -> pd.DataFrame:
    return pq.read_table(root / f"out/evaluate/{model}-hits.parquet").to_pandas()


def figures(root: Path, name: str) -> Evaluation:
    return Evaluation.model_validate(read_json(root / f"out/evaluate/{name}.json"))


def test_queries_that_either_model_was_trained_on_are_asked_of_neither(root: Path) -> None:
    roles = pq.read_table(root / "out/split/split.parquet").to_pandas().set_index("id")["role"]
    pixels = read_manifest(root / "data").set_index("id")["pixels"]
    trained = set(pixels[roles.index[roles.eq("train")]])
    wanted = {
        name for name in roles.index[roles.eq("query")] if name != LEARNT and pixels[name] not in trained
    }
    assert roles["train/sku 0/0.png"] == "train" and KNOWN not in wanted
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    assert set(items.loc[items["role"].eq("query"), "id"]) == wanted
    for model in MODELS:
        assert set(hits(root, model).query("slice == 'full'")["query"]) == wanted
        assert figures(root, model).n == len(wanted)


def test_both_models_are_asked_the_same_in_every_slice(root: Path) -> None:
    pairs = pair(*(hits(root, model) for model in MODELS))
    assert set(pairs) == {"full", "k5", "near_duplicate_free", "tail", "unseen"}


@pytest.mark.parametrize("model", MODELS)
def test_hits_tell_what_the_figures_tell(root: Path, model: str) -> None:
    hits_by_slice, full = (
        {name: rows["hit"] for name, rows in hits(root, model).groupby("slice")},
        figures(root, model),
    )
    for name, evaluation in {
        "full": full,
        "k5": figures(root, f"{model}-k5"),
        "unseen": figures(root, f"{model}-unseen"),
    }.items():
        assert len(hits_by_slice[name]) == evaluation.n and hits_by_slice[name].mean() == pytest.approx(
            evaluation.top1
        )
    free = full.near_duplicate_free
    assert (
        free
        and len(hits_by_slice["near_duplicate_free"]) == free.n
        and hits_by_slice["near_duplicate_free"].mean() == pytest.approx(free.top1)
    )
    assert len(hits_by_slice["tail"]) == full.n  # every SKU has four gallery images
    assert all(
        query[:2] in {f"{draw}/" for draw in range(10)}
        for query in hits(root, model).query("slice == 'k5'")["query"]
    )


def test_slices_are_those_of_the_photos_and_of_the_version_before(root: Path) -> None:
    evaluation = figures(root, "challenger")
    names = {(part.family, part.name) for part in evaluation.slices}
    assert {
        ("blur", "low"),
        ("brightness", "high"),
        ("unseen", "unseen"),
        ("new", "new"),
        ("new", "known"),
        ("group", "milk"),
        ("group", "juice"),
    } <= names
    new = next(part for part in evaluation.slices if (part.family, part.name) == ("new", "new"))
    assert (new.skus, new.n) == (1, 3)  # sku 5
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    assert (
        items["blur"].notna().equals(items["role"].eq("query"))
        and items["brightness"].between(0, 255).sum() == evaluation.n
    )
    assert figures(root, "challenger-k5").slices == ()


def test_all_scorers_and_depths_are_there(root: Path) -> None:
    for name in (*MODELS, "challenger-k5", "refreshed-test_loo", "refreshed-unseen"):
        evaluation = figures(root, name)
        assert (
            set(evaluation.scorers) == {"nearest", "prototype", "knn"}
            and evaluation.scorers["nearest"] == evaluation.top1
        )
        assert (
            evaluation.map_r is not None and evaluation.r_precision is not None and evaluation.mrr is not None
        )
        assert 0 <= evaluation.map_r <= evaluation.r_precision <= 1 and evaluation.top1 <= evaluation.mrr <= 1


def test_the_same_inputs_give_the_same_bytes(root: Path) -> None:
    paths = sorted(path for stage in ("embed", "evaluate") for path in (root / "out" / stage).iterdir())
    before = [sha256(path) for path in paths]
    embed.run(root, PARAMS)
    evaluate.run(
        root, PARAMS.model_copy(update={"search": PARAMS.search.model_copy(update={"backend": "torch"})})
    )
    assert [sha256(path) for path in paths] == before


def test_without_a_version_before_no_product_is_new(root: Path, tmp_path: Path) -> None:
    for folder in ("out", "inputs/champion"):
        shutil.copytree(root / folder, tmp_path / folder)
    evaluate.run(tmp_path, PARAMS)
    assert "new" not in {part.family for part in figures(tmp_path, "challenger").slices}
