"""The record of data versions: who changed the data, when, why and how.

In the remote, and no stage depends on it.

Each change is a JSON file `records/<version>/<time>-<hash>.json`, where `version` is the MD5 of the data
version that came of it. A version that came about twice has two. A clean-up never deletes records.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from skumatch.config import Settings, shown
from skumatch.errors import StorageError
from skumatch.files import file_system, put_whole, store_refusals

FOLDER = "records"
RECORD = re.compile(r"/[0-9a-f]{32}/[^/]+\.json")
Action = Literal["import", "add", "retire", "bring back", "relabel", "rename", "remove", "undo", "erase"]


class DataChange(BaseModel):
    """One change of the data.

    after, before: MD5s of the data versions; before is None for the first. pointer: the text of data.dvc
    before, to which an undo goes back. summary: the change in words. pictures: ids of the first pictures by
    what happened to them (added, removed, relabelled, moved); products: SKUs likewise. source: the delivery
    or table. origin: of an undo, the time of the change by which its version had come about; None where none
    was on record. erased: SHA-256 of the pictures that must go from everywhere (action `erase`); where only
    older versions have them, after is before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action
    after: str
    before: str | None
    pointer: str
    who: str
    when: datetime
    why: str
    summary: str
    source: str = ""
    pictures: dict[str, list[str]] = {}
    products: dict[str, list[str]] = {}
    origin: datetime | None = None
    erased: list[str] = []


class DataRecord:
    """The changes in a remote. Every method raises StorageError where it can't be read or written."""

    def __init__(self, settings: Settings) -> None:
        self.fs, root = file_system(settings.remote_url)
        self.root, self.shown = f"{root.rstrip('/')}/{FOLDER}", shown(settings.remote_url)

    def write(self, change: DataChange) -> None:
        """Add a change; the same one twice is one."""
        data = change.model_dump_json(indent=1).encode()
        name = f"{change.when.astimezone(UTC):%Y%m%dT%H%M%S%f}-{hashlib.sha256(data).hexdigest()[:12]}.json"
        folder = f"{self.root}/{_key(change.after)}"
        with self._storage():
            self.fs.makedirs(folder, exist_ok=True)
            put_whole(self.fs, f"{folder}/{name}", data)

    def changes(self, version: str) -> list[DataChange]:
        """The changes that led to a version, newest first.

        Empty where it was made before there was a record.
        """
        return self._read(f"{self.root}/{_key(version)}")[::-1]

    def origin(self, version: str, until: datetime | None = None) -> DataChange | None:
        """The change, no undo, by which the data came to a version; None where none is on record.

        A version may have come about in several ways: retired and sold again is as it was. The last way
        counts, and an undo goes back to the way of its time.

        Args:
            version: MD5 of a data version.
            until: changes from then on don't count; None counts all.
        """
        changes = [change for change in self.changes(version) if change.before != change.after]
        last = next((change for change in changes if until is None or change.when < until), None)
        if last is None or last.action != "undo":
            return last
        ways = (change for change in changes if change.action != "undo")
        return next((change for change in ways if change.when == last.origin), None)

    def chain(self, version: str) -> list[DataChange]:
        """The changes from the first version to this one, newest first, without those that were undone.

        Among them are erasures that concern older versions alone.
        """
        chain = list[DataChange]()
        change, at = self.origin(version), version
        while True:
            chain += [erasure for erasure in self.changes(at) if erasure.before == erasure.after]
            if change is None:
                return chain
            chain.append(change)
            if change.before is None:
                return chain
            at, change = change.before, self.origin(change.before, change.when)

    def erasures(self) -> list[DataChange]:
        """All changes that erased pictures, oldest first."""
        return [change for change in self._read(self.root) if change.erased]

    def erased(self) -> set[str]:
        """SHA-256 of all pictures that were erased, which must not come back."""
        return {picture for change in self.erasures() for picture in change.erased}

    def _read(self, folder: str) -> list[DataChange]:
        """All changes below a folder, oldest first. Raises StorageError for one that is damaged."""
        with self._storage():
            self.fs.invalidate_cache()
            names = [name for name in self.fs.find(folder) if RECORD.fullmatch(name[len(self.root) :])]
            names.sort(key=lambda name: name.rsplit("/", 1)[-1])  # which begins with the time
            texts = [self.fs.cat_file(name) for name in names]
        try:
            return [DataChange.model_validate_json(text) for text in texts]
        except ValidationError as error:
            where = folder.removeprefix(self.root).strip("/")[:12]
            version = f" version {where}" if where else ""
            raise StorageError(
                f"A record of data{version} in {self.shown} is damaged; restore it."
            ) from error

    def _storage(self) -> AbstractContextManager[None]:
        return store_refusals(f"The record of data in {self.shown}", "check the remote, then run again")


def _key(version: str) -> str:
    return version.removesuffix(".dir")
