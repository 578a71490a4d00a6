"""The record of erasures: the files with erased pictures that were deleted, when, by whom, and why.

Each erasure is a JSON file `records/erasures/<time>-<hash>.json` in the remote. It is written before the
first deletion, with everything that will be deleted, and again at the end. So a killed erasure can be
finished, and its deletions are never taken for damage. No clean-up deletes these files.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from skumatch.config import Settings, shown
from skumatch.errors import DataError, StorageError
from skumatch.files import file_system, files_below, put_whole, store_refusals
from skumatch.pipeline.data_record import FOLDER, DataChange

ERASURES = f"{FOLDER}/erasures"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ErasedVersion(_Record):
    """A model version that an erasure affects.

    Attributes:
        model: name of the registered model.
        version: its number.
        bundle: hash of its bundle.
        gallery: True where its gallery was deleted, so that it can't serve. False where files that it was
            made from were deleted, so that it can't be made again.
    """

    model: str
    version: int
    bundle: str
    gallery: bool


class EraseChange(_Record):
    """A change of the data by which pictures were erased.

    Attributes:
        after: MD5 of the new data version.
        who: the person who made the change.
        when: time of the change.
        why: the reason in words; may be empty.
    """

    after: str
    who: str
    when: datetime
    why: str


class Erasure(_Record):
    """One erasure, with everything that it deletes.

    Attributes:
        begun: when it began.
        who: the person who ran it.
        changes: the erase changes of the data that it carries out.
        pictures: SHA-256 of the erased pictures.
        data: MD5 of a data version -> MD5s of its deleted shards.
        objects: MD5s of all deleted objects of DVC, those shards among them.
        versions: the model versions that it affects.
        vectors: names of the vector store's files in the remote.
        artifacts: addresses of files in MLflow.
        finished: when it ended; None where it was killed.
    """

    begun: datetime
    who: str
    changes: list[EraseChange]
    pictures: list[str]
    data: dict[str, list[str]]
    objects: list[str]
    versions: list[ErasedVersion]
    vectors: list[str]
    artifacts: list[str]
    finished: datetime | None = None

    @property
    def words(self) -> str:
        """Time, person and reasons of the erasure, as the end of a sentence."""
        reasons = list(dict.fromkeys(change.why for change in self.changes if change.why))
        because = f", because: {'; '.join(reasons)}" if reasons else ""
        return f"erased on {self.begun:%Y-%m-%d} by {self.who}{because}"


@dataclass(frozen=True)
class Erasures:
    """All erasures of a remote.

    Attributes:
        by_name: file name -> erasure, oldest first.
    """

    by_name: dict[str, Erasure]

    @property
    def pictures(self) -> set[str]:
        """SHA-256 of the bytes of all erased pictures."""
        return {picture for erasure in self.by_name.values() for picture in erasure.pictures}

    @property
    def objects(self) -> set[str]:
        """MD5s of all deleted objects of DVC."""
        return {digest for erasure in self.by_name.values() for digest in erasure.objects}

    @property
    def versions(self) -> list[ErasedVersion]:
        """The affected model versions of all erasures; a version may occur twice."""
        return [erased for erasure in self.by_name.values() for erased in erasure.versions]

    @property
    def open(self) -> tuple[str, Erasure] | None:
        """The first erasure that was killed, with its file name; None where all have finished."""
        killed = (pair for pair in self.by_name.items() if pair[1].finished is None)
        return next(killed, None)

    def of_objects(self, digests: Collection[str]) -> Erasure | None:
        """Return the first erasure that deleted any of these objects, if erasures deleted all of them."""
        if not digests or not set(digests) <= self.objects:
            return None
        return next(erasure for erasure in self.by_name.values() if set(digests) & set(erasure.objects))

    def of_data(self, version: str) -> Erasure | None:
        """Return the first erasure that deleted shards of a data version."""
        return next((erasure for erasure in self.by_name.values() if version in erasure.data), None)

    def of_version(self, model: str, version: int) -> Erasure | None:
        """Return the first erasure after which a model version can't be made again."""
        return self._first(lambda erased: (erased.model, erased.version) == (model, version))

    def of_bundle(self, bundle: str) -> Erasure | None:
        """Return the first erasure that deleted the gallery of the bundle with this hash."""
        return self._first(lambda erased: erased.gallery and erased.bundle == bundle)

    def _first(self, condition: Callable[[ErasedVersion], bool]) -> Erasure | None:
        """Return the oldest erasure that has a model version for which `condition` is true."""
        erasures = (erasure for erasure in self.by_name.values() if any(map(condition, erasure.versions)))
        return next(erasures, None)


