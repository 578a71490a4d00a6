"""The interface to DVC: a folder that uses this machine's cache and the remote that all workers share.

No other module but run_cache.py uses DVC.
"""

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
from skumatch.texts import counted

LOCK_SECONDS, POLL_SECONDS = 120.0, 0.5
Answer = TypeVar("Answer")


class Repository:
    """A folder configured for DVC.

    It is the current folder while DVC works, because DVC resolves targets against that. DVC's exceptions are
    raised as this package's errors (`_translated`).
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
        """Put `path` into the cache, send what the remote lacks, and return the text of its pointer file."""
        with _translated("store", path), chdir(self.folder):
            _patiently(lambda: self._repo.add(path))
            _patiently(lambda: self._send_target(path))
        return (self.folder / f"{path}.dvc").read_text("utf-8")

    def store_files(self, paths: Sequence[str]) -> str:
        """Store changed files of a folder that is under DVC and of which some files may not be here.

        Args:
            paths: paths from the repository's root, all below one folder. Those that are not here are removed
                from the folder's listing. Other files of the folder stay as its pointer has them, and are
                neither read nor sent.

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
        from dvc.repo import lock_repo
        from dvc.stage.serialize import to_single_stage_file
        from dvc.utils.serialize import dumps_yaml

        with lock_repo(self._repo):
            (out,) = self._repo.find_outs_by_path(folder)
            for path in paths:
                out.stage.add_outs(str(Path(path).absolute()))
            self._send(out)
            return str(dumps_yaml(to_single_stage_file(out.stage)))

    def restore(self, folder: str) -> int:
        """Send the files of a folder under DVC that the remote lacks, from this machine's cache.

        Returns:
            The number of objects that were sent.

        Raises:
            StorageError: the remote can't be written, or an object is neither in it nor in the cache.
        """
        with _translated("store", folder), chdir(self.folder):
            _patiently(lambda: self._listing(folder))  # gets the list of files into the cache
            return _patiently(lambda: self._send_target(folder))

    def _send_target(self, path: str) -> int:
        from dvc.repo import lock_repo

        with lock_repo(self._repo):
            return sum(self._send(out) for out in self._repo.find_outs_by_path(path))

    def _send(self, out: Any) -> int:
        """Send the objects of an out that the remote lacks, and return their number.

        Each object is looked for in the remote. DVC's own push takes the members of a stored folder's listing
        for stored, so it never sends one that was lost.

        Raises:
            StorageError: an object is neither in the cache nor in the remote.
        """
        from dvc.exceptions import FileTransferError
        from dvc_data.hashfile.transfer import transfer

        store, cache, lost = self._repo.cloud.get_remote_odb(REMOTE), self._repo.cache.local, set[Any]()
        sent, failed = transfer(
            cache,
            store,
            [out.hash_info],
            cache_odb=cache,
            shallow=False,
            validate_status=lambda status: lost.update(status.missing),
        )
        if failed:
            raise FileTransferError(len(failed))
        if lost:
            lacking = (
                f"The DVC remote lacks {counted(len(lost), 'file')} of {out}, and so does this machine's"
            )
            raise StorageError(f"{lacking} cache; put them back from a backup, or make {out} again.")
        return len(sent)

    def write_pointer(self, folder: str, text: str) -> None:
        """Write the pointer of a folder atomically.

        The temporary file lies in .dvc/tmp, because DVC would read a second `.dvc` file beside the pointer.
        """
        aside = self.folder / ".dvc/tmp" / f"{folder}-pointer"
        write_text(aside, text)
        with disk_errors(f"{folder}.dvc"):
            aside.replace(self.folder / f"{folder}.dvc")

    def fetch_files(self, paths: Sequence[str]) -> None:
        """Fetch files of folders under DVC, and replace what lies in their places."""
        if paths:
            with _translated("fetch", ", ".join(paths[:3])), chdir(self.folder):
                _patiently(lambda: self._repo.pull(targets=list(paths), force=True))

    def listing(self, folder: str) -> dict[str, str]:
        """Return the files of a folder under DVC as its pointer names them: path below it -> MD5."""
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
        """Fetch and check out the files that the pointers or stages `targets` name."""
        with _translated("fetch", ", ".join(targets)), chdir(self.folder):
            _patiently(lambda: self._repo.pull(targets=list(targets)))

    def reproduce(self, stage: str, force: bool = False, push: bool = True) -> None:
        """Run one stage unless its result is known; missing inputs are fetched first.

        Args:
            stage: its name in dvc.yaml.
            force: run it although its result is known.
            push: push its outs and its entry of the run cache.
        """
        with _translated("run", stage), chdir(self.folder):
            _patiently(lambda: self._fetch_changed_inputs(stage))
            _patiently(lambda: self._run(stage, force))
            if push:
                _patiently(lambda: self._push(stage))

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

    def _push(self, stage: str) -> None:
        """Send a stage's entry of the run cache, and those of its outs that the remote lacks."""
        from dvc.repo import lock_repo

        with lock_repo(self._repo):
            self._repo.stage_cache.push(REMOTE)
            for out in self._repo.stage.load_one(name=stage).outs:
                self._send(out)

    def _fetch_changed_inputs(self, name: str) -> None:
        """Check out the absent inputs that differ from the lock, or of which the lock has no hash.

        When DVC runs a single stage it doesn't look at the stages before it, and takes an absent input for
        unchanged. So changed inputs have to be here, while unchanged ones need not be fetched.
        """
        known = {out.fs_path: out.hash_info for stage in self._repo.index.stages for out in stage.outs}
        absent = [dep for dep in self._repo.stage.load_one(name=name).deps if not dep.exists]
        changed = [str(dep) for dep in absent if not dep.hash_info or known.get(dep.fs_path) != dep.hash_info]
        if changed:
            self._repo.pull(targets=changed)

    def lacking(self, md5: str) -> list[str]:
        """Return the MD5s of a data version that the remote lacks: its own, or those of its files."""
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
        """Return the MD5s of the objects that `targets` name and the remote lacks, or has with other bytes.

        Objects in the cache are not checked again: DVC hashed them when it fetched them.

        Raises:
            StorageError: the remote is away, refuses, or holds nothing at all, as a disk that isn't mounted.
        """
        with _translated("look for", ", ".join(targets)), chdir(self.folder):
            store, cache = self._repo.cloud.get_remote_odb(REMOTE), self._repo.cache.local
            if not store.fs.exists(store.path):
                empty = "the DVC remote holds nothing; check its address"
                raise StorageError(f"Could not look for {', '.join(targets)}: {empty}.")
            stage_infos = [info for target in targets for info in self._repo.stage.collect_granular(target)]
            outs = [(info.filter_info, out) for info in stage_infos for out in info.stage.outs]
            unsound: set[str] = set()
            for only, out in outs:
                if out.hash_info:
                    unsound |= set(_unsound(store, cache, str(out.hash_info.value), out.fs_path, only))
            return sorted(unsound)

    @property
    def lock(self) -> str:
        """The text of dvc.lock, empty before the first stage."""
        path = self.folder / "dvc.lock"
        return path.read_text("utf-8") if path.is_file() else ""


