"""What the expectations look at: the manifest and what follows from it, as one table for each kind of question."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from skumatch.data.manifest import SCHEMA
from skumatch.params import DataParams
from skumatch.texts import composed

Frames = dict[str, pd.DataFrame]
PLACE = ["shard", "offset"]


def column_frame(manifest: pd.DataFrame) -> pd.DataFrame:
    """column, type, wanted: one row a column of the schema that the manifest has, with Arrow's names of the types."""
    here = [field for field in SCHEMA if field.name in manifest.columns]
    found = [_type_of(manifest[field.name]) for field in here]
    return pd.DataFrame(
        {
            "column": [field.name for field in here],
            "type": found,
            "wanted": [str(field.type) for field in here],
        }
    )


def _type_of(column: pd.Series[Any]) -> str:
    try:
        return str(pa.Schema.from_pandas(column.to_frame(), preserve_index=False)[0].type).removeprefix(
            "large_"
        )
    except pa.ArrowException:
        return "mixed"


def image_frame(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with what an image is judged by besides, one row an image; see `features`."""
    return manifest.assign(**features(manifest))


def features(m: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Columns that follow from a manifest.

    missing: empty cells of the row. expected_id: what the id should be. composed: the SKU's name as it should
    be written. short_side, long_side: pixels. aspect: the longer side over the shorter. contents: different
    bytes that claim the image's place in its shard. room: bytes between it and the image before it. copies:
    images with its pixels; repeated: 1 if it isn't the first of them. labels: SKUs with its pixels. leaked: 1
    for a query with the pixels of a gallery image, 0 for any other query.
    """
    sides = m[["width", "height"]]
    written = {sku: composed(sku).strip() for sku in m["sku"].dropna().unique()}
    pixels = m.groupby("pixels")
    gallery = m.loc[m["side"].eq("train"), "pixels"].dropna()
    return {
        "missing": m.isna().sum(axis=1),
        "expected_id": m["side"] + "/" + m["sku"] + "/" + m["name"],
        "composed": m["sku"].map(written),
        "short_side": sides.min(axis=1),
        "long_side": sides.max(axis=1),
        "aspect": sides.max(axis=1) / sides.min(axis=1).clip(lower=1),
        "contents": m.groupby(PLACE)["sha256"].transform("nunique"),
        "room": _room(m),
        "copies": pixels["id"].transform("size"),
        "repeated": pixels.cumcount().gt(0).astype(int),
        "labels": pixels["sku"].transform("nunique"),
        "leaked": m["pixels"].isin(gallery).astype(float).where(m["side"].eq("test")),
    }


def _room(m: pd.DataFrame) -> pd.Series[Any]:
    """Bytes from the end of all that starts before an image in its shard to the image's start.

    NaN for the first.
    """
    places = m.groupby(PLACE, sort=True)["length"].max().rename("length").reset_index()
    places["end"] = places["offset"] + places["length"]
    before = places.groupby("shard")["end"].cummax().groupby(places["shard"]).shift()
    room = places.assign(room=places["offset"] - before)[[*PLACE, "room"]]
    return m[PLACE].merge(room, on=PLACE, how="left").set_index(m.index)["room"]


def delivered_frame(manifest: pd.DataFrame, summary: Mapping[str, Any]) -> pd.DataFrame:
    """image, reason: one row a delivered image; `reason` is None for the ones that could be used."""
    aside = summary["quarantined"]
    names = manifest["id"].tolist() + [f"{entry['id']} ({entry['reason']})" for entry in aside]
    reasons = [None] * len(manifest) + [entry["reason"] for entry in aside]
    return pd.DataFrame({"image": pd.Series(names, dtype=object), "reason": pd.Series(reasons, dtype=object)})


def per_sku(manifest: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """sku, train, test: images on each side.

    Catch-all classes, images without a SKU and SKUs of the catalogue alone are left out.
    """
    known = manifest[~manifest["sku"].isin([*data.others, ""]) & manifest["side"].isin(["train", "test"])]
    counts = (
        known.groupby(["sku", "side"])
        .size()
        .unstack(fill_value=0)
        .reindex(columns=["train", "test"], fill_value=0)
    )
    return counts.rename_axis(columns=None).reset_index()


def sku_frame(manifest: pd.DataFrame, data: DataParams, known: Collection[str] | None = None) -> pd.DataFrame:
    """`per_sku` with `gallery`: the images on the train side.

    It is NaN where there is none, and for new products, which often come with a single photo.

    Args:
        manifest: rows of products that are sold.
        data: the section `data`.
        known: the products of the version that drift is measured against; None where there is none, so that
            none is new.
    """
    counts = per_sku(manifest, data)
    new = ~counts["sku"].isin(counts["sku"] if known is None else known)
    return counts.assign(gallery=counts["train"].where(counts["train"].gt(0) & ~new))


def whole_frame(manifest: pd.DataFrame, skus: pd.DataFrame, summary: Mapping[str, Any]) -> pd.DataFrame:
    """One row: images, imported (what the import counted) and gallery_skus, the SKUs with gallery images."""
    return pd.DataFrame(
        {
            "images": [len(manifest)],
            "imported": [int(summary["images"])],
            "gallery_skus": [int(skus["train"].gt(0).sum())],
        }
    )
