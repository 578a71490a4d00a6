"""Find the pictures that a person asks to erase, and the data versions and stores that have them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from skumatch.cleanup.holders import Contents, HeldVersion, look
from skumatch.cleanup.references import path_of
from skumatch.config import Settings
from skumatch.errors import DataError, ParameterError
from skumatch.pipeline.data_record import DataRecord
from skumatch.pipeline.inputs import data_pointer
from skumatch.pipeline.repository import md5_of
from skumatch.texts import alike, did_you_mean, visible

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Chosen:
    """Pictures to erase.

    Attributes:
        pixels: SHA-256 of each picture's bytes -> SHA-256 of its pixels.
        copies: how many of them were not named, but have the same pixels as a named one.
        current: MD5 of today's data version.
        versions: the data versions that have any of the pictures, today's first.
    """

    pixels: dict[str, str]
    copies: int
    current: str
    versions: list[HeldVersion]
    _contents: Contents

    @property
    def pictures(self) -> frozenset[str]:
        """SHA-256 of the pictures' bytes."""
        return frozenset(self.pixels)

    def stores(self) -> dict[str, int]:
        """Count the files that hold the pictures or their vectors, by kind of file and store in words."""
        shards = {digest for version in self.versions for digest in version.shards_of(self.pictures)}
        (cache, remote), (in_cache, in_remote) = self._contents.stores, self._contents.files
        indexes = [name for name in self._contents.vectors(self.pictures) if name.endswith(".json")]
        cached = sum(path_of(digest) in in_cache for digest in shards)
        return {
            f"the remote, {remote.shown}: shards": sum(path_of(digest) in in_remote for digest in shards),
            f"the remote, {remote.shown}: parts of vectors": len(indexes),
            f"this machine's cache, {cache.shown}: shards": cached,
        }


def choose(settings: Settings, images: Collection[str], skus: Collection[str]) -> Chosen:
    """Find the pictures to erase in all data versions.

    A picture is identified by its bytes. Files with the same pixels in another container show the same
    picture, so they are erased with it. A product's pictures are erased together, also those that only older
    versions have under its name. A picture that today has another product's name is kept.

    Args:
        settings: this machine's settings.
        images: SHA-256 of pictures.
        skus: products, in any equivalent spelling (`texts.alike`).

    Raises:
        ParameterError: an image isn't named by a SHA-256.
        DataError: a picture or product is in no data version, or was erased already.
    """
    images = [image.lower() for image in images]
    for image in images:
        if not SHA256.fullmatch(image):
            refusal = f"'{visible(image[:80])}' (--image) is no SHA-256"
            raise ParameterError(f"{refusal}; `sha256sum` tells that of a file.")
    pointer = data_pointer(settings.project, None)
    contents, current = look(settings), md5_of(pointer)
    versions = contents.data_versions()
    rows = pd.concat([version.rows.assign(version=version.md5) for version in versions], ignore_index=True)
    today = rows[rows["version"].eq(current)]
    named = set(images) | _of_skus(rows, today, skus)
    for image in sorted(set(images) - set(rows["sha256"])):
        raise DataError(f"No data version has the picture {image}; the manifest tells what there is.")
    shown = rows[rows["pixels"].isin(rows.loc[rows["sha256"].isin(named), "pixels"])]
    pixels = dict(zip(shown["sha256"], shown["pixels"], strict=True))
    left = _not_yet_erased(settings, set(pixels), set(today["sha256"]))
    # A listing that is in the cache alone is an intermediate step of DVC, and no data version.
    whole = [version for version in versions if path_of(version.md5) in contents.files[1]]
    holding = [version for version in whole if len(version.having(left))]
    return Chosen(
        pixels={picture: pixels[picture] for picture in sorted(left)},
        copies=len(left - named),
        current=current,
        versions=sorted(holding, key=lambda version: (version.md5 != current, version.md5)),
        _contents=contents,
    )


def _of_skus(rows: pd.DataFrame, today: pd.DataFrame, skus: Collection[str]) -> set[str]:
    """Return the SHA-256 of the products' pictures, except those that have another product's name today."""
    pictures: set[str] = set()
    for sku in skus:
        known = rows[rows["sku"].map(alike).eq(alike(sku))]
        if known.empty:
            hint = did_you_mean(sku, rows["sku"].unique())
            refusal = f"{hint}No data version has a product '{visible(sku)}'"
            raise DataError(f"{refusal}; `skumatch data inspect` shows what there is.")
        others = today.loc[~today["sku"].map(alike).eq(alike(sku)), "sha256"]
        pictures |= set(known.loc[~known["sha256"].isin(others), "sha256"])
    return pictures


def _not_yet_erased(settings: Settings, pictures: set[str], today: set[str]) -> set[str]:
    """Return the pictures that were never erased, or that came back into today's data since.

    Raises:
        DataError: there are pictures, but all were erased already.
    """
    changes = DataRecord(settings).erasures()
    erased = {picture: change for change in changes for picture in change.erased}
    left = {picture for picture in pictures if picture not in erased or picture in today}
    if pictures and not left:
        change = erased[min(pictures)]
        refusal = f"erased already, on {change.when:%Y-%m-%d} by {change.who}"
        raise DataError(f"What is named was {refusal}; `skumatch gc --erase` deletes what still holds it.")
    return left
