"""A data version without its shards, and the atomic step from one version to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from skumatch.data import products as table
from skumatch.data.delivery.layout import CATALOGUE, SIDES
from skumatch.data.delivery.replace import aside, swap
from skumatch.data.manifest import COLUMNS, columns_of, read_manifest, write_manifest
from skumatch.data.products import of_skus, read_products, retired, write_products
from skumatch.data.quarantine import QUARANTINE, read_pictures
from skumatch.data.shards import STORED, ShardStore
from skumatch.errors import DataError
from skumatch.files import canonical_json, disk_errors, read_json, write_json

SUMMARY = "import.json"
PLACE = ("shard", "offset")
OLDER: dict[str, Any] = {"junk": {}, "quarantined": [], "groups": {}}  # keys that old import.json files lack


@dataclass(frozen=True, eq=False)
class Version:
    """A data version without its shards.

    Attributes:
        manifest: its rows, in order of id.
        products: the table of products, see products.py.
        summary: the content of import.json.
        pictures: the content of quarantine.json.
    """

    manifest: pd.DataFrame
    products: pd.DataFrame
    summary: dict[str, Any]
    pictures: dict[str, str]

    @cached_property
    def skus(self) -> set[str]:
        """The SKUs of all rows."""
        return set(self.manifest["sku"])

    def with_rows(self, rows: pd.DataFrame, products: pd.DataFrame | None = None) -> Version:
        """Return the version with other rows, and other products if they are given.

        Products without a picture are dropped.
        """
        rows = rows.sort_values("id", ignore_index=True)
        known = of_skus(self.products if products is None else products, rows["sku"])
        return replace(self, manifest=rows, products=known)


def read_version(root: Path) -> Version:
    """Read the data version at `root` without its shards.

    Raises:
        DataError: if it is missing or damaged.
    """
    manifest = read_manifest(root)
    try:
        summary = read_json(root / SUMMARY)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{root / SUMMARY} is missing or damaged; fetch it again with `dvc pull data.dvc`."
        ) from error
    return Version(manifest, read_products(root), OLDER | summary, read_pictures(root))


def write_version(folder: Path, version: Version) -> None:
    """Write the version's files except the shards; the counts in import.json follow from the rows."""
    write_manifest(folder, version.manifest)
    write_products(folder, version.products)
    groups = {sku: group for sku, group in sorted(version.summary["groups"].items()) if sku in version.skus}
    write_json(folder / SUMMARY, version.summary | counts(version.manifest) | {"groups": groups})
    aside = {entry["id"] for entry in version.summary["quarantined"]}
    write_json(folder / QUARANTINE, {name: data for name, data in version.pictures.items() if name in aside})


def counts(manifest: pd.DataFrame) -> dict[str, int]:
    """Count a manifest's images, SKUs with shelf photos, catalogue pictures, and SKUs with nothing else.

    Returns:
        `images`, `skus`, `catalogue`, `catalogue_only`.
    """
    shelf = set(manifest.loc[manifest["side"].isin(SIDES), "sku"])
    catalogue = manifest.loc[manifest["side"].eq(CATALOGUE), "sku"]
    return {
        "images": len(manifest),
        "skus": len(shelf),
        "catalogue": len(catalogue),
        "catalogue_only": len(set(catalogue) - shelf),
    }


def content_hash(version: Version) -> str:
    """Return the SHA-256 of the version's rows, without the places of bytes, and of its products."""
    columns = [name for name in COLUMNS if name not in PLACE]
    parts = version.manifest[columns].sort_values("id"), table.telling(version.products)
    return hashlib.sha256(
        canonical_json([frame.to_dict("split", index=False) for frame in parts]).encode()
    ).hexdigest()


def require_usable(version: Version, others: Collection[str]) -> None:
    """Check that runs can use a version.

    Args:
        version: the new version.
        others: catch-all classes, which are no products.

    Raises:
        DataError: if fewer than two products that are sold have gallery photos, or none has a test photo.
    """
    rows = version.manifest[~version.manifest["sku"].isin(retired(version.products) | set(others))]
    gallery = rows.loc[rows["side"].eq("train"), "sku"].nunique()
    if gallery < 2:
        few = f"Of the products that are sold, {gallery} would have gallery photos"
        raise DataError(f"{few}, and matching needs two; nothing was changed.")
    if not rows["side"].eq("test").any():
        none = "No product that is sold would have a test photo"
        raise DataError(f"{none}, so no gallery could be judged; nothing was changed.")


@dataclass(frozen=True, eq=False)
class VersionStep:
    """The step from one version to the next.

    Attributes:
        old: the version before.
        new: the next version.
        rewritten: names of the old version's shards whose kept pictures moved to new shards.
    """

    old: Version
    new: Version
    rewritten: list[str]


Make = Callable[[Version, ShardStore], Version]


def nothing(*_: object) -> None:
    """Do nothing; the default of callbacks."""


def step(
    root: Path,
    make: Make,
    others: Collection[str],
    fetch: Callable[[list[str]], None] = nothing,
    begin: Callable[[VersionStep, Path], None] = nothing,
) -> VersionStep | None:
    """Replace the version at `root` by the next one; call it within `exclusive`.

    Args:
        root: the data version's folder; shards that the step doesn't need may be missing.
        make: returns the next version, and adds the bytes of new pictures to the store.
        others: catch-all classes.
        fetch: called with the names of needed shards that are missing; lays them into the folder.
        begin: called with the step and the folder of the next version, before that takes its place.

    Returns:
        The step; None if the next version has the content of the last one, which then stays.

    Raises:
        DataError: the version at `root` is damaged, or the next one is unusable.
        StorageError: the disk refuses.
    """
    old = read_version(root)
    with disk_errors(f"a change of {root}"), aside(root) as folder:
        store = ShardStore(root, columns_of(old.manifest, STORED), folder / "shards")
        try:
            new = make(old, store)
            require_usable(new, others)
            if _same(old, new):
                return None
            kept = old.manifest[old.manifest["sha256"].isin(new.manifest["sha256"])]
            rewritten = store.keep(set(kept["sha256"]))
            needed = sorted(set(kept["shard"]) & set(rewritten))
            fetch([name for name in needed if not (root / "shards" / name).is_file()])
            new = replace(new, manifest=store.places(new.manifest))
        finally:
            store.writer.abandon()
        write_version(folder, new)
        made = VersionStep(old, new, rewritten)
        begin(made, folder)
        swap(folder, root)
    return made


def _same(old: Version, new: Version) -> bool:
    same_summary = all(old.summary[name] == new.summary[name] for name in ("quarantined", "groups"))
    return same_summary and content_hash(old) == content_hash(new)
