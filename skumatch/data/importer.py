"""A delivery becomes a data version: tar shards of the original bytes, a manifest, and a list of what was left out."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from skumatch.data.images import decode, pixel_hash
from skumatch.data.layout import Item, Source, open_source
from skumatch.data.manifest import COLUMNS, write_manifest
from skumatch.errors import DataError, ImageError, StorageError
from skumatch.files import write_json
from skumatch.progress import track

FORMAT = "skumatch-data-1"
SHARD_BYTES = 256_000_000


@dataclass(frozen=True)
class Imported:
    """What an import found: counts, junk by kind, quarantined images with their reason."""

    images: int
    skus: int
    junk: dict[str, int]
    quarantined: list[dict[str, str]]
    changed: bool


class ShardWriter:
    """Appends files to uncompressed tar shards and tells where each one's bytes lie."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.tar = folder, 0, None
        folder.mkdir(parents=True)

    tar: tarfile.TarFile | None

    def add(self, name: str, data: bytes) -> tuple[str, int]:
        """Append `data`; return the shard's file name and the byte offset of the data in it."""
        if self.tar is None or self.tar.offset + len(data) > SHARD_BYTES:
            self.close()
            self.tar = tarfile.open(self.folder / f"{self.count:05d}.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 closed in close()
            self.count += 1
        info = tarfile.TarInfo(name)  # time, owner and mode stay at their constants: equal bytes for equal images
        info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data))
        blocks = -(-len(data) // tarfile.BLOCKSIZE)
        return f"{self.count - 1:05d}.tar", self.tar.offset - blocks * tarfile.BLOCKSIZE

    def close(self) -> None:
        if self.tar:
            self.tar.close()


def import_data(path: Path, root: Path, skus: Iterable[str] | None = None, min_short_side: int = 32) -> Imported:
    """Import the folder or zip at `path` as the data version at `root`, replacing the one that is there.

    `skus` limits the import to those SKUs. `min_short_side` is in pixels; smaller images are quarantined as `tiny`.
    Raises DataError for a delivery that can't be used and StorageError if the disk refuses; `root` is then as it was.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        with open_source(path) as source:
            summary = _write(source, _wanted(source.items, skus, path), aside, path, min_short_side)
        changed = not _same(aside, root)
        if changed:
            _swap(aside, root)
        return Imported(summary["images"], summary["skus"], summary["junk"], summary["quarantined"], changed)
    except OSError as error:
        raise StorageError(f"Could not write {root}: {error.strerror or error}; free some space, then import again.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _wanted(items: list[Item], skus: Iterable[str] | None, path: Path) -> list[Item]:
    if skus is None:
        return items
    wanted = set(skus)
    missing = sorted(wanted - {item.sku for item in items})
    if missing or not wanted:
        raise DataError(f"{path} has no SKU named '{missing[0] if missing else ''}' ({len(missing)} not found); correct the list of SKUs.")
    return [item for item in items if item.sku in wanted]


def _write(source: Source, items: list[Item], aside: Path, path: Path, min_short_side: int) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    quarantined: list[dict[str, str]] = []
    shards = ShardWriter(aside / "shards")
    with track("import", len(items)) as advance:
        for item in items:
            try:
                data = source.read(item)
                rows.append(_row(item, data, min_short_side))
            except ImageError as error:
                quarantined.append({"id": item.id, "reason": error.reason, "sentence": str(error)})
            else:
                rows[-1]["shard"], rows[-1]["offset"] = shards.add(item.id, data)
            advance()
    shards.close()
    for side in ("train", "test"):
        if not any(row["side"] == side for row in rows):
            raise DataError(f"{path} has no usable {side} image ({len(quarantined)} could not be read); deliver them again.")
    frame = pd.DataFrame(rows, columns=COLUMNS)
    write_manifest(aside, frame)
    summary = {
        "format": FORMAT,
        "images": len(rows),
        "skus": int(frame["sku"].nunique()),
        "junk": dict(sorted(source.junk.items())),
        "quarantined": quarantined,
    }
    write_json(aside / "import.json", summary)
    return summary


def _row(item: Item, data: bytes, min_short_side: int) -> dict[str, Any]:
    picture = decode(data)
    if min(picture.size) < min_short_side:
        raise ImageError("tiny", f"The picture is {picture.width} x {picture.height} px, under {min_short_side}; deliver a larger crop.")
    with Image.open(io.BytesIO(data)) as header:
        mode, container = header.mode, header.format
    return {
        "id": item.id,
        "sha256": hashlib.sha256(data).hexdigest(),
        "pixels": pixel_hash(picture),
        "sku": item.sku,
        "side": item.side,
        "name": item.name,
        "length": len(data),
        "width": picture.width,
        "height": picture.height,
        "mode": mode,
        "format": container,
    }


def _same(aside: Path, root: Path) -> bool:
    # Shards are a function of the images in order of id, which the manifest lists with hash, offset and length.
    names = ("manifest.parquet", "import.json")
    return all((root / n).is_file() and (root / n).read_bytes() == (aside / n).read_bytes() for n in names)


def _swap(aside: Path, root: Path) -> None:
    old = root.with_name(f".{root.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if root.exists():
        root.rename(old)
    aside.rename(root)
    root.chmod(0o755)
    shutil.rmtree(old, ignore_errors=True)
