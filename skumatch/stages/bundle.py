"""bundle: what would be promoted, loaded and queried once in a clean process before anyone relies on it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from safetensors.numpy import load_file

from skumatch.data.split import GALLERY_ROLES
from skumatch.files import read_json, write_json
from skumatch.params import Params
from skumatch.release.blessing import bless
from skumatch.release.bundle import Gallery, write_bundle
from skumatch.stages.selection import select


def run(root: Path, params: Params) -> None:
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    gallery = items[items["role"].eq("gallery")]
    embeddings = load_file(root / "out/embed/challenger.safetensors")["embeddings"][gallery.index]
    trained = select(root, "train")[0]
    thresholds = read_json(root / "out/evaluate/challenger-thresholds.json")
    folder = root / "out/bundle/model"
    labelled = Gallery(gallery["id"].tolist(), gallery["sku"].tolist(), embeddings)
    digest = write_bundle(folder, root / "out/train/encoder", labelled, thresholds, trained["pixels"].tolist())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    blessing = bless(folder, *select(root, *GALLERY_ROLES), params.gate.max_p95_ms)
    write_json(root / "out/bundle/facts.json", {"bundle": digest, "megabytes": round(size, 3), **blessing._asdict()})
