"""Costs of importing, versioning, validating and comparing data, against a ceiling or a peer."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.archive import CHUNK, plan, write_archive
from benchmarks.manifest import bench_manifest
from benchmarks.measure import Row, cost
from skumatch.config import Settings

SHARD = 256_000_000
FILE_BYTES = 12_000


def bench_import(folder: Path, images: int, skus: Sequence[str]) -> Iterator[Row]:
    """Measure the import of a made archive, and the storage of a version with 1 % new images.

    The import is compared with reading, hashing and decoding alone.

    Args:
        folder: working folder; it must not exist yet.
        images: number of images in the archive.
        skus: names of the archive's SKUs.
    """
    folder.mkdir(parents=True)
    archive, grown = folder / "delivery.zip", folder / "grown.zip"
    new = max(images // 100, 1)
    crops = plan(images, skus)
    write_archive(archive, crops)
    write_archive(grown, [*crops, *plan(new, skus[: max(new // 4, 2)], first=images)])
    read, hashed, decoded = (cost(passing, archive, level).seconds for level in (0, 1, 2))
    hash_s, decode_s = max(hashed - read, 0), max(decoded - hashed, 0)
    parts = f"ceiling: read {read:.1f} s, hash {hash_s:.1f} s, decode {decode_s:.1f} s"
    project = _project(folder / "project")
    imported = cost(import_version, archive, project)
    yield Row(
        "import / (read + hash + decode once)",
        imported.seconds / decoded,
        3,
        "x",
        f"{imported.seconds:.1f} s; {parts}",
    )
    yield Row("import, peak memory", imported.peak_mib, 1024, "MiB", f"{images:,} images")
    remote = project / "home" / "remote"
    store(project)
    before = size_of(remote)
    cost(import_version, grown, project)
    store(project)
    sent = (size_of(remote) - before) / before
    yield Row(
        "bytes sent for 1 % new images",
        100 * sent,
        2,
        "%",
        f"{(size_of(remote) - before) / 1e6:.1f} of {before / 1e6:.0f} MB, manifest and all",
    )
    week = folder / "week.zip"
    write_archive(week, plan(new, skus[: max(new // 4, 2)], first=images))
    yield from _bench_add(archive, week, _project(folder / "added"), new)


def _bench_add(archive: Path, week: Path, project: Path, new: int) -> Iterator[Row]:
    """Measure adding a week's delivery against importing everything: time and bytes sent to the remote."""
    remote = project / "home" / "remote"
    whole = cost(import_and_store, archive, project).seconds
    before = size_of(remote)
    added = cost(add_version, week, project).seconds
    sent = size_of(remote) - before
    detail = f"{added:.1f} s against {whole:.1f} s, {new:,} pictures"
    yield Row("data add of 1 % / import of all", added / whole, 0.1, "x", detail)
    yield Row(
        "bytes sent: data add of 1 % / import of all",
        sent / before,
        0.1,
        "x",
        f"{sent / 1e6:.1f} of {before / 1e6:.0f} MB",
    )


def import_and_store(archive: Path, project: Path) -> int:
    """Do all that `skumatch data import` does: import, then store; return the number of images."""
    images = import_version(archive, project)
    store(project)
    return images


def add_version(week: Path, project: Path) -> int:
    """Do all that `skumatch data add` does; return the number of pictures added."""
    from skumatch.data.delivery.additions import add
    from skumatch.pipeline.data_versions import Reason, change

    settings = Settings(project=project, home=project / "home")
    changed = change(
        settings, "add", lambda version, taken: add(version, week, taken, "train", 32), Reason("bench"), ()
    )
    return len(changed.pictures.added)


def passing(archive: Path, level: int) -> int:
    """Read every entry of a zip (level 0), hash it, too (1), decode it, too (2), on all cores.

    Returns:
        The number of entries.
    """
    from skumatch.data.images import decode

    def process(data: bytes) -> None:
        hashlib.sha256(data).digest()
        if level > 1:
            decode(data)

    with zipfile.ZipFile(archive) as zipped, ThreadPoolExecutor(os.cpu_count()) as pool:
        entries = zipped.infolist()
        for start in range(0, len(entries), CHUNK):
            part = [zipped.read(entry) for entry in entries[start : start + CHUNK]]
            if level:
                list(pool.map(process, part))
    return len(entries)


def import_version(archive: Path, project: Path) -> int:
    """Import into `project`/data, as `skumatch data import` does; return the number of images."""
    from skumatch.data.delivery.importer import import_data

    return import_data(archive, project / "data").images


def store(project: Path) -> str:
    """Run DVC's add and push on the data, as `skumatch data import` does."""
    from skumatch.pipeline.repository import Repository

    return Repository(project, Settings(project=project, home=project / "home")).add("data")


def _project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def size_of(folder: Path) -> int:
    """Return the size in bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def bench_dvc(folder: Path, files: int) -> Iterator[Row]:
    """Measure DVC's add, checkout and status on shards against the same bytes as loose files."""
    rng = np.random.default_rng(0)
    loose, shards = folder / "loose" / "data", folder / "shards" / "data"
    shards.mkdir(parents=True)
    per_shard = SHARD // FILE_BYTES
    for start in range(0, files, per_shard):
        with tarfile.open(shards / f"{start // per_shard:05d}.tar", "w") as tar:
            for number in range(start, min(start + per_shard, files)):
                path = loose / f"{number // 500:04d}" / f"{number:06d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(rng.bytes(FILE_BYTES))
                tar.add(path, str(path.relative_to(loose)))
    seconds = {data.parent.name: dvc_times(data.parent) for data in (shards, loose)}
    for name, shards_s in seconds["shards"].items():
        loose_s = seconds["loose"][name]
        yield Row(
            f"dvc {name}: loose files / shards",
            loose_s / shards_s,
            5,
            "x",
            f"{loose_s:.1f} s against {shards_s:.1f} s, {files:,} files",
            "more",
        )


def dvc_times(folder: Path) -> dict[str, float]:
    """Return the seconds of `dvc add`, `dvc checkout` after the data was removed, and `dvc status`.

    The cache uses hard links, as in skumatch's projects.
    """

    def dvc(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, check=True, capture_output=True)

    dvc("init", "--no-scm")
    dvc("config", "cache.type", "hardlink,copy")
    dvc("config", "core.analytics", "false")
    add = timed(lambda: dvc("add", "data"))
    shutil.rmtree(folder / "data")
    return {"add": add, "checkout": timed(lambda: dvc("checkout")), "status": timed(lambda: dvc("status"))}


def timed(call: Callable[[], Any]) -> float:
    """Return the wall time of a call in seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bench_data(folder: Path, images: int, rows: int, files: int, skus: Sequence[str]) -> Iterator[Row]:
    """Run all benchmarks of data, and yield each row as soon as it is measured.

    Args:
        folder: working folder.
        images: number of images of the made archive that is imported.
        rows: number of rows of the made manifest that is validated and searched for duplicates.
        files: number of loose files that DVC is compared on.
        skus: names of SKUs.
    """
    yield from bench_import(folder / "import", images, skus)
    yield from bench_manifest(folder / "manifest", rows, skus)
    yield from bench_dvc(folder / "dvc", files)
