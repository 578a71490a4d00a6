"""The gate's stage: outputs of other stages become a decision; a missing one never crashes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from skumatch.bundle import LabelledVectors, write_bundle
from skumatch.files import write_json, write_parquet, write_text
from skumatch.gate.gate import Decision
from skumatch.params import GateParams, Params
from skumatch.retrieval.answers import SCHEMA
from skumatch.retrieval.hits import HITS_SCHEMA, hits_table
from skumatch.stages import gate
from tests.release.test_gate import EACH, evaluation, hits, names

SKUS = 40
PARAMS = Params(gate=GateParams(resamples=1000))
BUNDLE = {"bundle": "a" * 64, "megabytes": 15.0, "blessed": True, "p95_ms": 1000.0}


def table(query_hits: np.ndarray) -> pd.DataFrame:
    skus = names(SKUS)
    return pd.DataFrame(
        {"query": [f"test/{number:04}" for number in range(len(skus))], "sku": skus, "hit": query_hits}
    )


def workspace(root: Path, wrong: dict[str, int], tail: dict[str, int] | None = None, **bundle: Any) -> Path:
    """A workspace with the outputs of the stages before the gate.

    Models miss `wrong` of each SKU's ten queries, and `tail` of those in the slice `tail`.
    """
    for model, missed in wrong.items():
        query_hits = hits(missed, SKUS)
        slices = {"full": table(query_hits)} | ({"tail": table(hits(tail[model], SKUS))} if tail else {})
        write_json(
            root / f"out/evaluate/{model}.json", evaluation(query_hits, skus=SKUS).model_dump(mode="json")
        )
        write_parquet(root / f"out/evaluate/{model}-hits.parquet", hits_table(slices), HITS_SCHEMA)
    refreshed = BUNDLE | {"bundle": "b" * 64} if "refreshed" in wrong else None
    write_json(root / "out/bundle/facts.json", {"challenger": BUNDLE | bundle, "refreshed": refreshed})
    write_json(root / "inputs/code.json", {"dirty": False, "commit": "c0ffee", "sha256": "5ha"})
    if "refreshed" in wrong:
        gallery(root / "inputs/champion")
        gallery(root / "out/bundle/refreshed")
        answered(root)
    else:
        write_json(root / "inputs/champion/none.json", {})
        write_json(root / "out/evaluate/held.json", {})
    return root


def gallery(
    folder: Path, skus: Sequence[str] = ("sku-00", "sku-01"), similarity: float | None = None
) -> None:
    """A bundle with one picture of each product, whose encoder is no encoder."""
    for name in ("encoder.json", "encoder.safetensors"):
        write_text(folder.with_name(f"{folder.name}-encoder") / name, "{}")
    vectors = np.eye(len(skus), 64, dtype=np.float32)
    labelled = LabelledVectors([f"train/{sku}" for sku in skus], list(skus), vectors)
    write_bundle(folder, folder.with_name(f"{folder.name}-encoder"), labelled, {"similarity": similarity}, [])


def answered(root: Path, lost: int = 0) -> None:
    """Answers to photos of the old products.

    The refreshed gallery names the first `lost` of each product wrong.
    """
    skus = names(SKUS)
    rows = pd.DataFrame(
        {
            "query": [f"test/{number:04}" for number in range(len(skus))],
            "sku": skus,
            "group": range(len(skus)),
        }
    )
    wrong = np.tile(np.arange(EACH) < lost, SKUS)
    rows = rows.assign(
        asked_as="photo", status="old", served=skus, served_unknown=False, refreshed_unknown=False
    )
    rows = rows.assign(refreshed=np.where(wrong, "another", skus), group=rows["group"].astype(str))
    write_parquet(root / "out/evaluate/answers.parquet", rows.reindex(columns=SCHEMA.names), SCHEMA)
    write_json(root / "out/evaluate/held.json", {"refreshed": {}, "challenger": {}})


def decided(root: Path) -> Decision:
    gate.run(root, PARAMS)
    return Decision.model_validate_json((root / "out/gate/decision.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("wrong", "tail", "bundle", "verdict"),
    [
        ({"challenger": 1}, None, {}, "first"),
        ({"challenger": 1, "refreshed": 2}, None, {}, "promote"),
        ({"challenger": 1, "refreshed": 2}, {"challenger": 1, "refreshed": 2}, {}, "promote"),
        ({"challenger": 1, "refreshed": 2}, {"challenger": 3, "refreshed": 2}, {}, "keep"),
        ({"challenger": 3, "refreshed": 2}, None, {}, "keep"),
        ({"challenger": 1, "refreshed": 2}, None, {"p95_ms": 1200.0}, "refuse"),
        ({"challenger": 1, "refreshed": 2}, None, {"p95_ms": None, "blessed": False}, "refuse"),
    ],
)
def test_what_the_stages_left_is_decided(
    tmp_path: Path, wrong: Any, tail: Any, bundle: Any, verdict: str
) -> None:
    assert decided(workspace(tmp_path, wrong, tail, **bundle)).verdict == verdict


def test_the_same_workspace_gives_the_same_bytes(tmp_path: Path) -> None:
    root = workspace(tmp_path, {"challenger": 1, "refreshed": 2}, {"challenger": 1, "refreshed": 2})
    decided(root)
    before = (root / "out/gate/decision.json").read_bytes()
    decided(root)
    assert (root / "out/gate/decision.json").read_bytes() == before


def test_a_champion_that_could_not_be_scored_is_refused_in_words(tmp_path: Path) -> None:
    root = workspace(tmp_path, {"challenger": 1, "refreshed": 2})
    (root / "out/evaluate/refreshed.json").unlink()
    decision = decided(root)
    assert decision.verdict == "refuse" and "could not be read" in decision.sentence


def test_models_that_were_asked_other_queries_are_refused_and_the_log_says_which(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = workspace(tmp_path, {"challenger": 1, "refreshed": 2})
    fewer = hits_table({"full": table(hits(2, SKUS)).iloc[EACH:]})
    write_parquet(root / "out/evaluate/refreshed-hits.parquet", fewer, HITS_SCHEMA)
    decision = decided(root)
    assert (decision.verdict, next(check.name for check in decision.checks if check.status == "failed")) == (
        "refuse",
        "pairs",
    )
    assert "different queries in the slice 'full'" in capfd.readouterr().err
