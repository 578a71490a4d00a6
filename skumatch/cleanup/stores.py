"""Access to the files of this machine's DVC cache and of the remote, on any file system of fsspec."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from skumatch.config import shown
from skumatch.files import file_system, files_below, store_refusals

AT_ONCE = 16  # parallel requests to a remote
GONE = "gone"  # results that are being deleted
FOLDERS = ("files/md5", "runs", "checkpoints", "vectors", "claims", GONE)
# The times that fsspec reports for S3, Azure, Google and a disk.
TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """Facts of a stored file.

    Attributes:
        size: in bytes.
        touched: when it was written or, on a disk, linked last; in seconds since 1970.
    """

    size: int
    touched: float


class ObjectStore:
    """A folder, given by its path or URL.

    Every method raises StorageError where the folder can't be read or written.
    """

    def __init__(self, url: str) -> None:
        self.fs, self.root = file_system(url)
        self.shown, self.local = shown(url), isinstance(self.fs, LocalFileSystem)

    def files(self) -> dict[str, File]:
        """List the files below FOLDERS: path below the store -> file.

        Links are left out and not followed.
        """
        infos: dict[str, Any] = {}
        with self._storage():
            self.fs.invalidate_cache()
            for folder in FOLDERS:
                infos |= self._below(folder)
        plain = [(name, info) for name, info in infos.items() if info["type"] == "file"]  # so no link
        start = len(self.root) + 1
        return {name[start:]: File(int(info["size"] or 0), _touched(info)) for name, info in plain}

    def _below(self, folder: str) -> dict[str, Any]:
        """Return path -> fsspec's facts of the files below a folder; empty for a link or a missing folder."""
        place = f"{self.root}/{folder}"
        if self.local:
            path = Path(place)
            if not path.is_dir() or path.resolve() != Path(self.root).resolve() / folder:
                return {}
        return files_below(self.fs, place)

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return name -> content of the files that exist."""
        listed = sorted(names)
        contents = zip(listed, self._each(self._content, listed), strict=True)
        return {name: data for name, data in contents if data is not None}

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; files that don't exist are skipped."""
        self._each(self._drop, list(names))

    def _each(self, call: Callable[[str], T], names: list[str]) -> list[T]:
        with self._storage(), ThreadPoolExecutor(1 if self.local else AT_ONCE) as pool:
            return list(pool.map(call, names))

    def _content(self, name: str) -> bytes | None:
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None

    def _drop(self, name: str) -> None:
        try:
            if self.local and name.startswith("runs/"):
                self._drop_result(Path(self.root) / name)
            else:
                self.fs.rm_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return

    def _drop_result(self, path: Path) -> None:
        """Delete an entry of the run cache, and with a folder's last entry the folder.

        DVC fails on an empty folder of results. So the folder is moved away before its last entry is deleted.
        """
        if list(path.parent.iterdir()) != [path]:
            path.unlink()
            return
        aside = Path(self.root) / GONE / uuid.uuid4().hex
        aside.parent.mkdir(exist_ok=True)
        path.parent.rename(aside)
        shutil.rmtree(aside)

    def _storage(self) -> AbstractContextManager[None]:
        return store_refusals(self.shown)


def _touched(info: dict[str, Any]) -> float:
    """Return the latest time that the file system reports for a file, in seconds since 1970.

    A file without any time counts as new, so that a clean-up keeps it.
    """
    times = [info[name] for name in TIMES if info.get(name) is not None]
    seconds = [moment.timestamp() if isinstance(moment, datetime) else float(moment) for moment in times]
    return max(seconds, default=time.time())
