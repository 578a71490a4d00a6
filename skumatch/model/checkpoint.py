"""Crash-safe checkpoints: written whole or not at all, two generations, with a single writing attempt."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from skumatch.config import shown
from skumatch.errors import Fenced
from skumatch.files import canonical_json, file_system, put_whole, store_refusals

GENERATIONS = 2
COST = 0.05  # largest share of the running time that saving may take


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after some steps.

    Attributes:
        step: Steps done.
        tensors: Tensors by name.
        meta: Facts that JSON can hold.
    """

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one training in `<url>/checkpoints/<key>/` on any fsspec file system.

    A new object claims the folder: an earlier attempt that still runs gets Fenced at its next `save`. A
    checkpoint is a safetensors file and a JSON file with its SHA-256. The JSON file is written last and
    commits the checkpoint.

    Attributes:
        fs: The file system of the storage.
        folder: The folder of the checkpoints on `fs`.
        shown: The folder as messages show it.
        attempt: Number of this attempt, one more than the last.
        uuid: Identifies this attempt as the folder's owner.
        seconds: Least time between two saves.
        saved: `time.monotonic()` at the end of the last save, or when this object was made.
        took: Seconds that the last save took.
    """

    def __init__(self, url: str, key: str, seconds: float = 60.0) -> None:
        """Claim the folder.

        Args:
            url: The storage (a path, s3://...).
            key: Name of the training.
            seconds: Least time between two saves, for `due`.

        Raises:
            StorageError: The storage refuses.
        """
        self.fs, root = file_system(url)
        self.folder = f"{root.rstrip('/')}/checkpoints/{key}"
        self.shown = f"{shown(url).rstrip('/')}/checkpoints/{key}"
        with self._storage():
            self.fs.makedirs(self.folder, exist_ok=True)
            self.attempt = 1 + int(self._owner().get("attempt", 0))
            self.uuid = uuid.uuid4().hex
            self._put("owner.json", canonical_json({"attempt": self.attempt, "uuid": self.uuid}).encode())
        self.seconds, self.saved, self.took = seconds, time.monotonic(), 0.0

    def due(self) -> bool:
        """Return True if it is time for the next save.

        It is `seconds` after the last one, or later if saving takes long (`COST`).
        """
        return time.monotonic() - self.saved >= max(self.seconds, self.took / COST)

    def save(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Commit one checkpoint, then remove all but the newest two.

        Args:
            step: Steps done.
            tensors: Tensors by name, on any device.
            meta: Facts that JSON can hold.

        Raises:
            Fenced: Another attempt took over.
            StorageError: The storage refuses.
        """
        began = time.monotonic()
        data = safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        )
        name = f"{step:08d}-{self.attempt:04d}"
        facts = {
            "step": step,
            "sha256": hashlib.sha256(data).hexdigest(),
            "attempt": self.attempt,
            "meta": meta,
        }
        facts |= {"facts_sha256": _hash(facts)}
        with self._storage():
            self._check_owner()
            self._put(f"{name}.safetensors", data)
            self._check_owner()  # the upload may have taken minutes
            self._put(f"{name}.json", canonical_json(facts).encode())
            self._prune()
        self.saved = time.monotonic()
        self.took = self.saved - began

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint whose bytes match their hash, or None if there is none.

        Damaged checkpoints are reported on stderr and removed.

        Raises:
            StorageError: The storage refuses.
        """
        with self._storage():
            for name in self._committed():
                checkpoint = self._read(name)
                if checkpoint is not None:
                    return checkpoint
                print(
                    f"The checkpoint {self.shown}/{name} is damaged; going back to the one before.",
                    file=sys.stderr,
                )
                self._remove([f"{name}.json", f"{name}.safetensors"])
        return None

    def _read(self, name: str) -> Checkpoint | None:
        """Read a checkpoint; return None if it is damaged."""
        facts = self._json(f"{name}.json")
        if facts.pop("facts_sha256", None) != _hash(facts):
            return None
        try:
            data = self.fs.cat_file(self._path(f"{name}.safetensors"))
            if hashlib.sha256(data).hexdigest() != facts["sha256"]:
                return None
            return Checkpoint(facts["step"], safetensors.torch.load(data), facts["meta"])
        except (FileNotFoundError, SafetensorError):
            return None

    def _json(self, name: str) -> dict[str, Any]:
        """Read a JSON object from the folder; return an empty one if it is missing or damaged."""
        try:
            content = json.loads(self.fs.cat_file(self._path(name)))
        except (FileNotFoundError, ValueError):  # ValueError: neither JSON nor UTF-8
            return {}
        return content if isinstance(content, dict) else {}

    def _committed(self) -> list[str]:
        """List the checkpoints' names without suffix, newest first: by step, then by attempt."""
        names = (name for name in self._names() if name.endswith(".json") and name != "owner.json")
        return sorted((name.removesuffix(".json") for name in names), reverse=True)

    def _names(self) -> list[str]:
        self.fs.invalidate_cache(self.folder)
        return [path.rsplit("/", 1)[-1] for path in self.fs.ls(self.folder, detail=False)]

    def _prune(self) -> None:
        """Remove older generations and the incomplete files of killed attempts.

        The JSON files go first, because they are the commits.
        """
        kept = {
            f"{name}{suffix}"
            for name in self._committed()[:GENERATIONS]
            for suffix in (".json", ".safetensors")
        }
        self._remove(
            sorted(name for name in self._names() if name not in kept and not name.startswith("owner.json"))
        )

    def _remove(self, names: list[str]) -> None:
        for name in names:
            if self.fs.exists(self._path(name)):
                self.fs.rm_file(self._path(name))

    def _owner(self) -> dict[str, Any]:
        return self._json("owner.json")

    def _check_owner(self) -> None:
        owner = self._owner()
        if owner.get("uuid") != self.uuid:
            other = f"Attempt {owner.get('attempt')} of this training took over {self.shown}"
            raise Fenced(f"{other}; this one (attempt {self.attempt}) stops, nothing is lost.")

    def _put(self, name: str, data: bytes) -> None:
        put_whole(self.fs, self._path(name), data)

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _storage(self) -> AbstractContextManager[None]:
        return store_refusals(f"The checkpoints in {self.shown}")


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()
