"""Find and delete folders that killed processes left in this machine's home.

They are workspaces of runs, of audits and of reproductions.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from skumatch.files import disk_errors

# Age of a leftover. The folder of a longer task is recognised by the process in it.
HOURS = 48
# Names that tempfile makes for worker, pull, audit and reproduce.
PRIVATE = re.compile(r"([a-z]+-|tmp)[a-z0-9_]{8}")


def leftovers(home: Path, now: float) -> dict[Path, int]:
    """Return folder -> size in bytes of the folders that killed processes left.

    These are folders in which nothing changed for two days, and in which no process has its current folder.
    Links are neither returned nor followed.

    Args:
        home: this machine's home of skumatch.
        now: in seconds since 1970.
    """
    busy = _working_folders()
    sizes = {}
    for folder in _private(home):
        touched, size_bytes = _measured(folder)
        if now - touched > HOURS * 3600 and not any(place.is_relative_to(folder) for place in busy):
            sizes[folder] = size_bytes
    return sizes


def _private(home: Path) -> Iterator[Path]:
    """Yield the private folders of tasks, audits and reproductions, and empty folders of runs."""
    for name in ("audit", "again"):
        yield from _folders(path for path in home.glob(f"{name}-*") if PRIVATE.fullmatch(path.name))
    root = home / "workspaces"
    for path in _folders(root.iterdir() if root.is_dir() and not root.is_symlink() else ()):
        inside = list(path.iterdir())
        if PRIVATE.fullmatch(path.name) or not inside:  # of a pull; or of a run that has ended
            yield path
        else:
            yield from _folders(child for child in inside if PRIVATE.fullmatch(child.name))


def _folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Return those of the paths that are folders and no links, in order."""
    return (path for path in sorted(paths) if path.is_dir() and not path.is_symlink())


def _measured(folder: Path) -> tuple[float, int]:
    """Return when something in a folder changed last, in seconds since 1970, and its size in bytes."""
    stats = [folder.lstat()]
    for root, folders, files in os.walk(folder):
        stats += [stat for name in (*folders, *files) if (stat := _stat(Path(root) / name))]
    return max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats[1:])


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:  # a process at work there removed it meanwhile
        return None


def _working_folders() -> set[Path]:
    """Return the current folders of this machine's processes, as far as this user may see them."""
    folders = (process.info["cwd"] for process in psutil.process_iter(["cwd"]))
    return {Path(folder) for folder in folders if folder}


def remove(folders: Iterable[Path]) -> None:
    """Delete folders with all their files; targets of links in them stay.

    Raises:
        StorageError: the disk refuses.
    """
    with disk_errors("this machine's home"):
        for folder in folders:
            if folder.exists():
                shutil.rmtree(folder)
