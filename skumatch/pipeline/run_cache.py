"""DVC's run cache, which knows the results of earlier runs: of it, only what the other side lacks is copied."""

from __future__ import annotations

from typing import Any

from dvc.stage.cache import StageCache
from dvc_objects.fs.generic import copy

from skumatch.pipeline.retention import RESULT


class RunCache(StageCache):  # type: ignore[misc]  # DVC has no types
    """DVC itself copies all entries before and after each stage, and every run adds some."""

    def transfer(self, from_odb: Any, to_odb: Any, force: bool = True) -> list[tuple[str, str]]:  # noqa: ARG002  # as DVC calls it
        """Copy the entries that `to_odb` lacks, and return their keys and values.

        An entry's name is the hash of what it says.
        """
        lacking = sorted(_entries(from_odb) - _entries(to_odb))
        for entry in lacking:
            source, target = (odb.fs.join(odb.path, *entry.split("/")) for odb in (from_odb, to_odb))
            copy(from_odb.fs, source, to_odb.fs, target)
        return [(key, value) for _, _, key, value in (entry.split("/") for entry in lacking)]


def _entries(odb: Any) -> set[str]:
    """The entries' names below the store, as `runs/../KEY/VALUE`; what has another form is none."""
    root = odb.fs.join(odb.path, "runs")
    found = odb.fs.find(root) if odb.fs.exists(root) else []
    return {
        name for path in found if RESULT.fullmatch(name := odb.fs.as_posix(odb.fs.relpath(path, odb.path)))
    }
