"""The only user of DVC, with its run_cache.py: a folder with a cache of its machine and the remote that all workers share."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from skumatch.config import Settings, shown
from skumatch.errors import DataError, StageFailed, StorageError
from skumatch.files import disk_errors, disk_refused, store_errors, write_text
from skumatch.pipeline.dvc_config import REMOTE, configure

LOCK_SECONDS, POLL_SECONDS = 120.0, 0.5
Answer = TypeVar("Answer")


class Repository:
    """A configured folder, which is the current one while DVC works: it resolves targets against that.

    Its failures are our errors.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        from dvc.repo import Repo

        from skumatch.pipeline.run_cache import RunCache  # imports DVC, which takes a moment

        _listen()
        self.folder = folder
        with _translated("open", folder):
            configure(folder, settings)
            self._repo: Any = Repo(str(folder))
            self._repo.stage_cache = RunCache(self._repo)

    def add(self, path: str) -> str:
        """Put `path` into the cache, push it, and return the text of its pointer file `path`.dvc."""
        with _translated("store", path), chdir(self.folder):
            _patiently(lambda: self._repo.add(path))
            _patiently(lambda: self._repo.push(targets=[f"{path}.dvc"]))
        return (self.folder / f"{path}.dvc").read_text("utf-8")

    def store_files(self, paths: Sequence[str]) -> str:
        """Store files of a folder that is under DVC and may be here in part.

        Args:
            paths: below one folder, from the repository's root. Those that are not here are taken out of the
                folder; its other files stay as its pointer has them, and are neither read nor sent.

        Returns:
            The text of the folder's new pointer. The caller writes it: DVC would write one after each file,
            before anything is in the remote.

        Raises:
            StorageError: the remote can't be written, or lacks one of the folder's other files.
        """
        folder = Path(paths[0]).parts[0]
        with _translated("store", folder), chdir(self.folder):
            return _patiently(lambda: self._store_files(folder, paths))

    def _store_files(self, folder: str, paths: Sequence[str]) -> str:
        from dvc.exceptions import FileTransferError
        from dvc.repo import lock_repo
        from dvc.stage.serialize import to_single_stage_file
        from dvc.utils.serialize import dumps_yaml
        from dvc_data.hashfile.transfer import transfer

        with lock_repo(self._repo):
            (out,) = self._repo.find_outs_by_path(folder)
            for path in paths:
                out.stage.add_outs(str(Path(path).absolute()))
            store, cache = self._repo.cloud.get_remote_odb(REMOTE), self._repo.cache.local
            failed = transfer(cache, store, [out.hash_info], cache_odb=cache, shallow=False).failed
            if failed:
                raise FileTransferError(len(failed))
            if not store.exists(out.hash_info.value):
                lost = f"The DVC remote lacks files that the last version of {folder} has"
                raise StorageError(f"{lost}; put them back, or import the data again.")
            return str(dumps_yaml(to_single_stage_file(out.stage)))

    def write_pointer(self, folder: str, text: str) -> None:
        """Write the pointer of a folder, whole or not at all; a `.dvc` beside it would be another to DVC."""
        aside = self.folder / ".dvc/tmp" / f"{folder}-pointer"
        write_text(aside, text)
        with disk_errors(f"{folder}.dvc"):
            aside.replace(self.folder / f"{folder}.dvc")

    def fetch_files(self, paths: Sequence[str]) -> None:
        """Fetch files of folders under DVC, and put them in the place of what is there."""
        if paths:
            with _translated("fetch", ", ".join(paths[:3])), chdir(self.folder):
                _patiently(lambda: self._repo.pull(targets=list(paths), force=True))

    def listing(self, folder: str) -> dict[str, str]:
        """The files of a folder under DVC as its pointer names them: path below it -> MD5."""
        with _translated("look for", folder), chdir(self.folder):
            return _patiently(lambda: self._listing(folder))

    def _listing(self, folder: str) -> dict[str, str]:
        from dvc.repo import lock_repo

        with lock_repo(self._repo):  # DVC then reads the pointer anew
            (out,) = self._repo.find_outs_by_path(folder)
            tree = out.get_dir_cache()
        if tree is None:
            nowhere = f"The list of files of {folder} is neither here nor in the DVC remote"
            raise StorageError(f"{nowhere}; check its address.")
        return {"/".join(key): str(digest.value) for key, (_, digest) in tree.iteritems()}

    def pull(self, *targets: str) -> None:
        """Fetch and check out what the pointers or stages `targets` name."""
        with _translated("fetch", ", ".join(targets)), chdir(self.folder):
            _patiently(lambda: self._repo.pull(targets=list(targets)))

    def reproduce(self, stage: str, force: bool = False, push: bool = True) -> None:
        """Run one stage, unless nothing it depends on changed; missing inputs are fetched, its outs pushed.

        force: run it although its result is known.
        """
        with _translated("run", stage), chdir(self.folder):
            _patiently(lambda: self._fetch_changed_inputs(stage))
            _patiently(lambda: self._run(stage, force))
            if push:
                _patiently(lambda: self._repo.push(targets=[stage], run_cache=True))

    def _run(self, stage: str, force: bool) -> None:
        from dvc.exceptions import ReproductionError
        from dvc.stage.exceptions import StageCmdFailedError

        try:
            self._repo.reproduce(stage, single_item=True, pull=True, force=force)
        except ReproductionError as error:
            if isinstance(error.__cause__, StageCmdFailedError):
                raise StageFailed(
                    f"Stage {stage} ended without a word of its own; its log has the last lines."
                ) from error
            raise error.__cause__ or error from error

    def _fetch_changed_inputs(self, name: str) -> None:
        """Check out the absent inputs that differ from the lock's, or that nothing is known of.

        A single-item run of DVC sees no upstream stages and takes an absent input for an unchanged one; this
        way it sees what changed, and what is unchanged still need not be fetched.
        """
        known = {out.fs_path: out.hash_info for stage in self._repo.index.stages for out in stage.outs}
        absent = [dep for dep in self._repo.stage.load_one(name=name).deps if not dep.exists]
        changed = [str(dep) for dep in absent if not dep.hash_info or known.get(dep.fs_path) != dep.hash_info]
        if changed:
            self._repo.pull(targets=changed)

    def lacking(self, md5: str) -> list[str]:
        """The MD5s of a data version that the remote doesn't have: its own, or those of files that it lists."""
        with _translated("look for", md5):
            store = self._repo.cloud.get_remote_odb(REMOTE)
            if not store.exists(md5):
                return [md5]
            if not md5.endswith(".dir"):
                return []
            with store.fs.open(store.oid_to_path(md5), "r") as stream:
                listed = {str(entry["md5"]) for entry in json.load(stream)}
            return sorted(listed - set(store.list_oids_exists(sorted(listed))))

    def amiss(self, *targets: str) -> list[str]:
        """MD5s of what `targets` name that the remote doesn't have, or has with other bytes.

        What is in the cache was hashed on its way.

        Raises StorageError where the remote is away, refuses, or holds nothing at all, as a disk that isn't
        mounted does.
        """
        with _translated("look for", ", ".join(targets)), chdir(self.folder):
            store, cache = self._repo.cloud.get_remote_odb(REMOTE), self._repo.cache.local
            if not store.fs.exists(store.path):
                raise StorageError(
                    f"Could not look for {', '.join(targets)}: the DVC remote holds nothing; check its address."
                )
            found = [self._repo.stage.collect_granular(target) for target in targets]
            outs = [
                (one.filter_info, out)
                for stages in found
                for one in stages
                for out in one.stage.outs
                if out.hash_info
            ]
            return sorted(
                {
                    md5
                    for only, out in outs
                    for md5 in _unsound(store, cache, str(out.hash_info.value), out.fs_path, only)
                }
            )

    @property
    def lock(self) -> str:
        """The text of dvc.lock, empty before the first stage."""
        path = self.folder / "dvc.lock"
        return path.read_text("utf-8") if path.is_file() else ""


