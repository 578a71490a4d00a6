"""Products held back: each encoder decides by its own answers; both are compared on the whole gallery."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file

from skumatch.data.delivery.importer import import_data
from skumatch.files import read_json, write_json
from skumatch.model import encoder as encoders
from skumatch.params import EncoderParams, EvaluateParams, Params, RefreshParams, RuntimeParams, SplitParams
from skumatch.retrieval.figures import Evaluation
from skumatch.stages import bundle, embed, evaluate, split
from tests.conftest import draw
from tests.stages.champions import serve, training

PARAMS = Params(
    seed=1,
    split=SplitParams(unseen_share=0, val_share=0),
    evaluate=EvaluateParams(resamples=200),
    runtime=RuntimeParams(device="cpu", threads=1),
)
OLD, NEW = "sku 0", "sku 3"
ENCODERS = ("champion", "challenger")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after embed: four products of three gallery photos and three queries.

    The last product is new.
    """
    root, folder = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("delivery")
    for sku, number in product(range(4), range(6)):
        draw(
            folder / "all" / ("train" if number < 3 else "test") / f"sku {sku}" / f"{number}.png",
            f"{sku} {number}",
        )
    import_data(folder, root / "data")
    split.run(root, PARAMS)
    for place in (root / "out/train", root / "inputs/champion"):
        torch.manual_seed(len(str(place)))
        model = encoders.build(EncoderParams(model="smoke", weights="none", height=32, width=32), None).eval()
        encoders.save(model, place / "encoder")
        training(place)
    write_json(root / "inputs/baseline.json", {"baseline": None})
    embed.run(root, PARAMS)
    return root


def see(root: Path, swallowing: tuple[str, ...]) -> None:
    """Give every product a direction of its own.

    Encoders named in `swallowing` see the old one's queries as the new one.
    """
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    for encoder in ENCODERS:
        path = root / f"out/embed/{encoder}.safetensors"
        skus = items["sku"]
        if encoder in swallowing:
            skus = skus.mask(items["sku"].eq(OLD) & items["role"].eq("query"), NEW)
        vectors = np.zeros_like(load_file(path)["embeddings"])
        vectors[np.arange(len(items)), skus.str[-1].astype(int)] = 1
        vectors[np.arange(len(items)), 4 + np.arange(len(items)) % 20] = 0.1  # no two pictures are one
        if encoder in swallowing:  # without the new product they are the old one's again
            vectors[items["sku"].eq(OLD) & items["role"].eq("query"), int(OLD[-1])] = 0.9
        save_file({"embeddings": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}, path)
    serve(root, without=[NEW])


@pytest.mark.parametrize(
    "swallowing", [("champion",), ("challenger",), ENCODERS, ()], ids=lambda names: "+".join(names) or "none"
)
def test_each_encoder_holds_back_what_its_own_answers_lose(
    root: Path, swallowing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    see(root, swallowing)
    evaluate.run(root, PARAMS)
    held = {"refreshed": "champion" in swallowing, "challenger": "challenger" in swallowing}
    reasons = read_json(root / "out/evaluate/held.json")
    assert {name: list(products) for name, products in reasons.items()} == {
        name: [NEW] * is_held for name, is_held in held.items()
    }
    assert all(
        f"of the old product {OLD}" in reason for products in reasons.values() for reason in products.values()
    )

    galleries: dict[str, set[str]] = {}
    monkeypatch.setattr(bundle, "_bundle", lambda *args: galleries.update({args[2]: set(args[3]["sku"])}))
    bundle.run(root, PARAMS)
    assert {name: NEW not in skus for name, skus in galleries.items()} == held
    rows = pq.read_table(root / "out/evaluate/answers.parquet").to_pandas()
    lost = rows["sku"].eq(OLD)
    assert rows.loc[lost, ["refreshed", "challenger"]].eq(OLD).all(axis=None), (
        "what is held back takes no answer"
    )


def test_encoders_are_compared_on_the_whole_gallery(root: Path) -> None:
    see(root, ("champion",))
    evaluate.run(root, PARAMS)
    refreshed, challenger = (
        Evaluation.model_validate(read_json(root / f"out/evaluate/{name}.json"))
        for name in ("refreshed", "challenger")
    )
    assert refreshed.n == challenger.n and refreshed.skus == challenger.skus == 4
    assert (refreshed.top1, challenger.top1) == (0.75, 1.0), "the held-back product counts in the comparison"


def test_an_accepted_product_is_held_back_by_no_encoder(root: Path) -> None:
    see(root, ENCODERS)
    evaluate.run(root, PARAMS.model_copy(update={"refresh": RefreshParams(accept=(NEW,))}))
    assert read_json(root / "out/evaluate/held.json") == {"refreshed": {}, "challenger": {}}
    rows = pq.read_table(root / "out/evaluate/answers.parquet").to_pandas()
    assert pd.Series(rows.loc[rows["sku"].eq(OLD), "challenger"]).eq(NEW).all()
