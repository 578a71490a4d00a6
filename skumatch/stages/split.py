"""split: who trains, who calibrates, who is in the gallery, who asks."""

from __future__ import annotations

from pathlib import Path

from skumatch.config import Params
from skumatch.data.manifest import read_manifest, write_parquet
from skumatch.data.split import SCHEMA, split
from skumatch.files import write_json


def run(root: Path, params: Params) -> None:
    frame = split(read_manifest(root / "data"), params.split, params.data, params.seed)
    write_parquet(root / "out/split/split.parquet", frame, SCHEMA)
    counts = {role: int(n) for role, n in frame["role"].value_counts().items()}
    skus = frame.groupby("role")["sku"].nunique()
    unseen = sorted(frame.loc[frame["unseen"], "sku"].unique())
    write_json(root / "out/split/split.json", {"images": counts, "skus": {role: int(n) for role, n in skus.items()}, "unseen": unseen})
