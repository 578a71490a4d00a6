"""A change of the data, whole or not at all: a version beside the one that is there, in the remote, with its record.

A change starts from the version that data.dvc names, whatever a killed one left in data/. Its steps: the new
version is written beside data/, put in its place, stored in the remote, named by data.dvc, and recorded.
Killed before data.dvc is written, it leaves the old version, and the next change clears data/ up. Killed
after, the next one writes the record. Refused before data.dvc is written, as where the remote is away, it
puts the old version back itself.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from skumatch.config import Settings
from skumatch.data.delivery.changes import COMPARED, Changes, compare
from skumatch.data.delivery.replace import exclusive, recover
from skumatch.data.manifest import columns_of, read_manifest
from skumatch.data.products import FILE, retired
from skumatch.data.quarantine import QUARANTINE
from skumatch.data.version import SUMMARY, Make, Step, Version, read_version, step
from skumatch.errors import DataError, SkumatchError, StorageError
from skumatch.files import md5, write_text
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.data_record import Action, DataChange, DataRecord
from skumatch.pipeline.inputs import data_pointer
from skumatch.pipeline.repository import Repository, md5_of
from skumatch.pipeline.repository import pointer as pointer_of

TABLES = ("manifest.parquet", SUMMARY, QUARANTINE, FILE)
LISTED = 1_000  # names of a kind that a record keeps


@dataclass(frozen=True)
class Reason:
    """Who makes a change, and why; source: the delivery or table that it comes from."""

    who: str
    why: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Changed:
    """What came of a change: MD5s of the version before and after, the pictures, and the products retired and brought back."""

    before: str
    after: str
    pictures: Changes
    retired: list[str]
    back: list[str]

    @property
    def version(self) -> str:
        return self.after.removesuffix(".dir")[:12]

    @property
    def changed(self) -> bool:
        return self.before != self.after


class Pending(BaseModel):
    """A change that is under way.

    change: its record; `after` is empty while the version that comes of it isn't known. tables: names and
    MD5s of that version's tables, by which it is recognised as long as that is so.
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
    erased: Collection[str] = (),
) -> Changed:
    """Make the next data version with `make`, store it, and record the change.

    Nothing where it changes nothing.

    Args:
        settings: this machine's places.
        action: the word that the record has.
        make: returns the next version; new pictures go into the store.
        reason: who, why and from where.
        others: catch-all classes.
        erased: SHA-256 of the pictures that this erases; recorded even where only older versions have them.

    Raises:
        DataError: there is no data, or `make` or the result is unusable.
        StorageError: the disk or the remote refuses, or another change is under way.
    """
    root = settings.project / "data"
    with _turn(settings) as (repository, pointer, rest_on):
        listing, here = repository.listing("data"), _files(root)

        def begin(made: Step, folder: Path) -> None:
            described = _described(action, pointer, _compared(made.old, made.new), reason)
            described = described.model_copy(update={"erased": sorted(erased)})
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
            _put_back(repository, root, here)
            raise
        rest_on("", after)
        _finish(settings, repository, after)
        return replace(_compared(made.old, made.new), before=md5_of(pointer), after=md5_of(after))


def _unchanged(
    settings: Settings, action: Action, pointer: str, reason: Reason, erased: Collection[str]
) -> Changed:
    """What came of a change of nothing.

    Where only older versions have erased pictures, the erasure is recorded.
    """
    unchanged = Changed(md5_of(pointer), md5_of(pointer), Changes(), [], [])
    if erased:
        words = f"{_number(sorted(erased), 'picture')} of older versions"
        facts = {"after": md5_of(pointer), "erased": sorted(erased), "summary": words}
        described = _described(action, pointer, unchanged, reason)
        DataRecord(settings).write(described.model_copy(update=facts))
    return unchanged


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
            none = "it is the first" if last else "no change that led to it is on record"
            cure = "`git checkout REF -- data.dvc` takes an older one"
            raise DataError(f"Data version {_short(before)} can't be undone: {none}; {cure}.")
        if last.action == "erase":
            erased = "came of an erasure, which can't be undone; take an older version with git where it was a mistake"
            raise DataError(f"Data version {_short(before)} {erased}.")
        if repository.lacking(last.before):
            gone = f"The remote no longer has data version {_short(last.before)}, which was there before"
            raise StorageError(f"{gone}; import it again.")
        old, here, listing = read_version(root), set(_files(root)), repository.listing("data")
        origin = record.origin(last.before, last.when)
        described = _described("undo", pointer, Changed(before, last.before, Changes(), [], []), reason)
        described = described.model_copy(update={"after": last.before, "origin": origin and origin.when})
        _begin(settings, Pending(change=described, tables={}))
        repository.write_pointer("data", last.pointer)
        rest_on("", last.pointer)
        _lay_out(repository, root)
        if here >= {f"data/{name}" for name in listing}:
            repository.pull("data.dvc")
        changed = replace(_compared(old, read_version(root)), before=before, after=last.before)
        words = _described("undo", pointer, changed, reason)
        contents = {name: getattr(words, name) for name in ("summary", "pictures", "products")}
        _begin(settings, Pending(change=described.model_copy(update=contents), tables={}))
        _finish(settings, repository, last.pointer)
        return changed


