"""embed: the same gallery, queries, catalogue and catch-all pictures through challenger and champion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from skumatch.data.images import Images
from skumatch.data.manifest import write_parquet
from skumatch.data.split import GALLERY_ROLES
from skumatch.files import read_json, replacing, sha256, write_json
from skumatch.model.embed import embed
from skumatch.model.encoder import load
from skumatch.params import Params
from skumatch.retrieval.photos import with_photos
from skumatch.stages.selection import select, without_queries

COLUMNS = {
    **dict.fromkeys(("id", "sku", "role", "group", "product_group", "sha256"), pa.string()),  # group: of duplicates
    **dict.fromkeys(("unseen", "trained_challenger", "trained_champion"), pa.bool_()),
    **dict.fromkeys(("width", "height"), pa.int32()),  # these and the next two of queries only
    **dict.fromkeys(("blur", "brightness"), pa.float64()),
}
SCHEMA = pa.schema(list(COLUMNS.items()))


def run(root: Path, params: Params) -> None:
    rows, pictures = select(root, *GALLERY_ROLES, "query", "catalogue", "other")
    rows, pictures = _without_trained_queries(_with_trained(root, rows), pictures)
    out = root / "out/embed"
    write_parquet(out / "items.parquet", _items(root, rows, pictures), SCHEMA)
    challenger, champion = root / "out/train/encoder", root / "inputs/champion/encoder"
    encoders = {"challenger": weights_hash(challenger), "champion": weights_hash(champion) if champion.is_dir() else None}
    embeddings = _embed(challenger, pictures, params, "challenger")
    _write(out / "challenger.safetensors", embeddings)
    if encoders["champion"] is not None:
        same = same_encoder(challenger, champion)
        _write(out / "champion.safetensors", embeddings if same else _embed(champion, pictures, params, "champion"))
    write_json(out / "embed.json", {"encoders": encoders})


def _items(root: Path, rows: pd.DataFrame, pictures: Images) -> pd.DataFrame:
    """What is known of each picture that is embedded, in that order."""
    groups = read_json(root / "data/import.json").get("groups", {})  # none in a version imported before groups were kept
    role = rows["role"].where(~rows["role"].isin(GALLERY_ROLES), "gallery")
    items: pd.DataFrame = with_photos(rows, pictures).assign(role=role, product_group=rows["sku"].map(groups))[SCHEMA.names]
    return items


def _with_trained(root: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with trained_challenger and trained_champion: whether the model was trained on these pixels."""
    champion = root / "inputs/champion/training.parquet"
    learnt = pq.read_table(champion)["id"].to_pylist() if champion.is_file() else []
    own = rows.loc[rows["role"].eq("train"), "pixels"]
    return rows.assign(trained_challenger=rows["pixels"].isin(own), trained_champion=rows["pixels"].isin(learnt))


def _without_trained_queries(rows: pd.DataFrame, pictures: Images) -> tuple[pd.DataFrame, Images]:
    """Drop queries, for both models, whose pixels either of them was trained on."""
    trained = set(rows.loc[rows["trained_challenger"] | rows["trained_champion"], "pixels"])
    kept = without_queries(rows, pictures, trained)
    if len(kept[0]) < len(rows):
        print(f"{len(rows) - len(kept[0])} queries were dropped for both models: one of them was trained on these pixels.")
    return kept


def _embed(folder: Path, pictures: Images, params: Params, label: str) -> NDArray[np.float32]:
    return embed(load(folder), pictures, params.embed.batch, params.runtime, f"embed {label}")


def _write(path: Path, embeddings: NDArray[np.float32]) -> None:
    with replacing(path) as aside:
        save_file({"embeddings": embeddings}, aside)


def weights_hash(folder: Path) -> str:
    """SHA-256 of an encoder's weights."""
    return str(read_json(folder / "encoder.json")["sha256"])


def same_encoder(first: Path, second: Path) -> bool:
    """Whether two encoder folders hold the same weights, preprocessing and settings."""
    return sha256(first / "encoder.json") == sha256(second / "encoder.json") and weights_hash(first) == weights_hash(second)
