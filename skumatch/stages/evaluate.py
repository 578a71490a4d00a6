"""evaluate: ranked lists of both models under the protocol `full`, and their figures under each protocol."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pandas as pd
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from skumatch.config import Params
from skumatch.data.manifest import write_parquet
from skumatch.files import read_json, write_json
from skumatch.retrieval.evaluate import RANKING_SCHEMA, Protocol, per_sku
from skumatch.retrieval.protocols import ask, without_duplicates
from skumatch.retrieval.search import Vectors


def run(root: Path, params: Params) -> None:
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    for model, encoder in read_json(root / "out/embed/embed.json")["encoders"].items():
        if encoder is not None:
            vectors = load_file(root / f"out/embed/{model}.safetensors")["embeddings"]
            _full(root, params, items, vectors, model, encoder)
            _others(root, params, items, vectors, model, encoder)


def _full(root: Path, params: Params, items: pd.DataFrame, vectors: Vectors, model: str, encoder: str) -> None:
    out, backend = root / "out/evaluate", params.search.backend
    asked = ask("full", _lists(root, "full"), items, vectors, backend)
    evaluation = asked.evaluate(params.evaluate, params.seed, encoder)
    free = without_duplicates(asked, items, vectors, params.evaluate, params.seed, backend)
    write_json(out / f"{model}.json", evaluation.model_copy(update={"near_duplicate_free": free}).model_dump(mode="json"))
    write_parquet(out / f"{model}.parquet", asked.ranking.to_frame(), RANKING_SCHEMA)
    write_json(out / f"{model}-skus.json", per_sku(asked.ranking, asked.partners).to_dict("records"))


def _others(root: Path, params: Params, items: pd.DataFrame, vectors: Vectors, model: str, encoder: str) -> None:
    """Figures under every other protocol that has queries and a gallery here."""
    for protocol in get_args(Protocol):
        if protocol == "full" or not (root / f"out/split/protocols/{protocol}.parquet").is_file():
            continue
        asked = ask(protocol, _lists(root, protocol), items, vectors, params.search.backend)
        if asked.answerable:
            evaluation = asked.evaluate(params.evaluate, params.seed, encoder)
            write_json(root / f"out/evaluate/{model}-{protocol}.json", evaluation.model_dump(mode="json"))


def _lists(root: Path, protocol: str) -> pd.DataFrame:
    lists: pd.DataFrame = pq.read_table(root / f"out/split/protocols/{protocol}.parquet").to_pandas()
    return lists
