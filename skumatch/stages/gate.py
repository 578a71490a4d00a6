"""gate: the two evaluations, their hits, the bundle's facts and the policy become a decision."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from skumatch.errors import DataError
from skumatch.files import read_json, write_json
from skumatch.params import Params
from skumatch.release.bundle import bundle_hash
from skumatch.release.gate import Facts, decide
from skumatch.release.rules import Slices
from skumatch.retrieval.figures import Evaluation
from skumatch.retrieval.hits import pair


def run(root: Path, params: Params) -> None:
    evaluations = root / "out/evaluate"
    challenger = Evaluation.model_validate(read_json(evaluations / "challenger.json"))
    scored = (evaluations / "champion.json").is_file()
    champion = Evaluation.model_validate(read_json(evaluations / "champion.json")) if scored else None
    slices = _paired(evaluations) if scored else None
    decision = decide(challenger, champion, slices, _facts(root), params.gate, params.seed)
    write_json(root / "out/gate/decision.json", decision.model_dump(mode="json"))


def _paired(evaluations: Path) -> Slices | None:
    """Hits of both models; None if they were not asked the same, which the gate refuses in its own words."""
    try:
        return pair(*(_hits(evaluations / f"{who}-hits.parquet") for who in ("challenger", "champion")))
    except DataError as error:
        print(error, file=sys.stderr)
        return None


def _hits(path: Path) -> pd.DataFrame:
    table: pd.DataFrame = pq.read_table(path).to_pandas()
    return table


def _facts(root: Path) -> Facts:
    bundle, code = read_json(root / "out/bundle/facts.json"), read_json(root / "inputs/code.json")
    none = (root / "inputs/champion/none.json").is_file()
    return Facts(
        challenger_bundle=bundle["bundle"],
        champion_bundle=None if none else bundle_hash(root / "inputs/champion"),
        bundle_mb=bundle["megabytes"],
        blessed=bundle["blessed"],
        p95_ms=bundle["p95_ms"],
        dirty_code=code["dirty"],
        commit=code["commit"],
    )
