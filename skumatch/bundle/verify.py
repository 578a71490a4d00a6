"""Verify a bundle's folder: every part is unchanged, and all parts belong to one model."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from skumatch.bundle.manifest import (
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
from skumatch.bundle.parts import MADE_FOR, labels_of, made_with, parsing, read_object, read_texts
from skumatch.errors import BundleError
from skumatch.files import sha256


def verify_bundle(folder: Path, expected: str | None = None) -> Manifest:
    """Verify all parts of a bundle; no part is parsed before all are hashed.

    Args:
        folder: the bundle's folder.
        expected: the hash that the bundle has to have; None for any.

    Returns:
        The bundle's manifest.

    Raises:
        BundleError: a file is missing, changed, unexpected or of another model (the message names it), the
            format is unknown, or the bundle's hash isn't `expected`.
    """
    computed = bundle_hash(folder)
    if expected is not None and computed != expected:
        raise BundleError(
            f"The bundle in {folder} has hash {computed[:12]}, not {expected[:12]} as recorded; "
            "fetch it again."
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
    """Check that each part was made with the other parts of this bundle.

    A part names the hash of the part that it was made with. So a part of another model is detected even if
    bundle.json was rewritten to match it. Parts of format 1 name fewer hashes; those that they name are
    checked too.
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
    """Check the labels and the counts of gallery and training pictures, since matching relies on them."""
    with parsing(folder / GALLERY):
        labels = labels_of(read_texts(folder / GALLERY, "sku"))
    with parsing(folder / TRAINING):
        training = pq.read_metadata(folder / TRAINING).num_rows
    if read_object(folder / LABELS) != labels:
        raise _stranger(folder, LABELS, GALLERY)
    images = labels["gallery_images"]
    counts = {"gallery": sum(images.values()), "skus": len(images), "training": training}
    if manifest.counts.model_dump() != counts:
        raise BundleError(
            f"{MANIFEST} in {folder} counts other pictures than its parts hold; fetch the bundle again."
        )


def _stranger(folder: Path, part: str, other: str) -> BundleError:
    return BundleError(
        f"{part} of the bundle in {folder} doesn't belong to the {other} beside it; fetch the bundle again."
    )
