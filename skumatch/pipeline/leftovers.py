"""Folders that killed processes left in this machine's home: workspaces of runs, of audits and of reproductions."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from skumatch.files import disk_errors

HOURS = 48  # a long task is in its folder, which counts too
PRIVATE = re.compile(
    r"([a-z]+-|tmp)[a-z0-9_]{8}"
)  # as tempfile names them for worker, pull, audit and reproduce


def leftovers(home: Path, now: float) -> dict[Path, int]:
    """Folder -> bytes, of those in which nothing changed for two days and no process is.

    Links are neither taken nor followed.
    """
    busy = _working_folders()
    found = {}
    for folder in _private(home):
        touched, size = _measured(folder)
        if now - touched > HOURS * 3600 and not any(place.is_relative_to(folder) for place in busy):
            found[folder] = size
    return found


def _private(home: Path) -> Iterator[Path]:
    for name in ("audit", "again"):
        yield from _folders(path for path in home.glob(f"{name}-*") if PRIVATE.fullmatch(path.name))
    root = home / "workspaces"
    for path in _folders(root.iterdir() if root.is_dir() and not root.is_symlink() else ()):
        inside = list(path.iterdir())
        if PRIVATE.fullmatch(path.name) or not inside:  # of a pull; or of a run that has ended
            yield path
        else:
            yield from _folders(one for one in inside if PRIVATE.fullmatch(one.name))


def _folders(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in sorted(paths) if path.is_dir() and not path.is_symlink())


def _measured(folder: Path) -> tuple[float, int]:
    """When something in it changed last, in seconds since 1970, and its bytes."""
    stats = [folder.lstat()]
    for root, folders, files in os.walk(folder):
        stats += [stat for name in (*folders, *files) if (stat := _stat(Path(root) / name))]
    return max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats[1:])


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:  # what is at work there removed it meanwhile
        return None


def _working_folders() -> set[Path]:
    """Where processes of this machine are at work, as far as we may see."""
    found = (process.info["cwd"] for process in psutil.process_iter(["cwd"]))
    return {Path(place) for place in found if place}


def remove(folders: Iterable[Path]) -> None:
    """Delete whole folders; what links in them lead to stays. Raises StorageError."""
    with disk_errors("this machine's home"):
        for folder in folders:
            if folder.exists():
                shutil.rmtree(folder)
