"""frozen: the figures of the encoder with its base weights, before any training.

The report shows them as a baseline beside the models.
"""

from __future__ import annotations

from pathlib import Path

import torch

from skumatch.data.split import GALLERY_ROLES
from skumatch.model.encoder import build
from skumatch.model.fetched import fetched_weights
from skumatch.model.runtime import prepare
from skumatch.params import Params
from skumatch.retrieval.protocols import ask
from skumatch.stages import artefacts
from skumatch.stages.selection import select, without_queries
from skumatch.stages.vectors import stage_vectors


def run(root: Path, params: Params) -> None:
    """Write the figures under the protocol `full`, on the queries that this split doesn't train on.

    They are the challenger's queries, unless the champion was trained on some of them. Nothing here depends
    on the champion, so that the stage is cached as long as data, split and base weights are the same.
    """
    rows, pictures = select(root, *GALLERY_ROLES, "query")
    rows, pictures = without_queries(rows, pictures, set(rows.loc[rows["role"].eq("train"), "pixels"]))
    torch.manual_seed(params.seed)  # weights that are not given are random
    # without the projection: an untrained one would add nothing but chance
    untrained = params.encoder.model_copy(update={"dim": 0})
    encoder = build(untrained, fetched_weights(artefacts.WEIGHTS.at(root))).eval()
    weights = artefacts.WEIGHTS_FACTS.at(root)
    vectors = stage_vectors(root, encoder, weights, pictures, params, "untrained")
    lists = artefacts.PROTOCOL.read(root, protocol="full")
    items = rows[["id", "sku", "sha256", "group"]]
    device = str(prepare(params.runtime))
    full = ask("full", lists, items, vectors, params.search.backend, device, params.evaluate.voters)
    digest = artefacts.WEIGHTS_FACTS.read(root).sha256 or "none"
    evaluation = full.evaluate(params.evaluate, params.seed, digest)
    artefacts.FROZEN.write(root, evaluation)
