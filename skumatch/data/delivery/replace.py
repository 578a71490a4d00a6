"""Atomic replacement of a folder, by one import at a time, even if an import is killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from skumatch.errors import StorageError


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the exclusive right to change `root`; the holder may enter it again.

    Raises:
        StorageError: if another process holds it, or the disk refuses.
    """
    path = root.with_name(f".{root.name}.lock")
    lock = FileLock(path, timeout=0, is_singleton=True)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        other = f"Another import into {root}, or a change of it, is running"
        raise StorageError(f"{other}; wait for its end, then run again.") from error
    except OSError as error:
        raise StorageError(
            f"Could not write {path}: {error.strerror or error}; free some space, then import again."
        ) from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            # Remove the file before the release: a waiting process checks that the file is still there.
            path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def aside(root: Path) -> Iterator[Path]:
    """Yield a new folder beside `root`, and remove it afterwards; call it within `exclusive`.

    First `recover` cleans up after a killed import.
    """
    recover(root)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.new.", dir=root.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def swap(new: Path, root: Path) -> None:
    """Move the folder `new` to `root`, in place of the one that is there."""
    old = _old(root)
    new.chmod(0o755)
    if root.exists():
        root.rename(old)
    new.rename(root)
    shutil.rmtree(old, ignore_errors=True)


def recover(root: Path) -> None:
    """Clean up after killed imports.

    Restore `root` if a swap was killed between its two renames, and remove leftover folders beside it.
    """
    old = _old(root)
    if old.exists() and not root.exists():
        old.rename(root)
    shutil.rmtree(old, ignore_errors=True)
    for left in root.parent.glob(f".{root.name}.new.*"):
        shutil.rmtree(left, ignore_errors=True)


def _old(root: Path) -> Path:
    return root.with_name(f".{root.name}.old")
