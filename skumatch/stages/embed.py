"""embed: the same gallery, queries and catalogue pictures through challenger and champion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from skumatch.config import Params
from skumatch.data.images import Images
from skumatch.data.manifest import write_parquet
from skumatch.data.split import GALLERY_ROLES
from skumatch.files import read_json, replacing, sha256, write_json
from skumatch.model.encoder import load
from skumatch.retrieval.embed import embed
from skumatch.stages.selection import select

SCHEMA = pa.schema([*((name, pa.string()) for name in ("id", "sku", "role", "group", "sha256")), ("unseen", pa.bool_())])


def run(root: Path, params: Params) -> None:
    rows, pictures = select(root, *GALLERY_ROLES, "query", "catalogue")
    rows, pictures = _without_trained_queries(root, rows, pictures)
    items = rows[SCHEMA.names].assign(role=rows["role"].where(~rows["role"].isin(GALLERY_ROLES), "gallery"))
    out = root / "out/embed"
    write_parquet(out / "items.parquet", items, SCHEMA)
    challenger, champion = root / "out/train/encoder", root / "inputs/champion/encoder"
    encoders = {"challenger": weights_hash(challenger), "champion": weights_hash(champion) if champion.is_dir() else None}
    embeddings = _embed(challenger, pictures, params, "challenger")
    _write(out / "challenger.safetensors", embeddings)
    if encoders["champion"] is not None:
        same = same_encoder(challenger, champion)
        _write(out / "champion.safetensors", embeddings if same else _embed(champion, pictures, params, "champion"))
    write_json(out / "embed.json", {"encoders": encoders})


def _without_trained_queries(root: Path, rows: pd.DataFrame, pictures: Images) -> tuple[pd.DataFrame, Images]:
    """Drop queries, for both models, whose pixels either of them was trained on."""
    trained = set(rows.loc[rows["role"].eq("train"), "pixels"])
    champion = root / "inputs/champion/training.parquet"
    if champion.is_file():
        trained |= set(pq.read_table(champion)["id"].to_pylist())
    kept = np.flatnonzero(~(rows["role"].eq("query") & rows["pixels"].isin(trained)))
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} queries were dropped for both models: one of them was trained on these pixels.")
    return rows.iloc[kept].reset_index(drop=True), pictures.take(kept.tolist())


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
