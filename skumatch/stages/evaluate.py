"""evaluate: ranked lists of both models, and their figures under the protocol `full`."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from safetensors.numpy import load_file

from skumatch.config import Params
from skumatch.data.manifest import write_parquet
from skumatch.files import read_json, write_json
from skumatch.retrieval.evaluate import RANKING_SCHEMA, evaluate, per_sku, rank


def run(root: Path, params: Params) -> None:
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    facts = read_json(root / "out/embed/embed.json")
    gallery, query = (items[items["role"].eq(role)] for role in ("gallery", "query"))
    for model, encoder in facts["encoders"].items():
        if encoder is None:
            continue
        embeddings = load_file(root / f"out/embed/{model}.safetensors")["embeddings"]
        ranking = rank(
            embeddings[gallery.index], gallery["id"].tolist(), gallery["sku"].tolist(),
            embeddings[query.index], query["id"].tolist(), query["sku"].tolist(), params.search.backend,
        )  # fmt: skip
        skus = set(gallery["sku"])
        hashes = {"encoder": encoder, "gallery": facts["content"]["gallery"], "queries": facts["content"]["query"]}
        evaluation = evaluate(ranking, skus, "full", params.evaluate, params.seed, hashes)
        out = root / "out/evaluate"
        write_json(out / f"{model}.json", evaluation.model_dump(mode="json"))
        write_parquet(out / f"{model}.parquet", ranking.to_frame(), RANKING_SCHEMA)
        write_json(out / f"{model}-skus.json", per_sku(ranking, skus).to_dict("records"))
