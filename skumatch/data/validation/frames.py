"""The tables that the expectations check: the manifest, and figures that follow from it."""

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
    """Return one row for each column of the schema that the manifest has.

    Returns:
        Columns column, type and wanted: the types by Arrow's names.
    """
    fields = [field for field in SCHEMA if field.name in manifest.columns]
    types = [_type_of(manifest[field.name]) for field in fields]
    return pd.DataFrame(
        {
            "column": [field.name for field in fields],
            "type": types,
            "wanted": [str(field.type) for field in fields],
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
    """Return the manifest, one row an image, with the columns of `features`."""
    return manifest.assign(**features(manifest))


def features(m: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Return columns that follow from a manifest.

    Returns:
        Columns by name:

        - missing: number of empty cells in the row.
        - expected_id: the id that side, SKU and name make.
        - composed: the SKU's name as it should be written.
        - short_side, long_side: pixels.
        - aspect: the longer side over the shorter.
        - contents: number of different byte hashes at the image's place in its shard.
        - room: bytes between the image and the one before it in its shard.
        - copies: number of images with its pixels.
        - repeated: 1 if it isn't the first of those images, else 0.
        - labels: number of SKUs with its pixels.
        - leaked: 1 for a query with the pixels of a gallery image, 0 for any other query, NaN for the rest.
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
    """Return the bytes between each image's start and the end of all images before it in its shard.

    It is negative where images overlap, and NaN for a shard's first image.
    """
    places = m.groupby(PLACE, sort=True)["length"].max().rename("length").reset_index()
    places["end"] = places["offset"] + places["length"]
    before = places.groupby("shard")["end"].cummax().groupby(places["shard"]).shift()
    room = places.assign(room=places["offset"] - before)[[*PLACE, "room"]]
    return m[PLACE].merge(room, on=PLACE, how="left").set_index(m.index)["room"]


def delivered_frame(manifest: pd.DataFrame, summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row for each delivered image: image, and reason, None for images in the manifest."""
    aside = summary["quarantined"]
    names = manifest["id"].tolist() + [f"{entry['id']} ({entry['reason']})" for entry in aside]
    reasons = [None] * len(manifest) + [entry["reason"] for entry in aside]
    return pd.DataFrame({"image": pd.Series(names, dtype=object), "reason": pd.Series(reasons, dtype=object)})


def per_sku(manifest: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """Return one row for each SKU: sku, and its images on each side as train and test.

    Catch-all classes, images without a SKU and SKUs of the catalogue alone are left out.
    """
    shelf = manifest[~manifest["sku"].isin([*data.others, ""]) & manifest["side"].isin(["train", "test"])]
    counts = (
        shelf.groupby(["sku", "side"])
        .size()
        .unstack(fill_value=0)
        .reindex(columns=["train", "test"], fill_value=0)
    )
    return counts.rename_axis(columns=None).reset_index()


def sku_frame(manifest: pd.DataFrame, data: DataParams, known: Collection[str] | None = None) -> pd.DataFrame:
    """Return the rows of `per_sku` with the column `gallery`: images on the train side.

    `gallery` is NaN for SKUs without such images, and for new products, which often come with a single photo.

    Args:
        manifest: rows of products that are sold.
        data: the section `data`.
        known: the products of the version that drift is measured against; None if there is no such version,
            so that no product is new.
    """
    counts = per_sku(manifest, data)
    new = ~counts["sku"].isin(counts["sku"] if known is None else known)
    return counts.assign(gallery=counts["train"].where(counts["train"].gt(0) & ~new))


def whole_frame(manifest: pd.DataFrame, skus: pd.DataFrame, summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row of figures about the whole version.

    Args:
        manifest: all rows.
        skus: the frame of `sku_frame`.
        summary: the import's import.json.

    Returns:
        Columns images (rows of the manifest), imported (images that the import counted) and gallery_skus
        (SKUs with gallery images).
    """
    return pd.DataFrame(
        {
            "images": [len(manifest)],
            "imported": [int(summary["images"])],
            "gallery_skus": [int(skus["train"].gt(0).sum())],
        }
    )
