"""Which models a picture or a SKU went into, and as what."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pandas as pd

from skumatch.audit.link import UNREADABLE
from skumatch.config import Settings, expanded
from skumatch.data.images import decode, pixel_hash
from skumatch.data.manifest import read_manifest
from skumatch.data.split import GALLERY_ROLES
from skumatch.errors import ParameterError, SkumatchError
from skumatch.pipeline.repository import Repository, pointer
from skumatch.release.registry import RELEASE_TAG, TRAINED_TAG, ModelRef, Registry
from skumatch.release.tracking import KIND_TAG
from skumatch.texts import alike

SHORTEST = 8  # digits of a hash that is given in part
LONGEST = 80  # characters of a name that are told
SPLIT = "split/split.parquet"


@dataclass(frozen=True)
class Wanted:
    """What is looked for: a SKU's name, or hashes of a picture (of its bytes or of its pixels, the latter from 8 digits on)."""

    sku: str | None = None
    hashes: tuple[str, ...] = ()

    def among(self, rows: pd.DataFrame) -> pd.DataFrame:
        if self.sku is not None:
            return rows[rows["sku"].map(alike).eq(alike(self.sku))]
        found = [rows[name].str.startswith(digest) for name in ("sha256", "pixels") for digest in self.hashes]
        return rows[pd.concat(found, axis=1).any(axis=1)]


@dataclass(frozen=True)
class Use:
    """A version's pictures that were looked for: rows (id, sku, sha256, pixels, role).

    None where its record can't be read, and why.
    """

    ref: ModelRef
    rows: pd.DataFrame | None
    reason: str = ""


def picture(name: str) -> Wanted:
    """A picture by its file, or by (the first digits of) its hash.

    Raises ParameterError for neither, ImageError for no picture.
    """
    path = expanded(name)
    if _is_file(path):
        data = path.read_bytes()
        return Wanted(hashes=(sha256(data).hexdigest(), pixel_hash(decode(data))))
    digest = name.lower()
    if len(digest) < SHORTEST or set(digest) - set("0123456789abcdef"):
        shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
        raise ParameterError(
            f"'{shown}' (--image) is no file and no hash; give a picture, or {SHORTEST} or more digits of its SHA-256."
        )
    return Wanted(hashes=(digest,))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def uses(settings: Settings, registry: Registry, wanted: Wanted) -> Iterator[Use]:
    """What each version, newest first, was given of it."""
    manifests: dict[str, pd.DataFrame] = {}

    def given(ref: ModelRef) -> pd.DataFrame:
        """The wanted pictures of a version's data, with their roles in its run."""
        split = pd.read_parquet(BytesIO(registry.artifact(ref.run_id, SPLIT)))[["id", "role"]]
        data = ref.data or ""
        if data not in manifests:
            manifests[data] = _manifest(settings, data)
        return wanted.among(manifests[data].merge(split, on="id", validate="one_to_one"))

    for ref in registry.versions():
        try:
            rows = given(ref)
            if RELEASE_TAG in ref.tags or ref.tags.get(KIND_TAG) == "refresh":  # its run trained nothing
                rows["role"] = rows["role"].where(~rows["role"].isin(GALLERY_ROLES), "gallery")
            if TRAINED_TAG in ref.tags:
                before = given(registry.resolve(ref.tags[TRAINED_TAG]))
                learnt = before[before["role"].isin(["train", "val"])]
                rows = pd.concat([rows[~rows["id"].isin(learnt["id"])], learnt], ignore_index=True)
            yield Use(ref, rows)
        except SkumatchError as error:
            yield Use(ref, None, str(error))
        except UNREADABLE as error:
            yield Use(
                ref, None, f"{SPLIT} in MLflow, or the manifest, can't be read ({type(error).__name__})."
            )


def _manifest(settings: Settings, data: str) -> pd.DataFrame:
    """A data version's manifest, from the remote."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "data.dvc").write_text(pointer(data, "data"), "utf-8")
        Repository(root, settings).pull("data/manifest.parquet")
        return read_manifest(root / "data")[["id", "sku", "sha256", "pixels"]]
