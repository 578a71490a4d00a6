"""The record of data versions: author, time, reason and content of each change of the data.

It lies in the remote, and no stage depends on it. Each change is a JSON file
`records/<version>/<time>-<hash>.json`, where `version` is the MD5 of the data version that the change made.
A version that was made twice has two files. A clean-up never deletes records.
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
from skumatch.files import file_system, files_below, put_whole, store_refusals

FOLDER = "records"
RECORD = re.compile(r"/[0-9a-f]{32}/[^/]+\.json")
Action = Literal["import", "add", "retire", "bring back", "relabel", "rename", "remove", "undo", "erase"]


class DataChange(BaseModel):
    """One change of the data.

    Attributes:
        action: the kind of change.
        after: MD5 of the data version that it made.
        before: MD5 of the data version before; None for the first.
        pointer: the text of data.dvc before, which an undo restores.
        who: the person who made it.
        when: the time of the change.
        why: the reason in words; may be empty.
        summary: the change in words.
        source: the delivery or table that it comes from; empty where there is none.
        pictures: `added`, `removed`, `relabelled` or `moved` -> ids of the first such pictures.
        products: `new`, `gone`, `retired` or `brought back` -> the first such SKUs.
        origin: in an undo, the time of the change that first made the restored version; None where none was
            on record.
        erased: SHA-256 of the pictures to delete everywhere (action `erase`). Where only older versions have
            them, `after` equals `before`.
        pixels: SHA-256 of the pixels of these pictures, by which a copy saved anew is known.
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
    pixels: list[str] = []


class DataRecord:
    """The records of changes in a remote.

    Every method raises StorageError where the remote can't be read or written.
    """

    def __init__(self, settings: Settings) -> None:
        self.fs, root = file_system(settings.remote_url)
        self.root, self.shown = f"{root.rstrip('/')}/{FOLDER}", shown(settings.remote_url)

    def write(self, change: DataChange) -> None:
        """Add a change; writing the same change again has no effect."""
        data = change.model_dump_json(indent=1).encode()
        name = f"{change.when.astimezone(UTC):%Y%m%dT%H%M%S%f}-{hashlib.sha256(data).hexdigest()[:12]}.json"
        folder = f"{self.root}/{_key(change.after)}"
        with self._storage():
            self.fs.makedirs(folder, exist_ok=True)
            put_whole(self.fs, f"{folder}/{name}", data)

    def changes(self, version: str) -> list[DataChange]:
        """Return the changes that made a version, newest first; empty for one older than the record."""
        return self._read(f"{self.root}/{_key(version)}")[::-1]

    def origin(self, version: str, until: datetime | None = None) -> DataChange | None:
        """Return the change that made a version; None where none is on record.

        Several changes may have made the same version: a product that is retired and brought back leaves the
        data as it was. The last of them counts. If that is an undo, the change to which the undo went back
        counts instead.

        Args:
            version: MD5 of a data version.
            until: only changes before this time count; None counts all.
        """
        changes = [change for change in self.changes(version) if change.before != change.after]
        last = next((change for change in changes if until is None or change.when < until), None)
        if last is None or last.action != "undo":
            return last
        origins = (change for change in changes if change.action != "undo")
        return next((change for change in origins if change.when == last.origin), None)

    def chain(self, version: str) -> list[DataChange]:
        """Return the changes from the first version to this one, newest first.

        Changes that were undone are left out. Erasures of pictures that only older versions have are among
        them.
        """
        chain = list[DataChange]()
        change, current = self.origin(version), version
        while True:
            chain += [erasure for erasure in self.changes(current) if erasure.before == erasure.after]
            if change is None:
                return chain
            chain.append(change)
            if change.before is None:
                return chain
            current, change = change.before, self.origin(change.before, change.when)

    def erasures(self) -> list[DataChange]:
        """Return all changes that erased pictures, oldest first."""
        return [change for change in self._read(self.root) if change.erased]

    def erased(self) -> set[str]:
        """Return the SHA-256, of bytes and of pixels, of all erased pictures, which must not return."""
        return {digest for change in self.erasures() for digest in (*change.erased, *change.pixels)}

    def _read(self, folder: str) -> list[DataChange]:
        """Return all changes below a folder, oldest first.

        Raises:
            StorageError: a record is damaged, or the remote refuses.
        """
        with self._storage():
            self.fs.invalidate_cache()
            names = [
                name for name in files_below(self.fs, folder) if RECORD.fullmatch(name[len(self.root) :])
            ]
            names.sort(key=lambda name: name.rsplit("/", 1)[-1])  # file names begin with the time
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