def _unsound(store: Any, cache: Any, md5: str, path: str, only: str | None) -> list[str]:
    """Return the objects of one out that are missing or damaged in the store.

    Args:
        store: DVC's object database of the remote.
        cache: that of this machine; objects in it count as sound.
        md5: of the out, a file or a folder's listing.
        path: the out's absolute path.
        only: check only the files of a folder below this path; None checks all.
    """
    if not _sound(store, md5):
        return [md5]
    if not md5.endswith(".dir"):
        return []
    with store.fs.open(store.oid_to_path(md5), "rb") as stream:
        listed = [(Path(path) / entry["relpath"], str(entry["md5"])) for entry in json.load(stream)]
    required = {digest for name, digest in listed if only is None or name.is_relative_to(only)}
    return [digest for digest in sorted(required) if not cache.exists(digest) and not _sound(store, digest)]


def _sound(store: Any, md5: str) -> bool:
    """Return whether the store has the object, and its bytes have the MD5 that it is named by."""
    try:
        with store.fs.open(store.oid_to_path(md5), "rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest() == md5.removesuffix(".dir")
    except FileNotFoundError:
        return False


def pointer(md5: str, path: str) -> str:
    """Return the text of a .dvc file for one file of that MD5."""
    return yaml.safe_dump({"outs": [{"md5": md5, "hash": "md5", "path": path}]}, sort_keys=False)


def md5_of(pointer_text: str) -> str:
    """Return the hash that the text of data.dvc points to.

    Raises:
        DataError: the text is no pointer of DVC.
    """
    try:
        return str(yaml.safe_load(pointer_text)["outs"][0]["md5"])
    except (yaml.YAMLError, LookupError, TypeError) as error:
        cure = "restore it with `git checkout -- data.dvc`, or import the data again"
        raise DataError(f"data.dvc is no pointer of DVC, as after a merge with conflicts; {cure}.") from error


class _Failures(logging.Handler):
    """Log handler that keeps the reason of DVC's last error for our own message.

    DVC writes the reason why a transfer failed only to its log.

    Attributes:
        reason: the last error's; empty while there was none.
    """

    reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        if record.levelno >= logging.ERROR:
            strerror = cause.strerror if isinstance(cause, OSError) else None
            self.reason = strerror or str(cause or record.getMessage())


FAILURES = _Failures()


def _listen() -> None:
    """Replace the handlers of DVC's loggers with FAILURES, so that DVC prints nothing."""
    from dvc.logger import setup

    setup(logging.WARNING)
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).handlers = [FAILURES]


