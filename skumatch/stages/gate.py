"""gate: the two evaluations, the bundle's facts and the policy become a decision."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from skumatch.config import Params
from skumatch.files import read_json, write_json
from skumatch.release.bundle import bundle_hash
from skumatch.release.gate import Facts, decide
from skumatch.retrieval.evaluate import Evaluation, Ranking, paired_hits


def run(root: Path, params: Params) -> None:
    evaluations, bundle, code = root / "out/evaluate", read_json(root / "out/bundle/facts.json"), read_json(root / "inputs/code.json")
    challenger = Evaluation.model_validate(read_json(evaluations / "challenger.json"))
    champion, paired = None, None
    if (evaluations / "champion.json").is_file():
        champion = Evaluation.model_validate(read_json(evaluations / "champion.json"))
        ours, theirs = (Ranking.from_frame(pq.read_table(evaluations / f"{who}.parquet").to_pandas()) for who in ("challenger", "champion"))
        gallery = pq.read_table(root / "out/embed/items.parquet", filters=[("role", "==", "gallery")])["sku"].to_pylist()
        paired = paired_hits(ours, theirs, set(gallery))
    none = (root / "inputs/champion/none.json").is_file()
    facts = Facts(
        challenger_bundle=bundle["bundle"],
        champion_bundle=None if none else bundle_hash(root / "inputs/champion"),
        bundle_mb=bundle["megabytes"],
        blessed=bundle["blessed"],
        dirty_code=code["dirty"],
        commit=code["commit"],
    )
    decision = decide(challenger, champion, paired, facts, params.gate, params.seed)
    write_json(root / "out/gate/decision.json", decision.model_dump(mode="json"))
