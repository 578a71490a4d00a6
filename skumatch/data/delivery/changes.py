"""The differences between two data versions: images and SKUs added, removed, relabelled or moved."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

COMPARED = ["id", "sha256", "sku"]
Rows = dict[str, list[tuple[str, str]]]  # by sha256: id and SKU of each image with those bytes


@dataclass(frozen=True)
class PictureChanges:
    """Differences between two data versions; all lists are sorted, and empty for equal versions.

    Attributes:
        added: ids of images whose bytes are new.
        removed: ids of images whose bytes are gone.
        relabelled: ids of images with the same bytes under another SKU, with the old SKU behind each.
        moved: ids of images with the same bytes and SKU, but another side, name or number of copies.
        skus_added: names of new SKUs.
        skus_removed: names of SKUs that are gone.
    """

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    relabelled: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    skus_added: list[str] = field(default_factory=list)
    skus_removed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(
            (self.added, self.removed, self.relabelled, self.moved, self.skus_added, self.skus_removed)
        )


def compare(old: pa.Table, new: pa.Table) -> PictureChanges:
    """Compare two manifests (columns id, sha256, sku); an image is identified by its bytes."""
    removed = ~_among(old["sha256"], new["sha256"])
    added = ~_among(new["sha256"], old["sha256"])
    relabelled, moved = _renamed(old, new)
    old_skus = set(pc.unique(old["sku"]).to_pylist())
    new_skus = set(pc.unique(new["sku"]).to_pylist())
    return PictureChanges(
        added=sorted(new["id"].filter(pa.array(added)).to_pylist()),
        removed=sorted(old["id"].filter(pa.array(removed)).to_pylist()),
        relabelled=sorted(relabelled),
        moved=sorted(moved),
        skus_added=sorted(new_skus - old_skus),
        skus_removed=sorted(old_skus - new_skus),
    )


def _renamed(old: pa.Table, new: pa.Table) -> tuple[list[str], list[str]]:
    """Return the relabelled and the moved images, among those whose bytes are in both versions.

    Only rows that differ between the versions are compared one by one.
    """
    keys = [pc.binary_join_element_wise(table["sha256"], table["id"], " ") for table in (old, new)]
    different = [table.filter(pa.array(~_among(*pair))) for table, pair in ((old, keys), (new, keys[::-1]))]
    digests = pa.concat_tables(different)["sha256"]
    before, after = (_rows(table.filter(pa.array(_among(table["sha256"], digests)))) for table in (old, new))
    relabelled, moved = [], []
    for digest in before.keys() & after.keys():
        was, now = ({sku for _, sku in rows[digest]} for rows in (before, after))
        if was != now:
            relabelled += [f"{image} (was {', '.join(sorted(was))})" for image, _ in after[digest]]
        else:
            moved += [image for image, _ in after[digest]]
    return relabelled, moved


def _among(values: pa.ChunkedArray, others: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.is_in(values, others), bool)


def _rows(manifest: pa.Table) -> Rows:
    rows: Rows = defaultdict(list)
    for image, digest, sku in zip(*(manifest[name].to_pylist() for name in COMPARED), strict=True):
        rows[digest].append((image, sku))
    return rows
