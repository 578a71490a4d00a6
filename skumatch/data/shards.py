"""Shards: uncompressed tars of original bytes.

A shard's name is a hash of its members' names, which are hashes of their bytes. So DVC never sends an
unchanged shard again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from skumatch.data.images import Extent

SHARD_BYTES = 256_000_000
OPEN = "open.tar"
STORED = ["sha256", "shard", "offset", "length", "format"]


class Spot(NamedTuple):
    """The place of an image's bytes.

    Attributes:
        shard: number of the shard.
        offset: bytes of the shard before the image's.
    """

    shard: int
    offset: int


def suffix(container: str) -> str:
    """Return the ending of file names, without a dot, for a format as Pillow names it."""
    return {"JPEG": "jpg", "TIFF": "tif"}.get(container, container.lower())


class ShardWriter:
    """Appends images to new shards in a folder.

    A shard is named when it is full, by a hash of its members' names.

    Attributes:
        folder: the folder of the new shards; it must not exist yet.
        names: file names of the finished shards, in order of their numbers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []
        self._members: list[str] = []
        self._size = 0
        self._file: BinaryIO | None = None
        folder.mkdir(parents=True)

    def add(self, name: str, data: bytes) -> Spot:
        """Append `data` as the member `name`.

        Returns:
            The shard's number among the new ones, and the offset of the data.
        """
        if self._file and self._size + tarfile.BLOCKSIZE + len(data) > SHARD_BYTES:
            self.close()
        if self._file is None:
            self._file = (self.folder / OPEN).open("wb")
        # Time, owner and mode keep their constant defaults, so that equal images make equal bytes.
        info = tarfile.TarInfo(name)
        info.size = len(data)
        spot = Spot(len(self.names), self._size + tarfile.BLOCKSIZE)
        self._size += self._file.write(
            b"".join((info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE)))
        )
        self._members.append(name)
        return spot

    def close(self) -> None:
        """Finish the open shard, if there is one: flush it to disk and give it its name."""
        if self._file is None:
            return
        end = self._size + 2 * tarfile.BLOCKSIZE
        self._file.write(bytes(end - self._size + -end % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = f"{hashlib.sha256(' '.join(self._members).encode()).hexdigest()[:16]}.tar"
        (self.folder / OPEN).rename(self.folder / name)
        self.names.append(name)
        self._members, self._size, self._file = [], 0, None

    def abandon(self) -> None:
        """Close the file of the open shard, if there is one, without finishing it."""
        if self._file:
            self._file.close()
            self._file = None


class Known:
    """The distinct images of a stored version in columns, sorted by the SHA-256 of their bytes.

    A dict of them would take four times the memory.

    Attributes:
        shards: names of the version's shards; a shard's number is its index here.
        digests: SHA-256 of each image's bytes in hex, as ASCII bytes.
        shard: number of each image's shard.
        offset: offset of each image's bytes in its shard.
        length: length of each image's bytes.
        suffix: ending of each image's member name.
        wanted: True for each image that the next version has.
    """

    def __init__(self, manifest: pa.Table) -> None:
        self.shards: list[str] = pc.unique(manifest["shard"]).to_pylist()
        digests = np.array(manifest["sha256"].to_pylist(), "S64")
        self.digests, first = np.unique(digests, return_index=True)
        self.shard = np.asarray(pc.index_in(manifest["shard"], pa.array(self.shards, pa.string())))[first]
        self.offset, self.length = (np.asarray(manifest[name])[first] for name in ("offset", "length"))
        self.suffix = np.array([suffix(name) for name in manifest["format"].to_pylist()], "S8")[first]
        self.wanted = np.zeros(len(self.digests), bool)

    def find(self, sha256: str) -> int | None:
        """Return the index of the image with these bytes; None if there is none."""
        at = int(np.searchsorted(self.digests, sha256.encode()))
        return at if at < len(self.digests) and self.digests[at] == sha256.encode() else None

    def spot(self, at: int) -> Spot:
        """Return the place of the image with index `at`."""
        return Spot(int(self.shard[at]), int(self.offset[at]))

    def read(self, folder: Path, at: int) -> bytes:
        """Read the bytes of the image with index `at` from the shards in `folder`.

        Raises:
            StorageError: if the shard can't be read.
        """
        return Extent(
            str(folder / self.shards[self.shard[at]]), int(self.offset[at]), int(self.length[at])
        ).read()

    def broken(self) -> set[int]:
        """Return the numbers of the shards that hold an unwanted image."""
        return set(self.shard[~self.wanted].tolist())


class ShardStore:
    """The images of the old version and new ones; the bytes of each image are stored once.

    A shard of the old version is kept, byte for byte, if every image in it is wanted again. Otherwise its
    wanted images move into new shards, so that removed images are in no shard of the new version.

    Attributes:
        shards: folder of the old version's shards.
        writer: writes the new shards.
        known: the old version's images.
    """

    def __init__(self, root: Path, manifest: pa.Table, folder: Path) -> None:
        """Start from the version at `root`.

        Args:
            root: the old version's folder.
            manifest: the columns STORED of its manifest; no rows if there is no version.
            folder: the folder for the new version's shards; it must not exist yet.
        """
        self.shards, self.writer = root / "shards", ShardWriter(folder)
        self.known = Known(manifest)
        self._new: dict[bytes, Spot] = {}

    def put(self, sha256: str, container: str, data: bytes) -> Spot:
        """Store an image, unless the old version has its bytes undamaged; return its place.

        Args:
            sha256: of the bytes, in hex.
            container: the image's format as Pillow names it.
            data: the bytes.

        Returns:
            The place. New shards are numbered after the old ones; `settle` may still move images of old ones.
        """
        key = bytes.fromhex(sha256)
        at = None if key in self._new else self.known.find(sha256)
        if at is not None and (self.known.wanted[at] or self._intact(at, data)):
            self.known.wanted[at] = True
            return self.known.spot(at)
        return self.add(sha256, container, data)

    def add(self, sha256: str, container: str, data: bytes) -> Spot:
        """Store an image that the old version doesn't have, once; return its place.

        Args:
            sha256: of the bytes, in hex.
            container: the image's format as Pillow names it.
            data: the bytes.

        Returns:
            The place. New shards are numbered after the old ones.
        """
        key = bytes.fromhex(sha256)
        if key not in self._new:
            self._new[key] = self._write(f"{sha256}.{suffix(container)}", data)
        return self._new[key]

    def keep(self, digests: Iterable[str]) -> list[str]:
        """Mark these images of the old version as wanted, and all others as unwanted.

        Args:
            digests: SHA-256 of the wanted images.

        Returns:
            The names of the shards that hold an unwanted image; `settle` reads the wanted images in them.
        """
        self.known.wanted = np.isin(self.known.digests, np.array(sorted(digests), "S64"))
        return [self.known.shards[number] for number in sorted(self.known.broken())]

    def _write(self, name: str, data: bytes) -> Spot:
        shard, offset = self.writer.add(name, data)
        return Spot(len(self.known.shards) + shard, offset)

    def _intact(self, at: int, data: bytes) -> bool:
        path = self.shards / self.known.shards[self.known.shard[at]]
        return path.is_file() and self.known.read(self.shards, at) == data

    def settle(self, absent: bool = False) -> tuple[dict[Spot, Spot], list[str]]:
        """Finish the new shards, and link or copy the kept ones beside them.

        Args:
            absent: True if kept shards may be missing on this machine, as after a fetch of part of a version.

        Returns:
            The old and the new place of each image that moved, and the shards' names by number.

        Raises:
            StorageError: if a shard can't be read.
        """
        broken = self.known.broken()
        moved = dict(self._rescue(broken))
        self.writer.close()
        for number, name in enumerate(self.known.shards):
            if number not in broken and not (absent and not (self.shards / name).exists()):
                link_or_copy(self.shards / name, self.writer.folder / name)
        return moved, [*self.known.shards, *self.writer.names]

    def places(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Finish the new shards, take over the kept ones, and return the rows with their final places.

        Args:
            rows: manifest rows; `shard` is the name of an old shard, or the number that `add` gave, as text.

        Raises:
            StorageError: if a shard can't be read.
        """
        moved, names = self.settle(absent=True)
        numbers = {name: number for number, name in enumerate(self.known.shards)}
        spots = [
            Spot(numbers[shard] if shard in numbers else int(shard), offset)
            for shard, offset in zip(*_places(rows), strict=True)
        ]
        final = [moved.get(spot, spot) for spot in spots]
        return rows.assign(
            shard=[names[spot.shard] for spot in final], offset=[spot.offset for spot in final]
        )

    def _rescue(self, broken: set[int]) -> Iterator[tuple[Spot, Spot]]:
        known = self.known
        rows = np.flatnonzero(known.wanted & np.isin(known.shard, list(broken)))
        for at in rows[np.lexsort((known.offset[rows], known.shard[rows]))]:
            name = f"{known.digests[at].decode()}.{known.suffix[at].decode()}"
            yield known.spot(at), self._write(name, known.read(self.shards, at))


def _places(rows: pd.DataFrame) -> tuple[list[str], list[int]]:
    return rows["shard"].tolist(), rows["offset"].tolist()


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where links can't be made."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