def _unsound(store: Any, cache: Any, md5: str, path: str, only: str | None) -> list[str]:
    """Of one out, a file or a folder's listing and what it lists below `only`: the objects that aren't in the store as they should be."""
    if not _sound(store, md5):
        return [md5]
    if not md5.endswith(".dir"):
        return []
    with store.fs.open(store.oid_to_path(md5), "rb") as stream:
        listed = [(Path(path) / entry["relpath"], str(entry["md5"])) for entry in json.load(stream)]
    wanted = {digest for name, digest in listed if only is None or name.is_relative_to(only)}
    return [digest for digest in sorted(wanted) if not cache.exists(digest) and not _sound(store, digest)]


def _sound(store: Any, md5: str) -> bool:
    """Whether the object is there, with the bytes that it is named by."""
    try:
        with store.fs.open(store.oid_to_path(md5), "rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest() == md5.removesuffix(".dir")
    except FileNotFoundError:
        return False


def pointer(md5: str, path: str) -> str:
    """The text of a .dvc file for one file of that MD5."""
    return yaml.safe_dump({"outs": [{"md5": md5, "hash": "md5", "path": path}]}, sort_keys=False)


def md5_of(pointer_text: str) -> str:
    """The hash that the text of data.dvc points to. Raises DataError for a text that is no such pointer."""
    try:
        return str(yaml.safe_load(pointer_text)["outs"][0]["md5"])
    except (yaml.YAMLError, LookupError, TypeError) as error:
        cure = "restore it with `git checkout -- data.dvc`, or import the data again"
        raise DataError(f"data.dvc is no pointer of DVC, as after a merge with conflicts; {cure}.") from error


class _Failures(logging.Handler):
    """Takes what DVC would print: why a transfer failed is in its log alone, and belongs into our one sentence."""

    reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        if record.levelno >= logging.ERROR:
            self.reason = (cause.strerror if isinstance(cause, OSError) else None) or str(
                cause or record.getMessage()
            )


FAILURES = _Failures()


def _listen() -> None:
    from dvc.logger import setup

    setup(logging.WARNING)
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).handlers = [FAILURES]


