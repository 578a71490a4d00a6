"""The DVC remote: read, written, and whether it has the data."""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import yaml
from fsspec.implementations.local import LocalFileSystem

from skumatch.config import shown
from skumatch.doctor.finding import Place, Problem, refusals
from skumatch.files import file_system
from skumatch.pipeline.repository import Repository

BUCKETS = (
    "s3://",
    "s3a://",
    "gs://",
    "gcs://",
    "abfs://",
    "az://",
    "oss://",
)  # no folders: making one would make the bucket


def remote(place: Place) -> str:
    """Write something small, read it back, and remove it: what every task and every checkpoint does."""
    url, text = place.settings.remote_url, uuid.uuid4().hex
    began = time.monotonic()
    try:
        fs, root = file_system(url)
        back = _round_trip(fs, root, text)
    except refusals() as error:
        said = f"{shown(url)} can't be written and read ({type(error).__name__}: {shown(' '.join(str(error).split()))[:200]})"
        raise Problem(
            said, "Check the address (SKUMATCH_REMOTE), its rights, and the credentials in the environment."
        ) from error
    if back != text:
        raise Problem(
            f"{shown(url)} gave back something else than was written",
            "Check the store: nothing in it can be trusted.",
        )
    return f"{shown(url)}, written, read and removed in {time.monotonic() - began:.1f} s"


def _round_trip(fs: Any, root: str, text: str) -> str:
    """What is read of `text` after it was written; nothing of it stays, nor a folder that had to be made."""
    path, made = f"{root}/doctor-{text}", _absent(fs, root)
    try:
        if not fs.unstrip_protocol(root).startswith(BUCKETS):
            fs.makedirs(root, exist_ok=True)
        try:
            fs.pipe_file(path, text.encode())
            return str(fs.cat_file(path).decode())
        finally:
            if fs.exists(path):
                fs.rm_file(path)
    finally:
        for folder in made:
            if folder.is_dir():
                folder.rmdir()


def _absent(fs: Any, root: str) -> list[Path]:
    """The folders of a disk that are not there yet, the innermost first."""
    return (
        [path for path in (Path(root), *Path(root).parents) if not path.exists()]
        if isinstance(fs, LocalFileSystem)
        else []
    )


def data(place: Place) -> str:
    """Whether the remote has every file of the data version that the next run would train on, as DVC sees it."""
    there = pointed(place)
    if not there:
        fix = "Import some with `skumatch data import PATH`, or check out the commit that has it."
        raise Problem("there is no data yet (data.dvc)", fix, "warning")
    md5 = str(there["md5"])
    with tempfile.TemporaryDirectory() as folder:  # a DVC of its own, so that the project's stays as it is
        aside = place.settings.model_copy(
            update={"home": Path(folder) / "home", "remote": place.settings.remote_url}
        )
        gone = Repository(Path(folder), aside).lacking(md5)
    if gone:
        what = (
            f"{len(gone)} files of data version {md5[:12]}"
            if md5 not in gone
            else f"the data version {md5[:12]}"
        )
        raise Problem(f"the remote lacks {what}", "Push it from where it was imported: `dvc push data.dvc`.")
    return f"version {md5[:12]} is in the remote ({there.get('size', 0) / 2**20:,.0f} MiB)"


def pointed(place: Place) -> dict[str, Any]:
    """What data.dvc says of the data: md5, size; empty where there is none."""
    path = place.settings.project / "data.dvc"
    if not path.is_file():
        return {}
    try:
        found = dict(yaml.safe_load(path.read_text("utf-8"))["outs"][0])
        return found | {"md5": str(found["md5"])}
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError) as error:
        raise Problem("data.dvc can't be read", "Restore it: git checkout -- data.dvc") from error
