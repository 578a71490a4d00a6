"""Atomic changes of the data: each makes a new data version, stores it in the remote and records it.

A change starts from the version that data.dvc names, whatever a killed change left in data/. It has five
steps: write the new version beside data/, move it into data/, store it in the remote, write data.dvc, and
write the record. A change that is killed before it writes data.dvc leaves the old version; the next change
then cleans data/ up. If it is killed after that, the next change writes the record. If a step before data.dvc
fails, for example because the remote is away, the change puts the old version back itself.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from skumatch.config import Settings
from skumatch.data.delivery.changes import COMPARED, PictureChanges, compare
from skumatch.data.delivery.replace import exclusive, recover
from skumatch.data.manifest import columns_of, read_manifest
from skumatch.data.products import FILE, retired
from skumatch.data.quarantine import QUARANTINE
from skumatch.data.version import SUMMARY, Make, Version, VersionStep, read_version, step
from skumatch.errors import DataError, SkumatchError, StorageError
from skumatch.files import md5, write_text
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.data_record import Action, DataChange, DataRecord
from skumatch.pipeline.inputs import data_pointer
from skumatch.pipeline.repository import Repository, md5_of
from skumatch.pipeline.repository import pointer as pointer_of
from skumatch.texts import counted

TABLES = ("manifest.parquet", SUMMARY, QUARANTINE, FILE)
LISTED = 1_000  # how many names of a kind (added pictures, new products) a record keeps


@dataclass(frozen=True)
class Reason:
    """The author, reason and source of a change.

    Attributes:
        who: the person who makes it.
        why: the reason in words; may be empty.
        source: the delivery or table that it comes from; empty where there is none.
    """

    who: str
    why: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Changed:
    """The result of a change.

    Attributes:
        before: MD5 of the data version before.
        after: MD5 of the data version after; equal to `before` where nothing changed.
        pictures: the pictures that differ.
        retired: SKUs that were retired.
        back: SKUs that were brought back.
    """

    before: str
    after: str
    pictures: PictureChanges
    retired: list[str]
    back: list[str]

    @property
    def version(self) -> str:
        """The new version's short name: the first 12 digits of its MD5."""
        return self.after.removesuffix(".dir")[:12]

    @property
    def changed(self) -> bool:
        """True where a new version was made."""
        return self.before != self.after


class Pending(BaseModel):
    """A change that has begun and is not recorded yet.

    Attributes:
        change: its record; `after` is empty as long as the MD5 of the new version isn't known.
        tables: name -> MD5 of the new version's tables, which identify it as long as `after` is empty.
    """

    model_config = ConfigDict(frozen=True)

    change: DataChange
    tables: dict[str, str]


def change(
    settings: Settings,
    action: Action,
    make: Make,
    reason: Reason,
    others: Iterable[str],
    erased: Mapping[str, str] | None = None,
) -> Changed:
    """Make the next data version with `make`, store it, and record the change.

    If `make` changes nothing, no version is made and no change is recorded, except for an erasure.

    Args:
        settings: this machine's settings.
        action: the kind of change, for the record.
        make: function of the current version that returns the next one and stores new pictures.
        reason: who, why and from where.
        others: catch-all classes.
        erased: SHA-256 of the bytes of each picture that this change erases -> SHA-256 of its pixels; they
            are recorded even where only older versions have them.

    Returns:
        The difference between the two versions.

    Raises:
        DataError: there is no data, or `make` fails, or its result is unusable.
        StorageError: the disk or the remote refuses, or another change is under way.
    """
    root = settings.project / "data"
    with _turn(settings) as (repository, pointer, rest_on):
        listing, present = repository.listing("data"), _files(root)

        def begin(made: VersionStep, folder: Path) -> None:
            described = _described(action, pointer, _compared(made.old, made.new), reason)
            described = described.model_copy(update=_erasure(erased))
            _begin(settings, Pending(change=described, tables=_tables(folder)))

        def fetch(names: list[str]) -> None:
            repository.fetch_files([f"data/shards/{name}" for name in names])

        try:
            made = step(root, make, set(others), fetch, begin)
            if made is None:
                return _unchanged(settings, action, pointer, reason, erased)
            after = repository.store_files(_touched(made, listing, root))
            repository.write_pointer("data", after)
        except BaseException:
            _put_back(repository, root, present)
            raise
        rest_on("", after)
        _finish(settings, repository, after)
        return replace(_compared(made.old, made.new), before=md5_of(pointer), after=md5_of(after))


def _unchanged(
    settings: Settings, action: Action, pointer: str, reason: Reason, erased: Mapping[str, str] | None
) -> Changed:
    """Return the result of a change that makes no new version.

    An erasure is recorded all the same: older versions may have the erased pictures.
    """
    unchanged = Changed(md5_of(pointer), md5_of(pointer), PictureChanges(), [], [])
    if erased:
        summary = f"{counted(len(erased), 'picture')} of older versions"
        fields = {"after": md5_of(pointer), "summary": summary, **_erasure(erased)}
        described = _described(action, pointer, unchanged, reason)
        DataRecord(settings).write(described.model_copy(update=fields))
    return unchanged


