"""gate: decide by the policy, from evaluations, hits, served answers and the bundles' facts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from skumatch.errors import DataError
from skumatch.files import read_json, write_json
from skumatch.params import Params
from skumatch.release.bundle import bundle_hash
from skumatch.release.bundle.manifest import GALLERY, THRESHOLDS
from skumatch.release.bundle.matcher import read_thresholds
from skumatch.release.bundle.parts import read_gallery
from skumatch.release.fitness import judge
from skumatch.release.gate import BundleFacts, Products, Refreshed, decide, settle
from skumatch.release.rules import Slices
from skumatch.retrieval.figures import Evaluation
from skumatch.retrieval.hits import pair
from skumatch.retrieval.thresholds import Thresholds

SAME = 1e-5  # by which vectors and thresholds of one encoder may differ from one processor to another


def run(root: Path, params: Params) -> None:
    """Write out/gate/decision.json."""
    evaluations, bundles = root / "out/evaluate", read_json(root / "out/bundle/facts.json")
    champion = _evaluation(evaluations / "refreshed.json")
    model = None
    if bundles["challenger"]:
        challenger = Evaluation.model_validate(read_json(evaluations / "challenger.json"))
        slices = _paired(evaluations) if champion else None
        model = decide(
            challenger, champion, slices, _facts(root, bundles["challenger"]), params.gate, params.seed
        )
    refreshed = (
        _refreshed(root, params, champion, bundles["refreshed"])
        if champion and bundles["refreshed"]
        else None
    )
    held = read_json(evaluations / "held.json")
    decision = settle(model, refreshed, params.gate, held.get("challenger", {}))
    write_json(root / "out/gate/decision.json", decision.model_dump(mode="json"))


def _evaluation(path: Path) -> Evaluation | None:
    return Evaluation.model_validate(read_json(path)) if path.is_file() else None


def _paired(evaluations: Path) -> Slices | None:
    """Return the hits of both encoders; None if their queries differ, which the gate refuses by a rule."""
    try:
        return pair(
            challenger=_hits(evaluations / "challenger-hits.parquet"),
            champion=_hits(evaluations / "refreshed-hits.parquet"),
        )
    except DataError as error:
        print(error, file=sys.stderr)
        return None


def _hits(path: Path) -> pd.DataFrame:
    table: pd.DataFrame = pq.read_table(path).to_pandas()
    return table


def _facts(root: Path, bundle: dict[str, Any]) -> BundleFacts:
    """Return the facts of a candidate's bundle; `bundle` is the entry that the stage bundle wrote."""
    code = read_json(root / "inputs/code.json")
    none = (root / "inputs/champion/none.json").is_file()
    return BundleFacts(
        challenger_bundle=bundle["bundle"],
        champion_bundle=None if none else bundle_hash(root / "inputs/champion"),
        bundle_mb=bundle["megabytes"],
        blessed=bundle["blessed"],
        p95_ms=bundle["p95_ms"],
        dirty_code=code["dirty"],
        commit=code["commit"],
    )


def _refreshed(root: Path, params: Params, evaluation: Evaluation, bundle: dict[str, Any]) -> Refreshed:
    """Compare the refreshed gallery with the one that serves."""
    folders = root / "inputs/champion", root / "out/bundle/refreshed"
    dim = read_json(folders[1] / "bundle.json")["dim"]
    served, today = (read_gallery(folder / GALLERY, dim) for folder in folders)
    before, after = (read_thresholds(folder / THRESHOLDS) for folder in folders)
    held = read_json(root / "out/evaluate/held.json")["refreshed"]
    retired = set(served.skus) - set(today.skus)
    same = (served.ids, served.skus) == (today.ids, today.skus) and np.allclose(
        served.embeddings, today.embeddings, atol=SAME
    )
    answers = pq.read_table(root / "out/evaluate/answers.parquet").to_pandas()
    fitted_after, fitted_before = after.fitted_on or "nothing", before.fitted_on or "nothing"
    note = f"thresholds fitted on {fitted_after}; what serves: on {fitted_before}"
    return Refreshed(
        evaluation=evaluation,
        facts=_facts(root, bundle),
        changed=not same or not _alike(before, after),
        fitness=judge(answers, params.refresh, note, params.seed, retired),
        products=Products(
            new=len(set(today.skus) - set(served.skus)) + len(held), retired=len(retired), held=held
        ),
    )


def _alike(first: Thresholds, second: Thresholds) -> bool:
    """Return whether two pairs of thresholds are equal but for rounding."""
    pairs = ((first.similarity, second.similarity), (first.margin, second.margin))
    return all(
        left == right or (left is not None and right is not None and abs(left - right) <= SAME)
        for left, right in pairs
    )
