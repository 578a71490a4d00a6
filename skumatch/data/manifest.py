"""The manifest: one row for each image, with the hashes of its bytes and pixels and its place in a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from skumatch.data.images import Extent, Images
from skumatch.errors import DataError
from skumatch.files import write_parquet

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # side/sku/name: unique
        ("sha256", pa.string()),  # of the original bytes
        ("pixels", pa.string()),  # of the decoded RGB picture
        ("phash", pa.uint64()),  # perceptual hash: few bits differ between near-copies
        ("phash95", pa.uint64()),  # of the picture's middle 95 %
        ("phash90", pa.uint64()),  # of its middle 90 %
        ("sku", pa.string()),
        ("side", pa.string()),
        ("name", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("format", pa.string()),
    ]
)
COLUMNS = SCHEMA.names


def write_manifest(root: Path, frame: pd.DataFrame) -> None:
    """Write `root`/manifest.parquet, in order of id."""
    write_parquet(root / "manifest.parquet", frame[COLUMNS].sort_values("id", ignore_index=True), SCHEMA)


def columns_of(frame: pd.DataFrame, names: list[str]) -> pa.Table:
    """Return some columns of a manifest as an Arrow table."""
    schema = pa.schema([SCHEMA.field(name) for name in names])
    return pa.Table.from_pandas(frame[names], schema=schema, preserve_index=False).replace_schema_metadata(
        None
    )


def read_manifest(root: Path) -> pd.DataFrame:
    """Read `root`/manifest.parquet.

    Raises:
        DataError: if it is missing, damaged, or has other columns.
    """
    path = root / "manifest.parquet"
    if not path.is_file():
        raise DataError(
            f"There is no {path}; import data first with `skumatch data import PATH` "
            "or `skumatch data sample`."
        )
    return read_whole(path, COLUMNS)


def read_whole(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read a table of a data version.

    Raises:
        DataError: if it is damaged, or has other columns than `columns`, in their order.
    """
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise DataError(
            f"{path} is damaged; fetch it again with `dvc pull data.dvc`, or import the data again."
        ) from error
    if table.schema.names != columns:
        raise DataError(f"{path} has other columns than this version writes; import the data again.")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def images(root: Path, frame: pd.DataFrame) -> Images:
    """Return the pictures of the manifest's rows `frame`, read from the shards below `root`."""
    shards = root / "shards"
    extents = [
        Extent(str(shards / s), int(o), int(n))
        for s, o, n in zip(frame["shard"], frame["offset"], frame["length"], strict=True)
    ]
    ids, skus, names, hashes = (frame[name].tolist() for name in ("id", "sku", "name", "sha256"))
    return Images(ids, skus, names, extents, hashes)


def content_hash(hashes: Iterable[str], skus: Iterable[str]) -> str:
    """Return a SHA-256 over labelled images that doesn't depend on their order and names.

    Args:
        hashes: SHA-256 of each image's bytes, in hex.
        skus: each image's SKU.
    """
    lines = sorted(f"{digest} {sku}\n" for digest, sku in zip(hashes, skus, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