def settle(settings: Settings) -> None:
    """Record an import or a killed change if data.dvc names what came of it; call it within `exclusive`."""
    if _pending(settings).is_file() and (settings.project / "data.dvc").is_file():
        _finish(settings, Repository(settings.project, settings), data_pointer(settings.project, None))


def pictures_on(settings: Settings, day: date) -> set[str]:
    """SHA-256 of the pictures that the data had at the end of a day (UTC), by the record of its changes.

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
        settings: this machine's places.
        before: the text of data.dvc; empty where there is none.
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
    """The right to change data/, which then has the tables that data.dvc names, whatever a killed change left.

    Yields the project's repository, the text of data.dvc, and the claim's function that names what is rested
    on.
    """
    root = settings.project / "data"
    with exclusive(root), at_work(settings, f"data-{uuid.uuid4().hex[:12]}", "data") as rest_on:
        pointer = data_pointer(settings.project, None)
        md5_of(pointer)  # DVC's own sentence would not say how to mend it
        rest_on("", pointer)
        recover(root)
        repository = Repository(settings.project, settings)
        _finish(settings, repository, pointer)
        _lay_out(repository, root)
        yield repository, pointer, rest_on


def _lay_out(repository: Repository, root: Path) -> None:
    """Put the tables of the version that data.dvc names into data/, and take away shards that it doesn't have."""
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


def _touched(made: Step, listing: Mapping[str, str], root: Path) -> list[str]:
    """The files that a step wrote or took away, as paths from the project; shards never change in place."""
    shards = {f"shards/{name}" for name in made.new.manifest["shard"]}
    known = {name for name in listing if name.startswith("shards/")}
    tables = [name for name in TABLES if name in listing or (root / name).is_file()]
    return [f"data/{name}" for name in (*tables, *sorted(shards ^ known))]


def _put_back(repository: Repository, root: Path, here: list[str]) -> None:
    """Lay out the version that data.dvc names as it was here; the next change does what can't be done now."""
    with suppress(SkumatchError, OSError):
        _lay_out(repository, root)
        repository.fetch_files([path for path in here if not (root.parent / path).is_file()])


def _files(root: Path) -> list[str]:
    """The files below data/, as paths from the project."""
    return sorted(path.relative_to(root.parent).as_posix() for path in root.rglob("*") if path.is_file())


def _compared(old: Version, new: Version) -> Changed:
    tables = (columns_of(version.manifest, COMPARED) for version in (old, new))
    was, now = retired(old.products), retired(new.products)
    return Changed("", "", compare(*tables), sorted(now - was), sorted((was - now) & new.skus))


def _described(action: Action, pointer: str, changed: Changed, reason: Reason) -> DataChange:
    """The record of a change whose version isn't known yet."""
    pictures = {name: getattr(changed.pictures, name) for name in ("added", "removed", "relabelled", "moved")}
    products = {
        "new": changed.pictures.skus_added,
        "gone": changed.pictures.skus_removed,
        "retired": changed.retired,
        "brought back": changed.back,
    }
    words = [f"{_number(names, 'picture')} {kind}" for kind, names in pictures.items() if names]
    words += [f"{_number(names, 'product')} {kind}" for kind, names in products.items() if names]
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
    """The note of the project's change that is under way; several projects may share a home."""
    project = hashlib.sha256(os.fsencode(settings.project.resolve())).hexdigest()[:12]
    return settings.home_dir / f"data-change-{project}.json"


def _tables(folder: Path) -> dict[str, str]:
    return {name: md5(folder / name) for name in TABLES if (folder / name).is_file()}


def _begin(settings: Settings, pending: Pending) -> None:
    """Note a change that is under way, so that it is recorded even if it is killed once data.dvc is written."""
    write_text(_pending(settings), pending.model_dump_json())


def _finish(settings: Settings, repository: Repository, pointer: str) -> None:
    """Record the change that was noted, if data.dvc names what came of it, and drop the note."""
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


def _number(names: list[str], noun: str) -> str:
    return f"{len(names):,} {noun}{'' if len(names) == 1 else 's'}"


def _short(version: str) -> str:
    return version.removesuffix(".dir")[:12]
