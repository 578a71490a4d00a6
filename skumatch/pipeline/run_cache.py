"""DVC's run cache (the results of earlier runs), with transfers that copy only missing entries."""

from __future__ import annotations

import re
from typing import Any

from dvc.stage.cache import StageCache
from dvc_objects.fs.generic import copy

RESULT = re.compile(r"runs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")  # path of an entry


class RunCache(StageCache):  # type: ignore[misc]  # DVC has no types
    """A run cache that copies only the entries that the other side lacks.

    DVC's own copies all entries before and after each stage, and every run adds some.
    """

    def transfer(self, from_odb: Any, to_odb: Any, force: bool = True) -> list[tuple[str, str]]:  # noqa: ARG002  # as DVC calls it
        """Copy the entries that `to_odb` lacks, and return their keys and values.

        Entries of equal names are equal, because an entry's name is the hash of its content.

        Args:
            from_odb: DVC's object database to copy from.
            to_odb: the one to copy to.
            force: not used; DVC passes it.
        """
        lacking = sorted(_entries(from_odb) - _entries(to_odb))
        for entry in lacking:
            source = from_odb.fs.join(from_odb.path, *entry.split("/"))
            target = to_odb.fs.join(to_odb.path, *entry.split("/"))
            copy(from_odb.fs, source, to_odb.fs, target)
        return [(key, value) for _, _, key, value in (entry.split("/") for entry in lacking)]


def _entries(odb: Any) -> set[str]:
    """Return the entries' paths below the store, as `runs/../KEY/VALUE`; other files are left out."""
    root = odb.fs.join(odb.path, "runs")
    paths = odb.fs.find(root) if odb.fs.exists(root) else []
    names = (odb.fs.as_posix(odb.fs.relpath(path, odb.path)) for path in paths)
    return {name for name in names if RESULT.fullmatch(name)}
