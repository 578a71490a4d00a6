"""bundle: what would be promoted, loaded and queried once in a clean process before anyone relies on it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from skumatch.config import Params
from skumatch.data.split import GALLERY_ROLES
from skumatch.files import write_json
from skumatch.release.bundle import Gallery, write_bundle
from skumatch.stages.selection import select

BLESSING_QUERIES = 4


def run(root: Path, _: Params) -> None:
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    gallery = items[items["role"].eq("gallery")]
    embeddings = load_file(root / "out/embed/challenger.safetensors")["embeddings"][gallery.index]
    trained = select(root, "train")[0]
    folder = root / "out/bundle/model"
    labelled = Gallery(gallery["id"].tolist(), gallery["sku"].tolist(), embeddings)
    digest = write_bundle(folder, root / "out/train/encoder", labelled, {}, trained["pixels"].tolist())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    write_json(root / "out/bundle/facts.json", {"bundle": digest, "megabytes": round(size, 3), "blessed": blessed(root, folder)})


def blessed(root: Path, folder: Path) -> bool:
    """Whether a new process loads the bundle and finds gallery pictures again: each is its own nearest, at cosine over 0.999."""
    rows, pictures = select(root, *GALLERY_ROLES)
    single = np.flatnonzero(~rows["pixels"].duplicated(keep=False))
    chosen = [int(single[i * len(single) // BLESSING_QUERIES]) for i in range(BLESSING_QUERIES)]
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / f"{number}{Path(pictures.names[i]).suffix}" for number, i in enumerate(chosen)]
        for path, i in zip(paths, chosen, strict=True):
            path.write_bytes(pictures.read_bytes(i))
        command = [sys.executable, "-m", "skumatch", "match", *map(str, paths), "--model", str(folder), "--top-k", "1", "--json"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if answer.returncode != 0:
        print(answer.stderr[-2000:], file=sys.stderr)
        return False
    found = [matches[0] for matches in json.loads(answer.stdout)]
    return all(match["sku"] == rows["sku"].iloc[i] and match["similarity"] > 0.999 for match, i in zip(found, chosen, strict=True))
