"""split: find duplicates, give each picture its role, and list the pictures of each protocol."""

from __future__ import annotations

from pathlib import Path

from skumatch.data import protocols
from skumatch.data.duplicates.census import find_duplicates
from skumatch.data.manifest import images, read_manifest
from skumatch.data.products import read_products
from skumatch.data.split import counts, split
from skumatch.params import Params
from skumatch.stages import artefacts
from skumatch.stages.artefacts import SplitFacts


def run(root: Path, params: Params) -> None:
    """Write out/split: the roles, the protocols' lists and split.json."""
    manifest = read_manifest(root / "data")
    census = find_duplicates(manifest, images(root / "data", manifest), params.split.max_difference)
    products = read_products(root / "data")
    roles = split(manifest.assign(group=census.groups), params.split, params.data, params.seed, products)
    artefacts.ROLES.write(root, roles)
    rows = roles.merge(manifest[["id", "sha256", "side"]], on="id", validate="one_to_one")
    lists = protocols.protocols(rows)
    for name, frame in lists.items():
        artefacts.PROTOCOL.write(root, frame, protocol=name)
    facts = counts(roles) | {"duplicates": census.facts, "protocols": protocols.describe(rows, lists)}
    artefacts.SPLIT.write(root, SplitFacts.model_validate(facts))