def _words(error: Exception, reason: str = "") -> str:
    """Return an error of DVC, which may have many lines, as one line."""
    return " ".join(f"{str(error).rstrip('.')}{f': {reason}' if reason else ''}".split())


def _patiently(call: Callable[[], Answer]) -> Answer:
    """Return the result of `call`, and repeat it while another process holds DVC's lock.

    DVC itself waits only 3 s for its lock. The lock is never broken, because its owner may be writing.

    Raises:
        LockError: the lock was held for LOCK_SECONDS.
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
def _translated(verb: str, target: object) -> Iterator[None]:
    """Raise DVC's exceptions as this package's errors: "Could not <verb> <target> ..."."""
    from dvc.exceptions import CheckoutError, DvcException, FileTransferError
    from dvc.lock import LockError
    from dvc_objects.errors import ObjectDBError, ObjectFormatError

    FAILURES.reason = ""
    try:
        yield
    except (FileTransferError, CheckoutError) as error:
        why = _words(error, FAILURES.reason)
        raise StorageError(
            f"Could not {verb} {target} ({why}); check the DVC remote and the disk, then run again."
        ) from error
    except LockError as error:
        held = f"another process has held DVC's lock for {LOCK_SECONDS:.0f} s"
        raise StorageError(f"Could not {verb} {target}: {held}; wait for its end, then run again.") from error
    except (ObjectDBError, ObjectFormatError) as error:
        raise StorageError(
            f"Could not {verb} {target}: {_words(error)}; check the DVC remote, then run again."
        ) from error
    except DvcException as error:
        if full := disk_refused(error):
            raise StorageError(
                f"Could not {verb} {target}: {full.strerror}; check the disk, then run again."
            ) from error
        raise DataError(f"DVC could not {verb} {target}: {_words(error)}.") from error
    except sqlite3.DatabaseError as error:  # DVC keeps notes of files in SQLite
        raise StorageError(
            f"Could not {verb} {target}: DVC's notes: {error}; check the disk, then run again."
        ) from error
    except store_errors() as error:
        why = getattr(error, "strerror", None) or shown(str(error))
        raise StorageError(
            f"Could not {verb} {target}: {why}; check the disk or the remote, then run again."
        ) from error
