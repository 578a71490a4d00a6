"""Select the pictures and rows of a workspace by role."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from skumatch.data.images import Images
from skumatch.data.manifest import images, read_manifest
from skumatch.stages import artefacts


def select(root: Path, *roles: str) -> tuple[pd.DataFrame, Images]:
    """Return the rows with one of the roles, sorted by id, and their pictures.

    The columns are the manifest's and role, unseen, group.
    """
    roles_of = artefacts.ROLES.read(root).drop(columns="sku")
    rows = read_manifest(root / "data").merge(roles_of, on="id", validate="one_to_one")
    rows = rows[rows["role"].isin(roles)].sort_values("id", ignore_index=True)
    return rows, images(root / "data", rows)


def without_queries(
    rows: pd.DataFrame, pictures: Images, pixels: Collection[str]
) -> tuple[pd.DataFrame, Images]:
    """Drop the queries that show certain pixels.

    Args:
        rows: As `select` returned them.
        pictures: As `select` returned them.
        pixels: Hashes of the pixels to drop.
    """
    kept = np.flatnonzero(~(rows["role"].eq("query") & rows["pixels"].isin(pixels)))
    return rows.iloc[kept].reset_index(drop=True), pictures.take(kept.tolist())
