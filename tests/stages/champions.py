"""A champion's bundle for tests of single stages: an encoder with random weights, and its gallery."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from skumatch.bundle import LabelledVectors, write_bundle


def training(folder: Path, pixels: Collection[str] = ()) -> None:
    """Write which pixels an encoder was trained on, as the stage train does."""
    pq.write_table(pa.table({"id": pa.array(sorted(pixels), pa.string())}), folder / "training.parquet")


def serve(root: Path, without: Collection[str] = (), similarity: float | None = None) -> Path:
    """Complete inputs/champion, which has an encoder and its training, to a bundle.

    Its gallery is today's gallery from the stage embed, except for the products `without`; `similarity` is
    its threshold.
    """
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    rows = items[items["role"].eq("gallery") & ~items["sku"].isin(list(without))]
    vectors = load_file(root / "out/embed/champion.safetensors")["embeddings"][rows.index]
    champion = root / "inputs/champion"
    trained = pq.read_table(champion / "training.parquet")["id"].to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        encoder = shutil.copytree(champion / "encoder", Path(folder) / "encoder")
        shutil.rmtree(champion)
        gallery = LabelledVectors(rows["id"].tolist(), rows["sku"].tolist(), vectors)
        write_bundle(champion, encoder, gallery, {"similarity": similarity}, trained)
    return champion
