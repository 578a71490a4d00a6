"""embed: the same gallery, queries, catalogue and catch-all pictures through the encoders of challenger and champion.

A refresh trains nothing, so it has no challenger; before the first release there is no champion.
"""

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
from skumatch.errors import DataError, ParameterError, WeightsError
from skumatch.files import read_json, replacing, sha256, write_json
from skumatch.model.distributed import World, joined
from skumatch.model.encoder import Encoder, load
from skumatch.params import Params
from skumatch.retrieval.photos import with_photos
from skumatch.stages.selection import select, without_queries
from skumatch.stages.vectors import stage_vectors

COLUMNS = {
    **dict.fromkeys(
        ("id", "sku", "role", "group", "product_group", "sha256"), pa.string()
    ),  # group: of duplicates
    **dict.fromkeys(("unseen", "trained_challenger", "trained_champion", "catalogue_only"), pa.bool_()),
    **dict.fromkeys(("width", "height"), pa.int32()),  # these and the next two of queries only
    **dict.fromkeys(("blur", "brightness"), pa.float64()),
}
SCHEMA = pa.schema(list(COLUMNS.items()))


def run(root: Path, params: Params) -> None:
    with joined(params.runtime) as world:
        _run(root, params, world)


def _run(root: Path, params: Params, world: World) -> None:
    rows, pictures = select(root, *GALLERY_ROLES, "query", "catalogue", "other", "retired")
    rows, pictures = _without_trained_queries(_with_trained(root, rows), pictures, world)
    folders = {"challenger": root / "out/train/encoder", "champion": root / "inputs/champion/encoder"}
    present = [name for name, folder in folders.items() if folder.is_dir()]
    if not present:
        raise DataError(
            "Neither a trained encoder nor a champion is here, so nothing can be embedded; run the train stage again."
        )
    embeddings = {present[0]: _embed(root, folders[present[0]], pictures, params, present[0], world)}
    for name in present[1:]:
        same = same_encoder(folders[present[0]], folders[name])
        embeddings[name] = (
            embeddings[present[0]] if same else _embed(root, folders[name], pictures, params, name, world)
        )
    if world.first:
        out = root / "out/embed"
        write_parquet(out / "items.parquet", _items(root, rows, pictures), SCHEMA)
        for name, found in embeddings.items():
            _write(out / f"{name}.safetensors", found)
        encoders = {
            name: weights_hash(folder) if name in embeddings else None for name, folder in folders.items()
        }
        write_json(out / "embed.json", {"encoders": encoders})


def _items(root: Path, rows: pd.DataFrame, pictures: Images) -> pd.DataFrame:
    """What is known of each picture that is embedded, in that order."""
    groups = read_json(root / "data/import.json").get(
        "groups", {}
    )  # none in a version imported before groups were kept
    role = rows["role"].where(~rows["role"].isin(GALLERY_ROLES), "gallery")
    shelf = rows.loc[role.eq("gallery") & rows["side"].ne("catalogue"), "sku"]
    catalogue_only = rows["sku"].isin(rows.loc[role.eq("gallery"), "sku"]) & ~rows["sku"].isin(shelf)
    items: pd.DataFrame = with_photos(rows, pictures).assign(
        role=role, product_group=rows["sku"].map(groups), catalogue_only=catalogue_only
    )[SCHEMA.names]
    return items


def _with_trained(root: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with trained_challenger and trained_champion: whether the model was trained on these pixels."""
    files = {
        "challenger": root / "out/train/training.parquet",
        "champion": root / "inputs/champion/training.parquet",
    }
    learnt = {
        who: pq.read_table(path)["id"].to_pylist() if path.is_file() else [] for who, path in files.items()
    }
    return rows.assign(**{f"trained_{who}": rows["pixels"].isin(pixels) for who, pixels in learnt.items()})


def _without_trained_queries(
    rows: pd.DataFrame, pictures: Images, world: World
) -> tuple[pd.DataFrame, Images]:
    """Drop queries, for all candidates, whose pixels an encoder was trained on."""
    trained = set(rows.loc[rows["trained_challenger"] | rows["trained_champion"], "pixels"])
    kept = without_queries(rows, pictures, trained)
    if len(kept[0]) < len(rows) and world.first:
        print(
            f"{len(rows) - len(kept[0])} queries were dropped for all candidates: an encoder was trained on these pixels."
        )
    return kept


def _embed(
    root: Path,
    folder: Path,
    pictures: Images,
    params: Params,
    label: str,
    world: World,
) -> NDArray[np.float32]:
    """The vectors of all pictures in the first process; the others' rows mean nothing."""
    return stage_vectors(root, _loaded(folder), folder / "encoder.json", pictures, params, label, world)


def _loaded(folder: Path) -> Encoder:
    """The encoder in `folder`, which may be of a newer skumatch. Raises WeightsError."""
    try:
        return load(folder)
    except ParameterError as error:  # no parameter of this run is at fault
        model = read_json(folder / "encoder.json")["spec"]["model"]
        facts = (
            f"{folder / 'encoder.json'} names the model '{str(model)[:40]}', which this skumatch doesn't have"
        )
        raise WeightsError(f"{facts}; load it with the version that wrote it.") from error


def _write(path: Path, embeddings: NDArray[np.float32]) -> None:
    with replacing(path) as aside:
        save_file({"embeddings": embeddings}, aside)


def weights_hash(folder: Path) -> str:
    """SHA-256 of an encoder's weights."""
    return str(read_json(folder / "encoder.json")["sha256"])


def same_encoder(first: Path, second: Path) -> bool:
    """Whether two encoder folders hold the same weights, preprocessing and settings."""
    return sha256(first / "encoder.json") == sha256(second / "encoder.json") and weights_hash(
        first
    ) == weights_hash(second)
