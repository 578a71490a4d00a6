"""DVC's run cache, which knows the results of earlier runs: of it, only what the other side lacks is copied."""

from __future__ import annotations

from typing import Any

from dvc.stage.cache import StageCache
from dvc_objects.fs.generic import copy

FOLDER = "runs"


class RunCache(StageCache):  # type: ignore[misc]  # DVC has no types
    """DVC itself copies all entries before and after each stage, and every run adds some."""

    def transfer(self, from_odb: Any, to_odb: Any, force: bool = True) -> list[tuple[str, str]]:  # noqa: ARG002  # as DVC calls it
        """Copy the entries that `to_odb` lacks, and return their keys and values. An entry's name is the hash of what it says."""
        lacking = sorted(_entries(from_odb) - _entries(to_odb))
        for entry in lacking:
            source, target = (odb.fs.join(odb.path, FOLDER, *entry) for odb in (from_odb, to_odb))
            copy(from_odb.fs, source, to_odb.fs, target)
        return [(key, value) for _, key, value in lacking]


def _entries(odb: Any) -> set[tuple[str, ...]]:
    """The beginning of a key, the key, and the value of each entry; what has another form is none."""
    root = odb.fs.join(odb.path, FOLDER)
    if not odb.fs.exists(root):
        return set()
    found = {odb.fs.parts(odb.fs.relpath(path, root)) for path in odb.fs.find(root)}
    return {parts for parts in found if len(parts) == 3 and all(set(name) <= set("0123456789abcdef") for name in parts)}
