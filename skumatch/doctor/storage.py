"""The DVC remote: read, written, and whether it has the data."""

from __future__ import annotations

import time
import uuid

import fsspec

from skumatch.config import shown
from skumatch.doctor.finding import Place, Problem
from skumatch.doctor.installation import pointed
from skumatch.files import store_errors


def remote(place: Place) -> str:
    """Write something small, read it back, and remove it: what every task and every checkpoint does."""
    url, text = place.settings.remote_url, uuid.uuid4().hex
    began = time.monotonic()
    fs, root = fsspec.core.url_to_fs(url)
    path = f"{root.rstrip('/')}/doctor-{text}"
    refused: tuple[type[Exception], ...] = (*store_errors(), ValueError)
    try:
        fs.makedirs(root, exist_ok=True)
        fs.pipe_file(path, text.encode())
        back = fs.cat_file(path).decode()
        fs.rm_file(path)
    except refused as error:
        said = f"{shown(url)} can't be written and read ({type(error).__name__}: {shown(str(error))[:200]})"
        raise Problem(said, "Check the address, its rights, and the credentials in the environment.") from error
    if back != text:
        raise Problem(f"{shown(url)} gave back something else than was written", "Check the store: nothing in it can be trusted.")
    return f"{shown(url)}, written, read and removed in {time.monotonic() - began:.1f} s"


def data(place: Place) -> str:
    """Whether the remote has the data version that the next run would train on."""
    md5 = str(pointed(place).get("md5", ""))
    if not md5:
        raise Problem("there is no data yet (data.dvc)", "Import some with `skumatch data import`.", "skipped")
    fs, root = fsspec.core.url_to_fs(place.settings.remote_url)
    if not fs.exists(f"{root.rstrip('/')}/files/md5/{md5[:2]}/{md5[2:]}"):
        raise Problem(f"the remote lacks the data version {md5[:12]}", "Push it from where it was imported: `dvc push data.dvc`.")
    return f"data version {md5[:12]} is in the remote"
