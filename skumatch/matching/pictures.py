"""What is to be matched: picture files, folders, or Parquet tables of paths or bytes; and what the gallery looks like."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from skumatch.data.delivery.folders import walk
from skumatch.data.delivery.layout import junk_kind
from skumatch.data.images import Extent, Images
from skumatch.data.manifest import images, read_manifest
from skumatch.errors import DataError

TABLE: Final = ".parquet"
ROWS = 256  # of a table read at a time
EXPECTED = "`path` (of picture files, from the table's folder) or `image` (their bytes)"


def find_pictures(given: Sequence[Path], aside: Path) -> Images:
    """The pictures named by `given`, each id once, without SKUs: a folder's in order of their paths, a table's in order of its rows.

    A table has a column `image` (bytes, or Hugging Face's struct of them) or `path`, and may have `id`; its bytes are laid into a file
    in the folder `aside`, so that memory stays bounded. Raises DataError if a place is missing, empty or of another kind.
    """
    found = [one for path in given for one in _listed(path, aside)]
    twice = next((name for name, times in Counter(name for name, _ in found).items() if times > 1), None)
    if twice is not None:
        raise DataError(f"Two pictures are called {twice}; give each its own `id`, or match them one after the other.")
    names = [name for name, _ in found]
    return Images(names, [""] * len(names), names, [extent for _, extent in found])


def _listed(path: Path, aside: Path) -> list[tuple[str, Extent]]:
    if path.is_dir():
        found = sorted((file.name, Extent(file.source)) for file in walk(path) if not (file.kind or junk_kind(file.name)))
        return _some(found, path, "pictures below it")
    if not path.is_file():
        raise DataError(f"There is no {path}; give pictures, a folder of them, or a Parquet table.")
    return _some(_rows(path, aside), path, "rows") if path.suffix == TABLE else [(str(path), Extent(str(path)))]


def _some(found: list[tuple[str, Extent]], path: Path, what: str) -> list[tuple[str, Extent]]:
    if not found:
        raise DataError(f"{path} has no {what}; give a place with pictures.")
    return found


def _rows(path: Path, aside: Path) -> list[tuple[str, Extent]]:
    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if "image" in names:
                return _spooled(table, names, path, aside / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.bin")
            if "path" in names:
                return _paths(table.read([name for name in ("id", "path") if name in names]), path)
    except pa.ArrowException as error:
        raise DataError(f"{path} can't be read as a Parquet table ({str(error).splitlines()[0]}); write it again.") from error
    raise DataError(f"{path} has no column of pictures; it needs {EXPECTED}.")


def _paths(rows: pa.Table, path: Path) -> list[tuple[str, Extent]]:
    places = rows["path"].to_pylist()
    names = [str(name) for name in rows["id"].to_pylist()] if "id" in rows.column_names else places
    empty = next((number for number, place in enumerate(places) if not isinstance(place, str)), None)
    if empty is not None:
        raise DataError(f"Row {empty} of {path} has no `path`; give every row one.")
    return [(name, Extent(str(path.parent / place))) for name, place in zip(names, places, strict=True)]


def _spooled(table: pq.ParquetFile, names: list[str], path: Path, spool: Path) -> list[tuple[str, Extent]]:
    """Lay the column's bytes into one file, as old as the table: a table is read front to back only, pictures by several processes."""
    found: list[tuple[str, Extent]] = []
    with spool.open("wb") as stream:
        for batch in table.iter_batches(ROWS, columns=[name for name in ("id", "image") if name in names], use_threads=False):
            for row in batch.to_pylist():
                data = _bytes(row["image"], path, len(found))
                found.append((str(row.get("id", len(found))), Extent(str(spool), stream.tell(), len(data))))
                stream.write(data)
    os.utime(spool, ns=(0, path.stat().st_mtime_ns))
    return found


def _bytes(value: Any, path: Path, number: int) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise DataError(f"Row {number} of {path} has no bytes in `image`; write the picture files' bytes there.")
    return data


def gallery_pictures(data: Path, ids: Sequence[str], skus: Sequence[str]) -> Callable[[str], Image.Image | None]:
    """SKU -> the first of its gallery images `ids` that the data version in `data` has for that SKU too; None where it has none.

    Raises DataError if there is no data version.
    """
    rows = read_manifest(data)
    rows = rows[rows["id"].isin(ids) & rows["sku"].isin(skus)].sort_values("id").drop_duplicates("sku")
    pictures, at = images(data, rows), {sku: row for row, sku in enumerate(rows["sku"])}
    return lambda sku: pictures[at[sku]] if sku in at else None
