"""Checks of the DVC remote: read and write access, and the data's presence."""

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
from skumatch.texts import counted

# Addresses of stores without folders: making a folder there would make the bucket.
BUCKETS = (
    "s3://",
    "s3a://",
    "gs://",
    "gcs://",
    "abfs://",
    "az://",
    "oss://",
)


def remote(place: Place) -> str:
    """Write a small file to the remote, read it back and remove it, as tasks and checkpoints do."""
    url, text = place.settings.remote_url, uuid.uuid4().hex
    began = time.monotonic()
    try:
        fs, root = file_system(url)
        back = _round_trip(fs, root, text)
    except refusals() as error:
        detail = shown(" ".join(str(error).split()))[:200]
        raise Problem(
            f"{shown(url)} can't be written and read ({type(error).__name__}: {detail})",
            "Check the address (SKUMATCH_REMOTE), its rights, and the credentials in the environment.",
        ) from error
    if back != text:
        raise Problem(
            f"{shown(url)} gave back something else than was written",
            "Check the store: nothing in it can be trusted.",
        )
    return f"{shown(url)}, written, read and removed in {time.monotonic() - began:.1f} s"


def _round_trip(fs: Any, root: str, text: str) -> str:
    """Write `text` to a file in the remote and return what is read back.

    The file is removed, and so is every folder that had to be made for it.
    """
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
    """Return the folders on the way to a local `root` that don't exist yet, the innermost first."""
    return (
        [path for path in (Path(root), *Path(root).parents) if not path.exists()]
        if isinstance(fs, LocalFileSystem)
        else []
    )


def data(place: Place) -> str:
    """Check that the remote has every file of the data version that the next run would use, by DVC."""
    pointer = pointed(place)
    if not pointer:
        fix = "Import some with `skumatch data import PATH`, or check out the commit that has it."
        raise Problem("there is no data yet (data.dvc)", fix, "warning")
    md5 = str(pointer["md5"])
    with tempfile.TemporaryDirectory() as folder:  # a DVC of its own, so that the project's stays as it is
        private = place.settings.model_copy(
            update={"home": Path(folder) / "home", "remote": place.settings.remote_url}
        )
        lacking = Repository(Path(folder), private).lacking(md5)
    if lacking:
        subject = (
            f"{counted(len(lacking), 'file')} of data version {md5[:12]}"
            if md5 not in lacking
            else f"the data version {md5[:12]}"
        )
        raise Problem(
            f"the remote lacks {subject}",
            "Send it again on the machine that imported it: `skumatch data push`.",
        )
    return f"version {md5[:12]} is in the remote ({pointer.get('size', 0) / 2**20:,.0f} MiB)"


def pointed(place: Place) -> dict[str, Any]:
    """Return data.dvc's entry of the data (md5, size); empty without data.dvc.

    Raises:
        Problem: data.dvc can't be read.
    """
    path = place.settings.project / "data.dvc"
    if not path.is_file():
        return {}
    try:
        entry = dict(yaml.safe_load(path.read_text("utf-8"))["outs"][0])
        return entry | {"md5": str(entry["md5"])}
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError) as error:
        raise Problem("data.dvc can't be read", "Restore it: git checkout -- data.dvc") from error
