"""A folder's pictures under one protocol, listed once for all encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import pandas as pd

from skumatch.data.delivery.archives import folder_images
from skumatch.data.images import Images
from skumatch.data.protocols import protocols
from skumatch.data.split import is_unseen
from skumatch.errors import DataError
from skumatch.params import Params
from skumatch.retrieval.figures import Protocol
from skumatch.retrieval.photos import with_photos
from skumatch.texts import did_you_mean, visible

ROLES = {"train": "gallery", "test": "query", "catalogue": "catalogue"}


@dataclass(frozen=True, eq=False)
class Folder:
    """The pictures of a folder in RP2K's layout; none of them is read yet.

    Attributes:
        path: The folder.
        protocol: The protocol that the pictures are for.
        sides: `train`, `test` or `catalogue` -> its pictures.
    """

    path: Path
    protocol: Protocol
    sides: Mapping[str, Images]


@dataclass(frozen=True, eq=False)
class Questions:
    """Queries and galleries of a protocol.

    Attributes:
        protocol: The protocol's name.
        rows: Columns id, sku, role, unseen and sha256 of each of `images`, and under `full` the measures of
            queries' photos.
        images: The pictures.
        lists: Columns draw, id, part.
    """

    protocol: Protocol
    rows: pd.DataFrame
    images: Images
    lists: pd.DataFrame


def list_folder(path: Path, protocol: str, params: Params) -> Folder:
    """Find the pictures that a protocol may need.

    Args:
        path: A folder in RP2K's layout.
        protocol: The protocol's name.
        params: Names of catch-all classes, which are left out.

    Raises:
        DataError: The protocol is unknown, or the folder has another layout.
    """
    known = get_args(Protocol)
    if protocol not in known:
        problem = f"There is no protocol '{visible(protocol)}'; there are {', '.join(known)}"
        raise DataError(f"{did_you_mean(protocol, known)}{problem}.")
    sides = ("train", "test", "catalogue") if protocol == "catalogue" else ("train", "test")
    return Folder(
        path,
        cast(Protocol, protocol),
        {side: folder_images(path, side, params.data.others) for side in sides},
    )


def questions(folder: Folder, params: Params) -> Questions:
    """Hash the pictures and draw the protocol's lists; pictures in no list are left out.

    Raises:
        DataError: The folder has no pictures for the protocol.
    """
    rows, images = _rows(folder.sides, params)
    lists = protocols(rows).get(folder.protocol)
    if lists is None:
        raise DataError(
            f"{folder.path} has no pictures for the protocol '{folder.protocol}'; "
            "docs/evaluation.md tells what each one needs."
        )
    needed = rows["id"].isin(lists["id"])
    rows, images = rows[needed].reset_index(drop=True), images.take(needed.to_numpy().nonzero()[0].tolist())
    if folder.protocol == "full":
        rows = with_photos(rows, images)
    return Questions(folder.protocol, rows, images, lists)


def _rows(sides: Mapping[str, Images], params: Params) -> tuple[pd.DataFrame, Images]:
    """Return the rows of all sides' pictures, and the pictures."""
    columns = (
        [value for side in sides.values() for value in getattr(side, name)]
        for name in ("ids", "skus", "names", "extents")
    )
    images = Images(*columns)
    roles = [ROLES[name] for name, side in sides.items() for _ in range(len(side))]
    unseen = [is_unseen(sku, params.split) for sku in images.skus]
    digests = [hashlib.sha256(images.read_bytes(i)).hexdigest() for i in range(len(images))]
    return pd.DataFrame(
        {"id": images.ids, "sku": images.skus, "role": roles, "unseen": unseen, "sha256": digests}
    ), images
