"""Shards: uncompressed tars of original bytes, named by what they hold, so that an unchanged one is never sent again."""

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
    """Where an image's bytes lie: the shard's number, the offset in bytes."""

    shard: int
    offset: int


def suffix(container: str) -> str:
    """The file name's ending for a format in Pillow's words."""
    return {"JPEG": "jpg", "TIFF": "tif"}.get(container, container.lower())


class ShardWriter:
    """Appends images to new shards in `folder`.

    A shard gets its name, a hash of its members', when it is full.
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

        Return the shard's number among the new ones and the offset of the data.
        """
        if self._file and self._size + tarfile.BLOCKSIZE + len(data) > SHARD_BYTES:
            self.close()
        if self._file is None:
            self._file = (self.folder / OPEN).open("wb")
        info = tarfile.TarInfo(
            name
        )  # time, owner and mode stay at their constants: equal bytes for equal images
        info.size = len(data)
        spot = Spot(len(self.names), self._size + tarfile.BLOCKSIZE)
        self._size += self._file.write(
            b"".join((info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE)))
        )
        self._members.append(name)
        return spot

    def close(self) -> None:
        """End the open shard, if there is one: on disk, under its name."""
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
        """Let go of the open shard, if there is one."""
        if self._file:
            self._file.close()
            self._file = None


class Known:
    """The images of a stored version in columns, sorted by the SHA-256 of their bytes: a dict of them would take four times the memory."""

    def __init__(self, manifest: pa.Table) -> None:
        self.shards: list[str] = pc.unique(manifest["shard"]).to_pylist()
        digests = np.array(manifest["sha256"].to_pylist(), "S64")
        self.digests, first = np.unique(digests, return_index=True)
        self.shard = np.asarray(pc.index_in(manifest["shard"], pa.array(self.shards, pa.string())))[first]
        self.offset, self.length = (np.asarray(manifest[name])[first] for name in ("offset", "length"))
        self.suffix = np.array([suffix(name) for name in manifest["format"].to_pylist()], "S8")[first]
        self.wanted = np.zeros(len(self.digests), bool)

    def find(self, sha256: str) -> int | None:
        at = int(np.searchsorted(self.digests, sha256.encode()))
        return at if at < len(self.digests) and self.digests[at] == sha256.encode() else None

    def spot(self, at: int) -> Spot:
        return Spot(int(self.shard[at]), int(self.offset[at]))

    def read(self, folder: Path, at: int) -> bytes:
        return Extent(
            str(folder / self.shards[self.shard[at]]), int(self.offset[at]), int(self.length[at])
        ).read()

    def broken(self) -> set[int]:
        """The numbers of the shards that hold something unwanted."""
        return set(self.shard[~self.wanted].tolist())


class Store:
    """The images of the version that is there, and new ones: each one's bytes are kept once.

    A shard of the old version is kept, byte for byte, if every image in it is wanted again; otherwise its
    wanted images move into new shards, so that what was removed is gone.
    """

    def __init__(self, root: Path, manifest: pa.Table, folder: Path) -> None:
        """`manifest`: the columns of STORED of the version at `root`, no rows if there is none.

        New shards go to `folder`.
        """
        self.shards, self.writer = root / "shards", ShardWriter(folder)
        self.known = Known(manifest)
        self._new: dict[bytes, Spot] = {}

    def put(self, sha256: str, container: str, data: bytes) -> Spot:
        """Keep `data`; return where.

        New shards are numbered after the old ones; `settle` may still move images of old ones.
        """
        key = bytes.fromhex(sha256)
        at = None if key in self._new else self.known.find(sha256)
        if at is not None and (self.known.wanted[at] or self._intact(at, data)):
            self.known.wanted[at] = True
            return self.known.spot(at)
        return self.add(sha256, container, data)

    def add(self, sha256: str, container: str, data: bytes) -> Spot:
        """Keep `data`, which the old version doesn't hold; return where.

        New shards are numbered after the old ones.
        """
        key = bytes.fromhex(sha256)
        if key not in self._new:
            self._new[key] = self._write(f"{sha256}.{suffix(container)}", data)
        return self._new[key]

    def keep(self, digests: Iterable[str]) -> list[str]:
        """Want those images of the old version, and no others.

        Return the shards whose bytes `settle` will read.
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
        """End the new shards and take over the kept ones.

        Return moved images, and the shards' names by number.

        Args:
            absent: whether kept shards may be missing here, as where a version was fetched in part.
        """
        broken = self.known.broken()
        moved = dict(self._rescue(broken))
        self.writer.close()
        for number, name in enumerate(self.known.shards):
            if number not in broken and not (absent and not (self.shards / name).exists()):
                link_or_copy(self.shards / name, self.writer.folder / name)
        return moved, [*self.known.shards, *self.writer.names]

    def places(self, rows: pd.DataFrame) -> pd.DataFrame:
        """End the new shards and take over the kept ones; return the rows with their final places.

        Args:
            rows: manifest rows; `shard` is the name of an old shard, or the number that `add` gave, as text.
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
        here = np.flatnonzero(known.wanted & np.isin(known.shard, list(broken)))
        for at in here[np.lexsort((known.offset[here], known.shard[here]))]:
            name = f"{known.digests[at].decode()}.{known.suffix[at].decode()}"
            yield known.spot(at), self._write(name, known.read(self.shards, at))


def _places(rows: pd.DataFrame) -> tuple[list[str], list[int]]:
    return rows["shard"].tolist(), rows["offset"].tolist()


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
