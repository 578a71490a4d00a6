"""What a new data version changed: images and SKUs added, removed, relabelled, moved."""

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
class Changes:
    """Ids of images (`relabelled`: old and new SKU behind them) and names of SKUs, in order.

    All empty for equal versions.
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


def compare(old: pa.Table, new: pa.Table) -> Changes:
    """Tell what changed between two manifests (columns id, sha256, sku).

    An image is known by its bytes. Relabelled: the same bytes under another SKU. Moved: the same bytes and
    SKU, but another side, name or number of copies.
    """
    gone, come = (~_among(one["sha256"], other["sha256"]) for one, other in ((old, new), (new, old)))
    relabelled, moved = _renamed(old, new)
    skus = set(pc.unique(old["sku"]).to_pylist()), set(pc.unique(new["sku"]).to_pylist())
    return Changes(
        sorted(new["id"].filter(pa.array(come)).to_pylist()),
        sorted(old["id"].filter(pa.array(gone)).to_pylist()),
        sorted(relabelled),
        sorted(moved),
        sorted(skus[1] - skus[0]),
        sorted(skus[0] - skus[1]),
    )


def _renamed(old: pa.Table, new: pa.Table) -> tuple[list[str], list[str]]:
    """Images with bytes of both versions that are relabelled, and moved.

    Only rows that differ are looked at one by one.
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