def _erasure(erased: Mapping[str, str] | None) -> dict[str, list[str]]:
    """Return the fields of a record that say what was erased."""
    return {"erased": sorted(erased), "pixels": sorted(set(erased.values()))} if erased else {}


def undo(settings: Settings, reason: Reason) -> Changed:
    """Go back to the data version before the last change.

    Raises:
        DataError: there is no change on record, or it can't be undone.
        StorageError: the remote no longer has the version before.
    """
    root, record = settings.project / "data", DataRecord(settings)
    with _turn(settings) as (repository, pointer, rest_on):
        before = md5_of(pointer)
        last = record.origin(before)
        if last is None or last.before is None:
            cause = "it is the first" if last else "no change that led to it is on record"
            cure = "`git checkout REF -- data.dvc` takes an older one"
            raise DataError(f"Data version {_short(before)} can't be undone: {cause}; {cure}.")
        if last.action == "erase":
            cause = "came of an erasure, which can't be undone"
            cure = "take an older version with git where it was a mistake"
            raise DataError(f"Data version {_short(before)} {cause}; {cure}.")
        if repository.lacking(last.before):
            gone = f"The remote no longer has data version {_short(last.before)}, which was there before"
            raise StorageError(f"{gone}; import it again.")
        old, present, listing = read_version(root), set(_files(root)), repository.listing("data")
        origin = record.origin(last.before, last.when)
        described = _described(
            "undo", pointer, Changed(before, last.before, PictureChanges(), [], []), reason
        )
        described = described.model_copy(update={"after": last.before, "origin": origin and origin.when})
        _begin(settings, Pending(change=described, tables={}))
        repository.write_pointer("data", last.pointer)
        rest_on("", last.pointer)
        _lay_out(repository, root)
        if present >= {f"data/{name}" for name in listing}:
            repository.pull("data.dvc")
        changed = replace(_compared(old, read_version(root)), before=before, after=last.before)
        compared = _described("undo", pointer, changed, reason)
        contents = {name: getattr(compared, name) for name in ("summary", "pictures", "products")}
        _begin(settings, Pending(change=described.model_copy(update=contents), tables={}))
        _finish(settings, repository, last.pointer)
        return changed


def settle(settings: Settings) -> None:
    """Record an import or a killed change if data.dvc names the version that it made.

    The caller holds the lock of data/ (`exclusive`).
    """
    if _pending(settings).is_file() and (settings.project / "data.dvc").is_file():
        _finish(settings, Repository(settings.project, settings), data_pointer(settings.project, None))


def pictures_on(settings: Settings, day: date) -> set[str]:
    """Return the SHA-256 of the pictures that the data had at the end of a day (UTC), by its record.

    Raises:
        DataError: the record doesn't reach back to that day.
        StorageError: the remote no longer has that version.
    """
    pointer = data_pointer(settings.project, None)
    chain = DataRecord(settings).chain(md5_of(pointer))
    last = next((change for change in chain if change.when.astimezone(UTC).date() <= day), None)
    if last is None:
        since = f"it begins on {chain[-1].when:%Y-%m-%d}" if chain else "it is empty"
        raise DataError(
            f"The record of data doesn't reach back to {day}: {since}; name the pictures with --file instead."
        )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_text(root / "data.dvc", pointer_of(last.after, "data"))
        Repository(root, settings).fetch_files(["data/manifest.parquet"])
        return set(read_manifest(root / "data")["sha256"])


def begin_import(settings: Settings, before: str, reason: Reason, summary: str) -> None:
    """Note an import whose version lies in data/; `settle` records it once data.dvc names that version.

    Args:
        settings: this machine's settings.
        before: the text of data.dvc before the import; empty where there is none.
        reason: who, and from where.
        summary: the import in words.
    """
    described = DataChange(
        action="import",
        after="",
        before=md5_of(before) if before else None,
        pointer=before,
        who=reason.who,
        when=datetime.now(UTC),
        why=reason.why,
        summary=summary,
        source=reason.source,
    )
    _begin(settings, Pending(change=described, tables=_tables(settings.project / "data")))


@contextmanager
def _turn(settings: Settings) -> Iterator[tuple[Repository, str, Callable[[str, str], None]]]:
    """Take the exclusive right to change data/, and restore the tables that data.dvc names.

    A killed change may have left others there.

    Yields:
        The project's repository, the text of data.dvc, and the function that tells the claim the new inputs
        and lock (`at_work`).
    """
    root = settings.project / "data"
    with exclusive(root), at_work(settings, f"data-{uuid.uuid4().hex[:12]}", "data") as rest_on:
        pointer = data_pointer(settings.project, None)
        md5_of(pointer)  # DVC's own message would not say how to mend a bad pointer
        rest_on("", pointer)
        recover(root)
        repository = Repository(settings.project, settings)
        _finish(settings, repository, pointer)
        _lay_out(repository, root)
        yield repository, pointer, rest_on


