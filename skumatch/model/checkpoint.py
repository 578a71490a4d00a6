"""Checkpoints that survive a kill: whole or absent, two generations, and only one attempt may write them."""

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
COST = 0.05  # the largest share of the time that saving may take


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and JSON-able facts as they were after `step` steps."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one training, `<url>/checkpoints/<key>/` on any fsspec file system (a path, s3://...).

    Making this object claims the folder: an earlier attempt that still runs is refused at its next `save` (Fenced). A
    checkpoint is a safetensors file and then a JSON with its SHA-256; the JSON's appearance is the commit.
    seconds: between saves, for `due`. Raises StorageError where the storage refuses.
    """

    def __init__(self, url: str, key: str, seconds: float = 60.0) -> None:
        self.fs, root = file_system(url)
        self.folder, self.shown = (f"{place.rstrip('/')}/checkpoints/{key}" for place in (root, shown(url)))
        with self._storage():
            self.fs.makedirs(self.folder, exist_ok=True)
            self.attempt = 1 + int(self._owner().get("attempt", 0))
            self.uuid = uuid.uuid4().hex
            self._put("owner.json", canonical_json({"attempt": self.attempt, "uuid": self.uuid}).encode())
        self.seconds, self.saved, self.took = seconds, time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is time for the next one: so many seconds after the last, and later where saving takes long."""
        return time.monotonic() - self.saved >= max(self.seconds, self.took / COST)

    def save(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Commit one checkpoint, then drop all but the newest two.

        Raises Fenced if another attempt took over.
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
        """The newest checkpoint whose bytes still have their hash, None if there is none.

        Damaged ones are reported and removed.
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
        """A JSON object of the folder; empty where it is missing or damaged."""
        try:
            found = json.loads(self.fs.cat_file(self._path(name)))
        except (FileNotFoundError, ValueError):  # ValueError: no JSON, or no UTF-8
            return {}
        return found if isinstance(found, dict) else {}

    def _committed(self) -> list[str]:
        """Names without suffix, newest first: highest step, then latest attempt."""
        names = (name for name in self._names() if name.endswith(".json") and name != "owner.json")
        return sorted((name.removesuffix(".json") for name in names), reverse=True)

    def _names(self) -> list[str]:
        self.fs.invalidate_cache(self.folder)
        return [path.rsplit("/", 1)[-1] for path in self.fs.ls(self.folder, detail=False)]

    def _prune(self) -> None:
        """Remove older generations and what killed attempts left half-written.

        JSONs first, as they are the commit.
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
