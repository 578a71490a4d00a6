"""Find the versions that were given a picture or a SKU, and its role in each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
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
from skumatch.errors import ParameterError, ReferenceNotFound, SkumatchError
from skumatch.pipeline.repository import Repository, pointer
from skumatch.registry.labels import nameable
from skumatch.registry.registry import RELEASE_TAG, TRAINED_TAG, ModelRef, Registry
from skumatch.registry.tracking import KIND_TAG
from skumatch.stages import artefacts
from skumatch.texts import alike, did_you_mean, visible

SHORTEST = 8  # least digits of an abbreviated hash
LONGEST = 80  # most characters of a name in an error message
ROLES = artefacts.ROLES.logged()


@dataclass(frozen=True)
class Wanted:
    """A query for pictures, by SKU or by hash.

    Attributes:
        sku: Name of the SKU, in any equivalent spelling; None to search by hash.
        hashes: SHA-256 digests of a picture's bytes or pixels, each at least 8 digits long.
    """

    sku: str | None = None
    hashes: tuple[str, ...] = ()

    def among(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the matching rows of a table with the columns sku, sha256 and pixels."""
        if self.sku is not None:
            return rows[rows["sku"].map(alike).eq(alike(self.sku))]
        hits = [rows[name].str.startswith(digest) for name in ("sha256", "pixels") for digest in self.hashes]
        return rows[pd.concat(hits, axis=1).any(axis=1)]


@dataclass(frozen=True)
class Use:
    """The wanted pictures that one version was given.

    Attributes:
        ref: The version.
        rows: One row per picture (id, sku, sha256, pixels, role); None if the version's record can't be read.
        reason: The reason why the record can't be read; else empty.
    """

    ref: ModelRef
    rows: pd.DataFrame | None
    reason: str = ""


def picture(name: str) -> Wanted:
    """Return the query for a picture, given by its file or by its hash.

    Args:
        name: Path of the picture, or at least the first 8 digits of the SHA-256 of its bytes or pixels.

    Raises:
        ParameterError: The name is neither a file nor a hash.
        ImageError: The file is no picture.
    """
    path = expanded(name)
    if _is_file(path):
        data = path.read_bytes()
        return Wanted(hashes=(sha256(data).hexdigest(), pixel_hash(decode(data))))
    digest = name.lower()
    if len(digest) < SHORTEST or set(digest) - set("0123456789abcdef"):
        shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
        raise ParameterError(
            f"'{shown}' (--image) is no file and no hash;"
            f" give a picture, or {SHORTEST} or more digits of its SHA-256."
        )
    return Wanted(hashes=(digest,))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def uses(settings: Settings, registry: Registry, wanted: Wanted) -> Iterator[Use]:
    """Yield for each version, newest first, the wanted pictures that it was given.

    The run of a refresh trains nothing, so its gallery's pictures have the role `gallery`. A version whose
    encoder was trained in an earlier version's run also gets the pictures that that run trained on or
    validated with.

    Args:
        settings: Address of the DVC remote, which has the manifests.
        registry: The registry that has the versions.
        wanted: The query for pictures.
    """
    manifests: dict[str, pd.DataFrame] = {}

    def given(ref: ModelRef) -> pd.DataFrame:
        """Return the wanted pictures of a version's data, with their roles in its run."""
        split = pd.read_parquet(BytesIO(registry.artifact(ref.run_id, ROLES)))[["id", "role"]]
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
                trainer = given(registry.resolve(ref.tags[TRAINED_TAG]))
                trained = trainer[trainer["role"].isin(["train", "val"])]
                rows = pd.concat([rows[~rows["id"].isin(trained["id"])], trained], ignore_index=True)
            yield Use(ref, rows)
        except SkumatchError as error:
            yield Use(ref, None, str(error))
        except UNREADABLE as error:
            yield Use(
                ref,
                None,
                f"{ROLES} in MLflow, or the manifest, can't be read ({type(error).__name__}).",
            )


def check_sku(registry: Registry, sku: str, by_version: Sequence[Use]) -> None:
    """Check that a SKU is known to a version, so that a mistyped name isn't answered with zeros.

    Args:
        registry: The registry that has the versions.
        sku: The name, in any equivalent spelling.
        by_version: Its pictures in every version.

    Raises:
        ReferenceNotFound: No version was given pictures of it, and no gallery has it.
    """
    if any(use.rows is None or len(use.rows) for use in by_version):
        return
    names: set[str] = set()
    for use in by_version:
        try:
            names |= nameable(registry, use.ref)
        except SkumatchError:  # a version that might have known it
            return
    if alike(sku) not in map(alike, names):
        raise ReferenceNotFound(
            f"{did_you_mean(sku, names)}No version of '{registry.model_name}' knows a SKU '{visible(sku)}'; "
            "correct the name."
        )


def _manifest(settings: Settings, data: str) -> pd.DataFrame:
    """Fetch a data version's manifest from the remote."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "data.dvc").write_text(pointer(data, "data"), "utf-8")
        Repository(root, settings).pull("data/manifest.parquet")
        return read_manifest(root / "data")[["id", "sku", "sha256", "pixels"]]
