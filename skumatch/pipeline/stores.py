"""Folders of ours that a clean-up looks through: DVC's cache of this machine and the remote, on any fsspec file system."""

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
from skumatch.files import file_system, store_refusals

AT_ONCE = 16
FOLDERS = ("files/md5", "runs", "checkpoints", "vectors", "claims", GONE := "gone")
TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")  # S3, Azure, Google, a disk
T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """size: bytes. touched: when it was written or, on a disk, linked last, in seconds since 1970."""

    size: int
    touched: float


class Store:
    """A folder by its path or URL. Every method raises StorageError where it can't be read or written."""

    def __init__(self, url: str) -> None:
        self.fs, self.root = file_system(url)
        self.shown, self.local = shown(url), isinstance(self.fs, LocalFileSystem)

    def files(self) -> dict[str, File]:
        """Path -> file of those folders that are ours, links left out and not followed.

        Empty where there are none.
        """
        found: dict[str, Any] = {}
        with self._storage():
            self.fs.invalidate_cache()
            for folder in FOLDERS:
                found |= self._below(folder)
        plain = {
            name[len(self.root) + 1 :]: info for name, info in found.items() if info["type"] == "file"
        }  # so no link
        return {name: File(int(info["size"] or 0), _touched(info)) for name, info in plain.items()}

    def _below(self, folder: str) -> dict[str, Any]:
        place = f"{self.root}/{folder}"
        if not self.local:
            return dict(self.fs.find(place, detail=True))
        path = Path(place)
        if not path.is_dir() or path.resolve() != Path(self.root).resolve() / folder:
            return {}
        return dict(self.fs.find(place, detail=True, on_error="raise"))

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of those that are there, by name."""
        listed = sorted(names)
        return {
            name: data
            for name, data in zip(listed, self._each(self._content, listed), strict=True)
            if data is not None
        }

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; those that are gone already are fine."""
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
        """DVC stumbles over an empty folder of results, so the folder goes at once with the last of them."""
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
    """The latest of what the file system tells.

    A file that it tells no time of counts as new, so it is kept.
    """
    found = [info[name] for name in TIMES if info.get(name) is not None]
    return max(
        (one.timestamp() if isinstance(one, datetime) else float(one) for one in found), default=time.time()
    )
