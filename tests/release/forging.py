"""Bundles of a careless or hostile writer: changed contents with matching hashes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from skumatch.bundle import MANIFEST, PARTS
from skumatch.files import read_json, sha256, write_json

ENCODER, GALLERY, THRESHOLDS, TRAINING = (
    "encoder/encoder.json",
    "gallery.parquet",
    "thresholds.json",
    "training.parquet",
)


def signed(folder: Path) -> Path:
    """Make bundle.json agree with the parts as they are."""
    manifest = read_json(folder / MANIFEST)
    manifest["parts"] = {
        name: {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size} for name in PARTS
    }
    write_json(folder / MANIFEST, manifest)
    return folder


def bound(folder: Path) -> Path:
    """Make all parts that can be read belong together, and bundle.json agree with them."""
    _change(folder / ENCODER, sha256=sha256(folder / "encoder/encoder.safetensors"))
    for name in (GALLERY, TRAINING):
        _name(folder / name, {"skumatch.encoder": sha256(folder / ENCODER)})
    _change(folder / THRESHOLDS, gallery=sha256(folder / GALLERY))
    return signed(folder)


def of_format_1(folder: Path) -> Path:
    """A bundle in format 1, in which parts don't name the model that they belong to."""
    for name in (GALLERY, TRAINING):
        _name(folder / name, {})
    thresholds = read_json(folder / THRESHOLDS)
    del thresholds["gallery"]
    write_json(folder / THRESHOLDS, thresholds)
    write_json(folder / MANIFEST, read_json(folder / MANIFEST) | {"format": "skumatch-bundle-1"})
    return signed(folder)


def _change(path: Path, **fields: str) -> None:
    try:
        write_json(path, read_json(path) | fields)
    except (ValueError, TypeError):
        return  # it is no JSON object, which is what the test is about


def _name(path: Path, metadata: dict[str, str]) -> None:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        return
    pq.write_table(table.replace_schema_metadata(metadata), path)