def _lay_out(repository: Repository, root: Path) -> None:
    """Fetch the tables of the version that data.dvc names into data/, and delete files that it lacks."""
    listing = repository.listing("data")
    wrong = [
        name
        for name in TABLES
        if name in listing and (not (root / name).is_file() or md5(root / name) != listing[name])
    ]
    repository.fetch_files([f"data/{name}" for name in wrong])
    for path in _files(root):
        if path.removeprefix("data/") not in listing:
            (root.parent / path).unlink()


def _touched(made: VersionStep, listing: Mapping[str, str], root: Path) -> list[str]:
    """Return the files that a step wrote or took away, as paths from the project.

    A shard never changes in place, so a changed set of pictures shows in the names of shards.
    """
    shards = {f"shards/{name}" for name in made.new.manifest["shard"]}
    known = {name for name in listing if name.startswith("shards/")}
    tables = [name for name in TABLES if name in listing or (root / name).is_file()]
    return [f"data/{name}" for name in (*tables, *sorted(shards ^ known))]


def _put_back(repository: Repository, root: Path, present: list[str]) -> None:
    """Restore the files that were here of the version that data.dvc names.

    Errors are ignored: the next change restores the rest.
    """
    with suppress(SkumatchError, OSError):
        _lay_out(repository, root)
        repository.fetch_files([path for path in present if not (root.parent / path).is_file()])


def _files(root: Path) -> list[str]:
    """Return the files below data/, as paths from the project."""
    return sorted(path.relative_to(root.parent).as_posix() for path in root.rglob("*") if path.is_file())


def _compared(old: Version, new: Version) -> Changed:
    """Return the difference of two versions; their MD5s stay empty."""
    pictures = compare(columns_of(old.manifest, COMPARED), columns_of(new.manifest, COMPARED))
    was, now = retired(old.products), retired(new.products)
    return Changed("", "", pictures, sorted(now - was), sorted((was - now) & new.skus))


def _described(action: Action, pointer: str, changed: Changed, reason: Reason) -> DataChange:
    """Return the record of a change of which the new version isn't known yet."""
    pictures = {name: getattr(changed.pictures, name) for name in ("added", "removed", "relabelled", "moved")}
    products = {
        "new": changed.pictures.skus_added,
        "gone": changed.pictures.skus_removed,
        "retired": changed.retired,
        "brought back": changed.back,
    }
    words = [f"{counted(len(names), 'picture')} {kind}" for kind, names in pictures.items() if names]
    words += [f"{counted(len(names), 'product')} {kind}" for kind, names in products.items() if names]
    return DataChange(
        action=action,
        after="",
        before=md5_of(pointer),
        pointer=pointer,
        who=reason.who,
        when=datetime.now(UTC),
        why=reason.why,
        summary=", ".join(words) or "what is known of products",
        source=reason.source,
        pictures={kind: names[:LISTED] for kind, names in pictures.items() if names},
        products={kind: names[:LISTED] for kind, names in products.items() if names},
    )


def _pending(settings: Settings) -> Path:
    """Return the path of the note of the project's pending change; several projects may share a home.

    It is named by the way from the home to the project, which stays when both are moved.
    """
    way = os.path.relpath(settings.project.resolve(), settings.home_dir)
    project = hashlib.sha256(os.fsencode(way)).hexdigest()[:12]
    return settings.home_dir / f"data-change-{project}.json"


def _tables(folder: Path) -> dict[str, str]:
    return {name: md5(folder / name) for name in TABLES if (folder / name).is_file()}


def _begin(settings: Settings, pending: Pending) -> None:
    """Note a pending change, so that the next one can record it if it is killed after data.dvc is written."""
    write_text(_pending(settings), pending.model_dump_json())


def _finish(settings: Settings, repository: Repository, pointer: str) -> None:
    """Record the pending change if data.dvc names the version that it made; delete the note in any case."""
    path = _pending(settings)
    if not path.is_file():
        return
    pending, version = Pending.model_validate_json(path.read_text("utf-8")), md5_of(pointer)
    if pending.change.after:
        done = pending.change.after == version
    else:
        listing = repository.listing("data")
        tables = {name: listing[name] for name in TABLES if name in listing}
        done = pending.change.before != version and tables == pending.tables
    if done:
        DataRecord(settings).write(pending.change.model_copy(update={"after": version}))
    path.unlink()


def _short(version: str) -> str:
    return version.removesuffix(".dir")[:12]
