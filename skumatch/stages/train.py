"""train: fine-tune the encoder on the split's `train` images, going on from the last checkpoint of the same inputs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow as pa

from skumatch.config import Settings
from skumatch.data.manifest import write_parquet
from skumatch.files import canonical_json, read_json, sha256, write_json
from skumatch.model.checkpoint import Checkpoints
from skumatch.model.distributed import World, joined
from skumatch.model.encoder import save
from skumatch.model.fetched import fetched_weights
from skumatch.model.train import train
from skumatch.model.validation import Validation
from skumatch.params import Params
from skumatch.stages.runner import LIVE
from skumatch.stages.selection import select

PIXELS = pa.schema([("id", pa.string())])  # hashes of the pixels that were trained on
CODE = (
    "skumatch/stages/train.py",
    "skumatch/stages/selection.py",
    "skumatch/data",
    "skumatch/model",
    "requirements/constraints.txt",
)


def run(root: Path, params: Params) -> None:
    with joined(params.runtime) as world:
        _train(root, params, world)


def _train(root: Path, params: Params, world: World) -> None:
    rows, pictures = select(root, "train")
    kept = select(root, "val")[1]
    out, key = root / "out/train", inputs_hash(root, params)
    encoder = train(
        images=pictures,
        classes=sorted(rows["sku"].unique()),
        spec=params.encoder,
        params=params.train,
        seed=params.seed,
        weights=fetched_weights(root / "inputs/weights"),
        checkpoints=Checkpoints(Settings().remote_url, key, params.runtime.checkpoint_seconds)
        if world.first
        else None,
        runtime=params.runtime,
        history=out / "history.jsonl",
        judge=Validation(pictures, kept, params.embed.batch, params.runtime, params.seed)
        if len(kept)
        else None,
        world=world,
        live=root / LIVE,
    )
    if world.first:
        save(encoder, out / "encoder")
        write_parquet(out / "training.parquet", pd.DataFrame({"id": sorted(set(rows["pixels"]))}), PIXELS)
        facts = {
            "images": len(rows),
            "skus": int(rows["sku"].nunique()),
            "weights": read_json(root / "inputs/weights/weights.json"),
        }
        write_json(out / "training.json", facts)


def inputs_hash(root: Path, params: Params) -> str:
    """SHA-256 over all that decides the trained weights: the checkpoints' name, so only an equal training goes on from them."""
    names = ["data/manifest.parquet", "out/split/split.parquet", "inputs/weights/weights.json", *_code(root)]
    facts = {
        "files": {name: sha256(root / name) for name in names},
        "params": params.model_dump(mode="json", include={"seed", "encoder", "train"}),
    }
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def _code(root: Path) -> list[str]:
    found = [
        p for name in CODE for p in ((root / name).rglob("*") if (root / name).is_dir() else [root / name])
    ]
    return sorted(
        p.relative_to(root).as_posix() for p in found if p.is_file() and "__pycache__" not in p.parts
    )
