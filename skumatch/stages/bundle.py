"""bundle: write the bundles that may be released, and load and query each once in a clean process.

The challenger's bundle is in out/bundle/model, the refreshed one (the champion's encoder with today's
gallery) in out/bundle/refreshed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from skumatch.data.split import GALLERY_ROLES
from skumatch.files import read_json, write_json
from skumatch.params import Params
from skumatch.release.blessing import bless
from skumatch.release.bundle import LabelledVectors, write_bundle
from skumatch.release.bundle.manifest import TRAINING
from skumatch.stages.selection import select


def run(root: Path, params: Params) -> None:
    """Write out/bundle: a bundle for each candidate, and facts.json."""
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    held = read_json(root / "out/evaluate/held.json")
    gallery = items[items["role"].eq("gallery")]
    facts: dict[str, dict[str, Any] | None] = {"challenger": None, "refreshed": None}
    if (root / "out/train/encoder").is_dir():
        trained = pq.read_table(root / "out/train/training.parquet")["id"].to_pylist()
        rows = _without(gallery, held.get("challenger", {}))
        facts["challenger"] = _bundle(root, params, "challenger", rows, root / "out/train/encoder", trained)
    champion = root / "inputs/champion"
    if (champion / "encoder").is_dir():
        trained = pq.read_table(champion / TRAINING)["id"].to_pylist()
        rows = _without(gallery, held["refreshed"])
        facts["refreshed"] = _bundle(root, params, "refreshed", rows, champion / "encoder", trained)
    write_json(root / "out/bundle/facts.json", facts)


def _without(gallery: pd.DataFrame, held: dict[str, str]) -> pd.DataFrame:
    """Return the gallery's rows without those of products that are held back."""
    return gallery[~gallery["sku"].isin(list(held))]


def _bundle(
    root: Path, params: Params, candidate: str, gallery: pd.DataFrame, encoder: Path, trained: Iterable[str]
) -> dict[str, Any]:
    """Write a candidate's bundle and try it in a clean process.

    Args:
        root: The stage's workspace.
        params: The gate's limits that the bundle is tried against.
        candidate: `challenger` or `refreshed`.
        gallery: The items to serve with, one row each; the index gives their rows in the embeddings.
        encoder: The encoder's folder.
        trained: Hashes of the pixels that the encoder was trained on.

    Returns:
        The bundle's hash, its size in megabytes, and the results of the trial.
    """
    vectors = {"challenger": "challenger", "refreshed": "champion"}[candidate]
    embeddings = load_file(root / f"out/embed/{vectors}.safetensors")["embeddings"][gallery.index]
    thresholds = read_json(root / f"out/evaluate/{candidate}-thresholds.json")
    folder = root / "out/bundle" / {"challenger": "model", "refreshed": "refreshed"}[candidate]
    labelled = LabelledVectors(gallery["id"].tolist(), gallery["sku"].tolist(), embeddings)
    digest = write_bundle(folder, encoder, labelled, thresholds, trained)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    rows, pictures = select(root, *GALLERY_ROLES)
    served = rows.index[rows["sku"].isin(gallery["sku"])]
    blessing = bless(
        folder,
        rows.loc[served].reset_index(drop=True),
        pictures.take(served.tolist()),
        params.gate.max_p95_ms,
    )
    return {"bundle": digest, "megabytes": round(size, 3), **blessing._asdict()}
