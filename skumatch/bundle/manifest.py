"""bundle.json: the parts of a bundle's folder with their hashes; it is read before any part."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skumatch.errors import BundleError
from skumatch.files import read_json, sha256

FORMAT: Final = "skumatch-bundle-2"
READ = ("skumatch-bundle-1", FORMAT)
FAMILY = "skumatch-bundle-"
MANIFEST = "bundle.json"
WEIGHTS, ENCODER = "encoder/encoder.safetensors", "encoder/encoder.json"
GALLERY, LABELS, THRESHOLDS, TRAINING = (
    "gallery.parquet",
    "labels.json",
    "thresholds.json",
    "training.parquet",
)
PARTS = (WEIGHTS, ENCODER, GALLERY, LABELS, THRESHOLDS, TRAINING)
MAX_MANIFEST_BYTES = 1 << 20

Hex = Field(pattern=r"^[0-9a-f]{64}$")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Part(_Model):
    """A file of the bundle.

    Attributes:
        sha256: its hash.
        size: its size in bytes.
    """

    sha256: str = Hex
    size: int = Field(ge=0)


class BundleCounts(_Model):
    """Numbers of pictures and products.

    Attributes:
        gallery: gallery pictures.
        skus: SKUs in the gallery.
        training: training pictures.
    """

    gallery: int = Field(ge=1)
    skus: int = Field(ge=1)
    training: int = Field(ge=0)


class Manifest(_Model):
    """The contents of bundle.json, whose own SHA-256 is the bundle's hash.

    Attributes:
        format: the bundle's format.
        dim: length of a vector.
        counts: numbers of pictures and products.
        parts: the parts by their path in the folder.
    """

    format: Literal["skumatch-bundle-1", "skumatch-bundle-2"]
    dim: int = Field(ge=1)
    counts: BundleCounts
    parts: dict[str, Part]


def bundle_hash(folder: Path) -> str:
    """Return the bundle's hash, the SHA-256 of its bundle.json.

    Raises:
        BundleError: the folder has no bundle.json.
    """
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise BundleError(
            f"{folder} is no bundle: it has no {MANIFEST}; give a folder written by the bundle stage."
        )
    return sha256(path)


def read_manifest(folder: Path) -> Manifest:
    """Read bundle.json.

    Raises:
        BundleError: the file is no manifest, or of a format that this skumatch doesn't know.
    """
    path = folder / MANIFEST
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is too large to be a bundle's manifest; fetch the bundle again.")
    try:
        tree = read_json(path)
        kind = tree.get("format") if isinstance(tree, dict) else None
        if isinstance(kind, str) and kind.startswith(FAMILY) and kind not in READ:
            readable = f"this skumatch reads {' and '.join(READ)}"
            raise BundleError(
                f"The bundle in {folder} has format {kind[:40]}, {readable}; install a newer skumatch."
            )
        manifest = Manifest.model_validate(tree)
    except (ValidationError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} can't be read as a bundle's manifest; fetch the bundle again.") from error
    if set(manifest.parts) != set(PARTS):
        raise BundleError(f"{path} doesn't list the parts of a {manifest.format}; fetch the bundle again.")
    return manifest


def check_files(folder: Path) -> None:
    """Check that the folder holds the manifest and its parts as plain files, and nothing else.

    Raises:
        BundleError: a file is missing, a link, or no part of a bundle.
    """
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    for name in sorted(names - {MANIFEST, *PARTS}):
        raise BundleError(f"The bundle in {folder} holds {name}, which is no part of it; remove that file.")
    for name in PARTS:
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise BundleError(f"The bundle in {folder} lacks {name}; fetch the bundle again.")
