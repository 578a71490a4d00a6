"""The inputs of matching: pictures, folders, or tables of paths or bytes; and the gallery's pictures."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from skumatch.data.delivery.folders import head, pictures
from skumatch.data.images import SUFFIXES, Extent, Images, known_format
from skumatch.data.manifest import images, read_manifest
from skumatch.errors import DataError
from skumatch.matching.given import Given
from skumatch.matching.shop_lists import ShopList
from skumatch.matching.tables import Listing, is_table, lay_out, list_table
from skumatch.texts import visible

KINDS = "give pictures, a folder of them, or a table (.parquet, .csv) of their paths or bytes"


def list_pictures(paths: Sequence[Path]) -> list[Listing]:
    """Find the pictures named by `paths`: a folder's in order of their paths, a table's in order of its rows.

    No picture is read and nothing is written, so that bad input is refused before a model loads.

    Raises:
        DataError: A place is missing, empty or of another kind, or two pictures have the same id.
    """
    listings = [_listed(path) for path in paths]
    counts = Counter(name for listing in listings for name in listing.ids)
    twice = next((name for name, times in counts.items() if times > 1), None)
    if twice is not None:
        advice = "give each its own `id`, or match them one after the other"
        raise DataError(f"Two pictures are called {visible(twice)}; {advice}.")
    return listings


def open_pictures(listings: Sequence[Listing], aside: Path) -> Images:
    """Return the pictures, without SKUs; bytes in tables are written to files in the folder `aside`."""
    places = [listing.extents or lay_out(listing, aside / _spool(listing.path)) for listing in listings]
    extents: list[Extent] = [extent for place in places for extent in place]
    names = [name for listing in listings for name in listing.ids]
    return Images(names, [""] * len(names), names, extents)


def shop_lists(listings: Sequence[Listing]) -> list[ShopList | None]:
    """Return each picture's list of products, in the order of `open_pictures`; None where it has none."""
    return [shop for listing in listings for shop in listing.shops or [None] * len(listing.ids)]


def _spool(table: Path) -> str:
    return f"{hashlib.sha256(os.fsencode(table)).hexdigest()[:16]}.bin"


def _listed(path: Path) -> Listing:
    if path.is_dir():
        files = pictures(path)
        if not files:
            raise DataError(f"{path} has no pictures below it; give a place with pictures.")
        return Listing(path, [file.name for file in files], [Given(file.source) for file in files])
    if not path.exists():
        raise DataError(f"There is no {path}; {KINDS}.")
    if not path.is_file():
        raise DataError(f"{path} is a device or a pipe; {KINDS}.")
    if is_table(path):
        return list_table(path)
    if path.suffix.lower() not in SUFFIXES and not known_format(head(str(path))):
        raise DataError(f"{path} is no picture, and no table that can be read; {KINDS}.")
    return Listing(path, [str(path).encode("utf-8", "backslashreplace").decode()], [Given(str(path))])


def gallery_pictures(
    data: Path, ids: Sequence[str], skus: Sequence[str]
) -> Callable[[str], Image.Image | None]:
    """Return a function that gives a gallery picture of a SKU, from the data version in `data`.

    Args:
        data: The folder of the data version.
        ids: Ids of the gallery's images.
        skus: The gallery's SKUs.

    Returns:
        SKU -> the first of the gallery's images that the data version has under that SKU; None without one.

    Raises:
        DataError: There is no data version.
    """
    rows = read_manifest(data)
    rows = rows[rows["id"].isin(ids) & rows["sku"].isin(skus)].sort_values("id").drop_duplicates("sku")
    pictures, row_of = images(data, rows), {sku: row for row, sku in enumerate(rows["sku"])}
    return lambda sku: pictures[row_of[sku]] if sku in row_of else None
