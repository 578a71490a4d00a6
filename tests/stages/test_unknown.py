"""Unknown products in all stages: embedded catch-all pictures, and thresholds fitted, tested and bundled."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from skumatch.bundle import Bundle
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.files import read_json, sha256, write_json
from skumatch.model import encoder as encoders
from skumatch.params import EncoderParams, EvaluateParams, Params, RuntimeParams, SplitParams
from skumatch.retrieval.calibration import UNSEEN, VALIDATION
from skumatch.retrieval.figures import Evaluation
from skumatch.retrieval.openset import OpenSet
from skumatch.retrieval.thresholds import Thresholds
from skumatch.retrieval.unknowns import HELD_OUT, OTHERS
from skumatch.stages import bundle, embed, evaluate, split
from skumatch.stages.selection import select
from tests.conftest import draw
from tests.stages.champions import serve, training

SKUS, TRAIN, TEST, OTHER = 24, 5, 1, 3
TARGET = 0.1
PARAMS = Params(
    seed=1,
    split=SplitParams(unseen_share=0.5, val_share=0),
    evaluate=EvaluateParams(resamples=200, unknown_rate=TARGET),
    runtime=RuntimeParams(device="cpu", threads=1),
)


def workspace(root: Path, folder: Path, params: Params) -> Path:
    """A workspace after embed: one encoder, as challenger and as champion that was trained on nothing."""
    for sku, number in product(range(SKUS), range(TRAIN + TEST)):
        draw(
            folder / "all" / ("train" if number < TRAIN else "test") / f"sku {sku}" / f"{number}.png",
            f"{sku} {number}",
        )
    for number in range(OTHER):
        draw(folder / "all/train/others" / f"{number}.png", f"other {number}")
    import_data(folder, root / "data")
    split.run(root, params)
    for place in (root / "out/train/encoder", root / "inputs/champion/encoder"):
        torch.manual_seed(0)
        encoders.save(
            encoders.build(EncoderParams(model="smoke", weights="none", height=32, width=32), None).eval(),
            place,
        )
    training(root / "inputs/champion")
    roles, pixels = (
        pq.read_table(root / name).to_pandas()
        for name in ("out/split/split.parquet", "data/manifest.parquet")
    )
    training(root / "out/train", pixels.set_index("id")["pixels"][roles.loc[roles["role"].eq("train"), "id"]])
    write_json(root / "inputs/baseline.json", {"baseline": None})
    embed.run(root, params)
    serve(root)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = workspace(tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("delivery"), PARAMS)
    evaluate.run(root, PARAMS)
    return root


def items(root: Path) -> pd.DataFrame:
    return pq.read_table(root / "out/embed/items.parquet").to_pandas()


def thresholds(root: Path, model: str = "challenger") -> Thresholds:
    return Thresholds.model_validate(read_json(root / f"out/evaluate/{model}-thresholds.json"))


def figures(root: Path, model: str = "challenger") -> OpenSet:
    unknown = Evaluation.model_validate(read_json(root / f"out/evaluate/{model}.json")).unknown
    assert unknown is not None
    return unknown


def test_catch_alls_are_embedded_and_in_no_gallery_nor_protocol(root: Path) -> None:
    others = items(root).query("role == 'other'")
    assert len(others) == OTHER and set(others["sku"]) == {"others"}
    for path in (root / "out/split/protocols").glob("*.parquet"):
        assert not set(others["id"]) & set(pq.read_table(path)["id"].to_pylist())
    for path in (root / "out/evaluate").glob("*-hits.parquet"):
        assert "others" not in pq.read_table(path)["sku"].to_pylist()


def test_thresholds_are_fitted_on_products_never_trained_on_and_tested_on_others(root: Path) -> None:
    roles = pq.read_table(root / "out/split/split.parquet").to_pandas()
    unseen = roles[roles["unseen"]]
    fitted, evaluation = thresholds(root), figures(root)
    assert (fitted.fitted_on, fitted.target, fitted.skus) == (UNSEEN, TARGET, unseen["sku"].nunique())
    assert (
        fitted.pictures == unseen["role"].eq("gallery").sum()
        and fitted.called is not None
        and fitted.called <= TARGET
    )
    assert evaluation.thresholds == fitted
    query_count = int(unseen["role"].eq("query").sum())
    assert {kind.name: kind.n for kind in evaluation.kinds} == {HELD_OUT: query_count, OTHERS: OTHER}
    assert (evaluation.known, evaluation.unknown) == (SKUS * TEST, query_count + OTHER)
    assert evaluation.called_unseen is not None and evaluation.called_unseen.n == query_count
    assert (
        Evaluation.model_validate(read_json(root / "out/evaluate/challenger-unseen.json")).unknown is None
    ), "of the protocol full only"


def test_the_challengers_thresholds_depend_on_no_champion(root: Path, tmp_path: Path) -> None:
    """Else the same inputs would not give the same bundle."""
    before, known = thresholds(root), pq.read_table(root / "out/split/split.parquet").to_pandas()
    pixels = read_manifest(root / "data").set_index("id")["pixels"]
    learnt = pixels[known.loc[known["unseen"] & known["role"].eq("gallery"), "id"]].iloc[:TRAIN].tolist()
    other = workspace(tmp_path / "root", tmp_path / "delivery", PARAMS)
    training(other / "inputs/champion", learnt)
    embed.run(other, PARAMS)
    evaluate.run(other, PARAMS)
    assert thresholds(other) == before
    assert thresholds(other, "refreshed") != before
    tested = [figures(other, model) for model in ("challenger", "refreshed")]
    assert tested[0].kinds[0].n == tested[1].kinds[0].n == figures(root).kinds[0].n - TEST, (
        "both are tested on what neither knows"
    )


def test_the_bundle_carries_them_and_calls_as_many_unknown_as_were_tested(root: Path) -> None:
    bundle.run(root, PARAMS)
    loaded, called = Bundle.load(root / "out/bundle/model"), figures(root).called
    assert loaded.thresholds == thresholds(root) and called is not None
    rows, pictures = select(root, "query")
    flags = [row[0].unknown for row in loaded.match(list(pictures), top_k=1)]
    assert len(rows) == called.n and sum(flags) == round(called.share * called.n) > 0


def test_the_same_inputs_give_the_same_bytes(root: Path) -> None:
    paths = sorted((root / "out/evaluate").iterdir())
    before = [sha256(path) for path in paths]
    evaluate.run(root, PARAMS)
    assert [sha256(path) for path in paths] == before


def test_with_few_unseen_products_validation_pictures_stand_in_and_it_says_so(tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"split": SplitParams(unseen_share=0, val_share=0.5)})
    root = workspace(tmp_path / "root", tmp_path / "delivery", params)
    evaluate.run(root, params)
    fitted = thresholds(root)
    drawn = pq.read_table(root / "out/split/split.parquet").to_pandas().query("role == 'val'")
    assert (fitted.fitted_on, fitted.pictures, fitted.skus) == (
        VALIDATION,
        len(drawn),
        drawn["sku"].nunique(),
    )
    assert [kind.name for kind in figures(root).kinds] == [OTHERS] and figures(root).called_unseen is None
    evaluate.run(
        root, PARAMS.model_copy(update={"evaluate": EvaluateParams(resamples=200, unknown_rate=0.001)})
    )
    assert not thresholds(root).fitted and "nothing" in thresholds(root).fitted_on
    assert figures(root).called is None