def merged(erasures: Iterable[Erasure]) -> Erasure:
    """Merge erasures into one with all their deletions; time and person are those of the first."""
    first, *others = erasures
    for other in others:
        versions = {(erased.model, erased.version): erased for erased in (*first.versions, *other.versions)}
        for erased in first.versions:
            key = erased.model, erased.version
            versions[key] = erased.model_copy(update={"gallery": erased.gallery or versions[key].gallery})
        names = (*first.data, *other.data)
        data = {name: _union(first.data.get(name, []), other.data.get(name, [])) for name in names}
        changes = {(change.after, change.when): change for change in (*first.changes, *other.changes)}
        lists = ("pictures", "objects", "vectors", "artifacts")
        first = first.model_copy(
            update={name: _union(getattr(first, name), getattr(other, name)) for name in lists}
            | {"versions": list(versions.values()), "data": data, "changes": list(changes.values())}
        )
    return first


def _union(*lists: Iterable[str]) -> list[str]:
    return sorted({name for names in lists for name in names})


def erase_changes(changes: Iterable[DataChange]) -> list[EraseChange]:
    """Return changes of the data as entries for an erasure's record."""
    fields = set(EraseChange.model_fields)
    return [EraseChange.model_validate(change.model_dump(include=fields)) for change in changes]


class ErasureRecord:
    """The records of erasures in a remote.

    Every method raises StorageError where the remote can't be read or written.
    """

    def __init__(self, settings: Settings) -> None:
        self.fs, root = file_system(settings.remote_url)
        self.root, self.shown = f"{root.rstrip('/')}/{ERASURES}", shown(settings.remote_url)

    def read(self) -> Erasures:
        """Read all erasures."""
        with self._storage():
            self.fs.invalidate_cache()
            paths = sorted(name for name in files_below(self.fs, self.root) if name.endswith(".json"))
            texts = {path.rsplit("/", 1)[-1]: self.fs.cat_file(path) for path in paths}
        try:
            return Erasures({name: Erasure.model_validate_json(text) for name, text in texts.items()})
        except ValidationError as error:
            where = f"{self.shown}/{ERASURES}"
            raise StorageError(f"A record of erasures in {where} is damaged; restore it.") from error

    def write(self, name: str, erasure: Erasure) -> None:
        """Write the file `name` of an erasure, or replace it."""
        with self._storage():
            self.fs.makedirs(self.root, exist_ok=True)
            put_whole(self.fs, f"{self.root}/{name}", erasure.model_dump_json(indent=1).encode())

    def _storage(self) -> AbstractContextManager[None]:
        return store_refusals(f"The record of erasures in {self.shown}", "check the remote, then run again")


def refuse_erased_data(settings: Settings, version: str) -> None:
    """Raise DataError if pictures of a data version (its MD5) were erased, so that it lacks shards."""
    if erasure := ErasureRecord(settings).read().of_data(version):
        cure = "take a newer data version"
        raise DataError(f"Data version {version[:12]} has pictures that were {erasure.words}; {cure}.")


def new_name(begun: datetime) -> str:
    """Return the file name of a new erasure."""
    return f"{begun.astimezone(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:12]}.json"
