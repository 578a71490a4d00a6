"""embed: embed the gallery, queries, catalogue and catch-all pictures with each candidate's encoder.

Challenger and champion get the same pictures. A refresh trains nothing, so it has no challenger; before the
first release there is no champion.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skumatch.data.images import Images
from skumatch.data.split import GALLERY_ROLES
from skumatch.errors import DataError, ParameterError, WeightsError
from skumatch.files import read_json, sha256
from skumatch.model.distributed import World, joined
from skumatch.model.encoder import Encoder, load
from skumatch.params import Params
from skumatch.retrieval.photos import with_photos
from skumatch.stages import artefacts
from skumatch.stages.artefacts import EncoderHashes
from skumatch.stages.selection import select, without_queries
from skumatch.stages.vectors import stage_vectors
from skumatch.texts import agreeing


def run(root: Path, params: Params) -> None:
    """Write out/embed: the items, each encoder's vectors, and embed.json."""
    with joined(params.runtime) as world:
        _run(root, params, world)


def _run(root: Path, params: Params, world: World) -> None:
    rows, pictures = select(root, *GALLERY_ROLES, "query", "catalogue", "other", "retired")
    rows, pictures = _without_trained_queries(_with_trained(root, rows), pictures, world)
    encoders = {"challenger": artefacts.ENCODER, "champion": artefacts.CHAMPION_ENCODER}
    folders = {name: encoder.at(root) for name, encoder in encoders.items()}
    present = [name for name, folder in folders.items() if folder.is_dir()]
    if not present:
        raise DataError(
            "Neither a trained encoder nor a champion is here, so nothing can be embedded; "
            "run the train stage again."
        )
    embeddings = {present[0]: _embed(root, folders[present[0]], pictures, params, present[0], world)}
    for name in present[1:]:
        same = same_encoder(folders[present[0]], folders[name])
        embeddings[name] = (
            embeddings[present[0]] if same else _embed(root, folders[name], pictures, params, name, world)
        )
    if world.first:
        artefacts.ITEMS.write(root, _items(root, rows, pictures))
        for name, vectors in embeddings.items():
            artefacts.VECTORS.write(root, vectors, encoder=name)
        hashes = {
            name: weights_hash(folder) if name in embeddings else None for name, folder in folders.items()
        }
        artefacts.ENCODERS.write(root, EncoderHashes(encoders=hashes))


def _items(root: Path, rows: pd.DataFrame, pictures: Images) -> pd.DataFrame:
    """Return the table of the embedded pictures, in their order; columns as in artefacts.ITEMS."""
    # a version that was imported before groups were kept has none
    groups = read_json(root / "data/import.json").get("groups", {})
    role = rows["role"].where(~rows["role"].isin(GALLERY_ROLES), "gallery")
    shelf = rows.loc[role.eq("gallery") & rows["side"].ne("catalogue"), "sku"]
    catalogue_only = rows["sku"].isin(rows.loc[role.eq("gallery"), "sku"]) & ~rows["sku"].isin(shelf)
    items: pd.DataFrame = with_photos(rows, pictures).assign(
        role=role, product_group=rows["sku"].map(groups), catalogue_only=catalogue_only
    )[artefacts.ITEMS.columns]
    return items


def _with_trained(root: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Add to `rows` whether each encoder was trained on the pixels: trained_challenger, trained_champion."""
    tables = {"challenger": artefacts.TRAINING_PIXELS, "champion": artefacts.CHAMPION_PIXELS}
    trained_on = {
        model: table.read(root)["id"].tolist() if table.exists(root) else []
        for model, table in tables.items()
    }
    flags = {f"trained_{model}": rows["pixels"].isin(pixels) for model, pixels in trained_on.items()}
    return rows.assign(**flags)


def _without_trained_queries(
    rows: pd.DataFrame, pictures: Images, world: World
) -> tuple[pd.DataFrame, Images]:
    """Drop, for all candidates, the queries whose pixels an encoder was trained on."""
    trained = set(rows.loc[rows["trained_challenger"] | rows["trained_champion"], "pixels"])
    kept = without_queries(rows, pictures, trained)
    dropped = len(rows) - len(kept[0])
    if dropped > 0 and world.first:
        were = agreeing(dropped, "query was", "queries were")
        print(f"{dropped:,} {were} dropped for all candidates: an encoder was trained on these pixels.")
    return kept


def _embed(
    root: Path,
    folder: Path,
    pictures: Images,
    params: Params,
    label: str,
    world: World,
) -> NDArray[np.float32]:
    """Return the vectors of all pictures; only the first process's rows count."""
    return stage_vectors(root, _loaded(folder), folder / "encoder.json", pictures, params, label, world)


def _loaded(folder: Path) -> Encoder:
    """Load the encoder in `folder`; raise WeightsError for a model that only a newer skumatch has."""
    try:
        return load(folder)
    except ParameterError as error:  # no parameter of this run is at fault
        model = read_json(folder / "encoder.json")["spec"]["model"]
        facts = (
            f"{folder / 'encoder.json'} names the model '{str(model)[:40]}', which this skumatch doesn't have"
        )
        raise WeightsError(f"{facts}; load it with the version that wrote it.") from error


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 of an encoder's weights."""
    return str(read_json(folder / "encoder.json")["sha256"])


def same_encoder(first: Path, second: Path) -> bool:
    """Return whether two encoder folders hold the same weights, preprocessing and settings."""
    if sha256(first / "encoder.json") != sha256(second / "encoder.json"):
        return False
    return weights_hash(first) == weights_hash(second)
