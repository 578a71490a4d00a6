"""frozen: what the encoder finds with its base weights, before any training.

The baseline that the report shows beside the models.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch

from skumatch.data.split import GALLERY_ROLES
from skumatch.files import read_json, write_json
from skumatch.model.encoder import build
from skumatch.model.fetched import fetched_weights
from skumatch.model.runtime import prepare
from skumatch.params import Params
from skumatch.retrieval.protocols import ask
from skumatch.stages.selection import select, without_queries
from skumatch.stages.vectors import stage_vectors


def run(root: Path, params: Params) -> None:
    """Figures of protocol `full`, on the queries that this split doesn't train on.

    They are the challenger's queries, unless the champion was trained on some of them: what depends on the
    champion stays out, so that the stage is cached as long as data, split and base weights are the same.
    """
    rows, pictures = select(root, *GALLERY_ROLES, "query")
    rows, pictures = without_queries(rows, pictures, set(rows.loc[rows["role"].eq("train"), "pixels"]))
    weights = root / "inputs/weights"
    torch.manual_seed(params.seed)  # weights that are not given are random
    untrained = params.encoder.model_copy(
        update={"dim": 0}
    )  # a projection that nobody trained says nothing of its own
    encoder = build(untrained, fetched_weights(weights)).eval()
    vectors = stage_vectors(root, encoder, weights / "weights.json", pictures, params, "untrained")
    lists = pq.read_table(root / "out/split/protocols/full.parquet").to_pandas()
    items = rows[["id", "sku", "sha256", "group"]]
    device = str(prepare(params.runtime))
    asked = ask("full", lists, items, vectors, params.search.backend, device, params.evaluate.voters)
    digest = str(read_json(weights / "weights.json").get("sha256", "none"))
    write_json(
        root / "out/frozen/frozen.json",
        asked.evaluate(params.evaluate, params.seed, digest).model_dump(mode="json"),
    )
