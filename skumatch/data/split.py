"""The split: the role of each picture, as a pure function of the manifest's content.

Roles: `train` and `val` (gallery images of trained SKUs), `gallery` (gallery images never trained on),
`query` (the test side), `catalogue` (catalogue pictures), `other` (catch-all classes), `retired` (shelf
photos of products that are no longer sold, tested as unknown products) and `idle` (catalogue pictures of
retired products). The gallery is train + val + gallery. Every draw hashes content, so neither order nor file
names nor the rest of the data changes it. All pictures of a group of duplicates share one draw.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from skumatch.data.products import draw_names, retired
from skumatch.errors import DataError
from skumatch.params import DataParams, SplitParams

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("sku", pa.string()),
        ("role", pa.string()),
        ("unseen", pa.bool_()),
        ("group", pa.string()),
    ]
)
GALLERY_ROLES = ("train", "val", "gallery")
MIN_FOR_VAL = 3


def share(text: str) -> float:
    """Return a number in [0, 1) that `text` decides by its hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def is_unseen(sku: str, params: SplitParams) -> bool:
    """Return True if a SKU is held out of training for good, by its draw name alone."""
    return share(f"unseen:{sku}") < params.unseen_share


def split(
    manifest: pd.DataFrame,
    params: SplitParams,
    data: DataParams,
    seed: int,
    products: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Give each picture its role.

    A fixed `unseen_share` of SKUs, drawn by their draw names alone, is never trained on, and neither are
    copies of their pictures under other SKUs. Of each other SKU's groups of gallery images, about `val_share`
    are held out for validation if the SKU has at least three groups, and never all of them.

    Args:
        manifest: all rows, with a column `group`: a name, made of content, that duplicates share.
        params: the section `split`.
        data: the section `data`.
        seed: of the draw for validation.
        products: the table of products, see products.py; None for none.

    Returns:
        Columns id, sku, role, unseen and group, for each row of the manifest, in order of id.

    Raises:
        DataError: if fewer than two SKUs remain to train on.
    """
    frame = manifest.sort_values("id", ignore_index=True)
    names = {} if products is None else draw_names(products)
    unseen = {sku: is_unseen(names.get(sku, sku), params) for sku in frame["sku"].unique()}
    other = frame["sku"].isin(data.others)
    gone = frame["sku"].isin(set() if products is None else retired(products))
    frame["unseen"] = frame["sku"].map(unseen).astype(bool) & ~other
    kept_out = frame["group"].isin(frame.loc[frame["unseen"], "group"])
    trainable = frame["side"].eq("train") & ~other & ~kept_out & ~gone
    catalogue = frame["side"].eq("catalogue")
    serves = (
        catalogue & ~frame["sku"].isin(frame.loc[frame["side"].eq("train"), "sku"]) & data.serve_catalogue
    )
    in_val = trainable & frame["group"].isin(_validation(frame[trainable], params.val_share, seed))
    frame["role"] = np.select(
        [other, gone & catalogue, gone, frame["side"].eq("test"), serves, catalogue, kept_out, in_val],
        ["other", "idle", "retired", "query", "gallery", "catalogue", "gallery", "val"],
        "train",
    )
    trained = frame.loc[frame["role"].eq("train"), "sku"].nunique()
    if trained < 2:
        raise DataError(
            f"Only {trained} SKU would be left to train on; deliver more SKUs or lower split.unseen_share."
        )
    roles: pd.DataFrame = frame[SCHEMA.names]
    return roles


def _validation(frame: pd.DataFrame, val_share: float, seed: int) -> set[str]:
    """Draw groups for validation: none of a SKU with fewer than three groups, and never all of a SKU's."""
    owned = frame[["sku", "group"]].drop_duplicates()
    owned = owned.assign(
        draw=owned["group"].map({group: share(f"val:{seed}:{group}") for group in owned["group"].unique()})
    )
    by_sku = owned.groupby("sku")
    barred = (
        owned["draw"].ge(val_share)
        | by_sku["group"].transform("size").lt(MIN_FOR_VAL)
        | owned["draw"].eq(by_sku["draw"].transform("max"))
    )
    return set(owned["group"]) - set(owned.loc[barred, "group"])


def counts(roles: pd.DataFrame) -> dict[str, Any]:
    """Count images and SKUs of each role, and queries with duplicates; list the unseen SKUs.

    Returns:
        images and skus (counts by role), unseen (names of SKUs), and queries_with_duplicate: the queries with
        a duplicate in the gallery, and with one among the pictures trained on.
    """
    query, group = roles["role"].eq("query"), roles["group"]
    duplicate_in = {
        part: group.isin(group[roles["role"].isin(part_roles)])
        for part, part_roles in (("gallery", GALLERY_ROLES), ("train", ("train",)))
    }
    return {
        "images": {role: int(n) for role, n in roles["role"].value_counts().items()},
        "skus": {role: int(n) for role, n in roles.groupby("role")["sku"].nunique().items()},
        "unseen": sorted(roles.loc[roles["unseen"], "sku"].unique()),
        "queries_with_duplicate": {
            part: int((query & duplicated).sum()) for part, duplicated in duplicate_in.items()
        },
    }
