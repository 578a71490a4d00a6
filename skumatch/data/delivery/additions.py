"""The addition of a delivery to a data version: its pictures become new rows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from skumatch.data.delivery.archives import open_source
from skumatch.data.delivery.examine import FACTS_VERSION
from skumatch.data.delivery.importer import with_catalogue
from skumatch.data.delivery.known import Examination
from skumatch.data.delivery.layout import DeliveredImage
from skumatch.data.delivery.source import Source
from skumatch.data.deltas import beside, new_skus
from skumatch.data.manifest import SCHEMA, columns_of
from skumatch.data.products import named_here, retired, with_product
from skumatch.data.shards import ShardStore
from skumatch.data.version import Version
from skumatch.errors import DataError
from skumatch.texts import alike, visible


def add(
    version: Version,
    path: Path,
    store: ShardStore,
    side: str,
    min_short_side: int,
    catalogue: Path | None = None,
    erased: Collection[str] = (),
) -> Version:
    """Add the pictures of a folder or zip to a version; pictures that it has already change nothing.

    Args:
        version: the version before.
        path: the delivery: `all/<side>/<sku>/<image>`, or `<sku>/<image>`.
        store: takes the bytes of new pictures.
        side: `train` or `test`, for pictures in `<sku>/<image>`.
        min_short_side: pixels; smaller pictures are quarantined.
        catalogue: a folder of pictures named <sku>.<ext>.
        erased: SHA-256, of bytes or pixels, of pictures that were erased; they are left out.

    Returns:
        The next version; the places of new pictures are those that `store` gave.

    Raises:
        DataError: for a delivery that can't be used, a SKU that is another spelling of one that is there, or
            pictures of a retired product.
    """
    with open_source(path, side) as source:
        items = _named(with_catalogue(source, catalogue, path), version, path)
        rows, quarantined, pictures = _examined(items, source, store, version, min_short_side, erased)
        skus = {item.sku for item in items}
        groups = {sku: source.groups[alike(sku)] for sku in skus if alike(sku) in source.groups}
        summary = version.summary | {
            "groups": version.summary["groups"] | groups,
            "quarantined": _quarantined(version, quarantined, rows),
            "junk": dict(sorted(source.junk.items())),
        }
        changed = replace(version, summary=summary, pictures=version.pictures | pictures)
        products = version.products
        if source.products is not None:
            products = _said_of(source.products, products, version.skus | skus)
        return changed.with_rows(beside(version.manifest, rows), products)


def _named(items: list[DeliveredImage], version: Version, path: Path) -> list[DeliveredImage]:
    """Return the items with their SKUs as the version stores them.

    Raises:
        DataError: for a name that `new_skus` refuses, or that of a retired product.
    """
    names = new_skus(version, sorted({item.sku for item in items}), path)
    for sku in sorted(retired(version.products) & set(names.values())):
        back = "leave them out, or bring it back with `skumatch data retire --back`"
        raise DataError(f"{path} has pictures of '{visible(sku)}', which is retired; {back}.")
    return [replace(item, sku=names[item.sku]) for item in items]


def _examined(
    items: list[DeliveredImage],
    source: Source,
    store: ShardStore,
    version: Version,
    min_short_side: int,
    erased: Collection[str],
) -> tuple[pd.DataFrame, list[dict[str, str]], dict[str, str]]:
    """Examine the items.

    Returns:
        Rows of the pictures that can be used; id, reason and sentence of the others; and thumbnails of some
        of those, by id, as data URIs.
    """
    first = version.manifest.drop_duplicates("sha256")
    places = dict(zip(first["sha256"], zip(first["shard"], first["offset"], strict=True), strict=True))
    rows = []
    same_code = version.summary.get("facts", 1) == FACTS_VERSION
    manifest = columns_of(version.manifest, SCHEMA.names) if same_code else None
    with Examination(store.shards.parent) as examination:
        for item, data, facts in examination.usable(source, items, min_short_side, erased, manifest, "add"):
            if facts.sha256 not in places:
                spot = store.add(facts.sha256, facts.format, data)
                places[facts.sha256] = str(spot.shard), spot.offset  # a number until the shard has a name
            shard, offset = places[facts.sha256]
            named = {"id": item.id, "sku": item.sku, "side": item.side, "name": item.name}
            rows.append(named | facts._asdict() | {"shard": shard, "offset": offset, "length": len(data)})
    # Typed, since pandas makes floats of hashes where it joins uint64 and int64.
    typed: pd.DataFrame = pa.Table.from_pylist(rows, SCHEMA).to_pandas()
    return typed, examination.quarantined, examination.pictures.found


def _quarantined(version: Version, fresh: list[dict[str, str]], rows: pd.DataFrame) -> list[dict[str, str]]:
    """Return all quarantined pictures, in order of id, without those that can be used now."""
    usable = set(rows["id"])
    before = [entry for entry in version.summary["quarantined"] if entry["id"] not in usable]
    whole = {entry["id"]: entry for entry in [*before, *fresh]}
    return [whole[name] for name in sorted(whole)]


def _said_of(delivered: pd.DataFrame, products: pd.DataFrame, skus: set[str]) -> pd.DataFrame:
    """Return the table of products with a delivery's values for those that have a picture."""
    for row in named_here(delivered, skus).to_dict("records"):
        values = {str(name): str(text) for name, text in row.items() if name != "sku" and text}
        products = with_product(products, row["sku"], **values)
    return products