def _words(error: Exception, reason: str = "") -> str:
    """An error of DVC, which may have many lines, as one."""
    return " ".join(f"{str(error).rstrip('.')}{f': {reason}' if reason else ''}".split())


def _patiently(call: Callable[[], Answer]) -> Answer:
    """What DVC answers, asked again while another process holds its lock, for which it waits only 3 s by itself.

    Raises LockError after LOCK_SECONDS. The lock is never broken: whoever has it may be writing.
    """
    from dvc.lock import LockError

    began = time.monotonic()
    while True:
        try:
            return call()
        except LockError:
            if time.monotonic() - began > LOCK_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


@contextmanager
def _translated(what: str, target: object) -> Iterator[None]:
    from dvc.exceptions import CheckoutError, DvcException, FileTransferError
    from dvc.lock import LockError
    from dvc_objects.errors import ObjectDBError, ObjectFormatError

    FAILURES.reason = ""
    try:
        yield
    except (FileTransferError, CheckoutError) as error:
        why = _words(error, FAILURES.reason)
        raise StorageError(
            f"Could not {what} {target} ({why}); check the DVC remote and the disk, then run again."
        ) from error
    except LockError as error:
        held = f"another process has held DVC's lock for {LOCK_SECONDS:.0f} s"
        raise StorageError(f"Could not {what} {target}: {held}; wait for its end, then run again.") from error
    except (ObjectDBError, ObjectFormatError) as error:
        raise StorageError(
            f"Could not {what} {target}: {_words(error)}; check the DVC remote, then run again."
        ) from error
    except DvcException as error:
        if full := disk_refused(error):
            raise StorageError(
                f"Could not {what} {target}: {full.strerror}; check the disk, then run again."
            ) from error
        raise DataError(f"DVC could not {what} {target}: {_words(error)}.") from error
    except sqlite3.DatabaseError as error:  # DVC keeps notes of files in SQLite
        raise StorageError(
            f"Could not {what} {target}: DVC's notes: {error}; check the disk, then run again."
        ) from error
    except store_errors() as error:
        why = getattr(error, "strerror", None) or shown(str(error))
        raise StorageError(
            f"Could not {what} {target}: {why}; check the disk or the remote, then run again."
        ) from error
