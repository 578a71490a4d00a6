"""split: find duplicates, give each picture its role, and list the pictures of each protocol."""

from __future__ import annotations

from pathlib import Path

from skumatch.data import protocols
from skumatch.data.duplicates.census import find_duplicates
from skumatch.data.manifest import images, read_manifest, write_parquet
from skumatch.data.products import read_products
from skumatch.data.split import SCHEMA, counts, split
from skumatch.files import write_json
from skumatch.params import Params


def run(root: Path, params: Params) -> None:
    """Write out/split: the roles, the protocols' lists and split.json."""
    manifest, out = read_manifest(root / "data"), root / "out/split"
    census = find_duplicates(manifest, images(root / "data", manifest), params.split.max_difference)
    products = read_products(root / "data")
    roles = split(manifest.assign(group=census.groups), params.split, params.data, params.seed, products)
    write_parquet(out / "split.parquet", roles, SCHEMA)
    rows = roles.merge(manifest[["id", "sha256", "side"]], on="id", validate="one_to_one")
    lists = protocols.protocols(rows)
    for name, frame in lists.items():
        write_parquet(out / f"protocols/{name}.parquet", frame, protocols.SCHEMA)
    write_json(
        out / "split.json",
        counts(roles) | {"duplicates": census.facts, "protocols": protocols.describe(rows, lists)},
    )
