"""Whether a folder is the bundle it says it is: every part unchanged, and of one model."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from skumatch.errors import BundleError
from skumatch.files import sha256
from skumatch.release.bundle.manifest import (
    ENCODER,
    FORMAT,
    GALLERY,
    LABELS,
    MANIFEST,
    THRESHOLDS,
    TRAINING,
    WEIGHTS,
    Manifest,
    bundle_hash,
    check_files,
    read_manifest,
)  # fmt: skip
from skumatch.release.bundle.parts import MADE_FOR, labels_of, made_with, parsing, read_object


def verify_bundle(folder: Path, expected: str | None = None) -> Manifest:
    """Hash every part, parsing none before, see that they belong together, and return the manifest.

    Raises BundleError, naming the file, if one is missing, changed, too many or of another model, if the
    format is of another version, or if the bundle's hash isn't `expected`.
    """
    found = bundle_hash(folder)
    if expected is not None and found != expected:
        raise BundleError(
            f"The bundle in {folder} has hash {found[:12]}, not {expected[:12]} as recorded; fetch it again."
        )
    manifest = read_manifest(folder)
    check_files(folder)
    for name, part in manifest.parts.items():
        if (folder / name).stat().st_size != part.size or sha256(folder / name) != part.sha256:
            raise BundleError(
                f"{name} of the bundle in {folder} was changed after it was written; fetch the bundle again."
            )
    _check_belonging(folder, manifest)
    _check_counts(folder, manifest)
    return manifest


def _check_belonging(folder: Path, manifest: Manifest) -> None:
    """Each part names what it was made with, so one of another model is seen even where bundle.json was rewritten to fit it.

    Parts of format 1 named the weights only; what they do name is looked at all the same.
    """
    named = {
        (ENCODER, WEIGHTS): read_object(folder / ENCODER).get("sha256", ""),
        (GALLERY, ENCODER): made_with(folder / GALLERY),
        (TRAINING, ENCODER): made_with(folder / TRAINING),
        (THRESHOLDS, GALLERY): read_object(folder / THRESHOLDS).get(MADE_FOR),
    }
    for (part, other), digest in named.items():
        silent = digest is None and manifest.format != FORMAT
        if not silent and digest != manifest.parts[other].sha256:
            raise _stranger(folder, part, other)


def _check_counts(folder: Path, manifest: Manifest) -> None:
    """What is said of gallery and training pictures is counted again: matching relies on it."""
    with parsing(folder / GALLERY):
        skus = pq.read_table(folder / GALLERY, columns=["sku"])["sku"].to_pylist()
    with parsing(folder / TRAINING):
        training = pq.read_metadata(folder / TRAINING).num_rows
    if read_object(folder / LABELS) != labels_of(skus):
        raise _stranger(folder, LABELS, GALLERY)
    if manifest.counts.model_dump() != {"gallery": len(skus), "skus": len(set(skus)), "training": training}:
        raise BundleError(
            f"{MANIFEST} in {folder} counts other pictures than its parts hold; fetch the bundle again."
        )


def _stranger(folder: Path, part: str, other: str) -> BundleError:
    return BundleError(
        f"{part} of the bundle in {folder} doesn't belong to the {other} beside it; fetch the bundle again."
    )
