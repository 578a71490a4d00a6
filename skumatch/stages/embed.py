"""embed: the same gallery, queries, catalogue and catch-all pictures through challenger and champion."""

from __future__ import annotations

from contextlib import nullcontext
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
from skumatch.model.distributed import World, joined
from skumatch.model.embed import vectors_of
from skumatch.model.encoder import load
from skumatch.params import Params
from skumatch.progress import silent, track
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
    with joined(params.runtime) as world:
        _run(root, params, world)


def _run(root: Path, params: Params, world: World) -> None:
    rows, pictures = select(root, *GALLERY_ROLES, "query", "catalogue", "other")
    rows, pictures = _without_trained_queries(_with_trained(root, rows), pictures, world)
    folders = {"challenger": root / "out/train/encoder", "champion": root / "inputs/champion/encoder"}
    embeddings = {"challenger": _embed(folders["challenger"], pictures, params, "challenger", world)}
    if folders["champion"].is_dir():
        same = same_encoder(*folders.values())
        embeddings["champion"] = embeddings["challenger"] if same else _embed(folders["champion"], pictures, params, "champion", world)
    if world.first:
        out = root / "out/embed"
        write_parquet(out / "items.parquet", _items(root, rows, pictures), SCHEMA)
        for name, found in embeddings.items():
            _write(out / f"{name}.safetensors", found)
        encoders = {name: weights_hash(folder) if name in embeddings else None for name, folder in folders.items()}
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


def _without_trained_queries(rows: pd.DataFrame, pictures: Images, world: World) -> tuple[pd.DataFrame, Images]:
    """Drop queries, for both models, whose pixels either of them was trained on."""
    trained = set(rows.loc[rows["trained_challenger"] | rows["trained_champion"], "pixels"])
    kept = without_queries(rows, pictures, trained)
    if len(kept[0]) < len(rows) and world.first:
        print(f"{len(rows) - len(kept[0])} queries were dropped for both models: one of them was trained on these pixels.")
    return kept


def _embed(folder: Path, pictures: Images, params: Params, label: str, world: World) -> NDArray[np.float32]:
    """The vectors of all pictures in the first process, which shows its part's progress; the others have their own part's."""
    parts = world.parts(len(pictures), params.embed.batch)
    own, encoder = pictures.take(parts[world.rank]), load(folder)
    shown = track(f"embed {label}", len(own)) if world.first else nullcontext(silent)
    with shown as advance:
        return world.collected(vectors_of(encoder, own, params.embed.batch, params.runtime, advance), parts)


def _write(path: Path, embeddings: NDArray[np.float32]) -> None:
    with replacing(path) as aside:
        save_file({"embeddings": embeddings}, aside)


def weights_hash(folder: Path) -> str:
    """SHA-256 of an encoder's weights."""
    return str(read_json(folder / "encoder.json")["sha256"])


def same_encoder(first: Path, second: Path) -> bool:
    """Whether two encoder folders hold the same weights, preprocessing and settings."""
    return sha256(first / "encoder.json") == sha256(second / "encoder.json") and weights_hash(first) == weights_hash(second)
