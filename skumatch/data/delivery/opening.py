"""Opening of a delivery that is a folder or a zip."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skumatch.data.delivery.archives import ZipSource, open_zip
from skumatch.data.delivery.folders import FolderSource
from skumatch.data.delivery.layout import EXPECTED
from skumatch.data.delivery.source import Source
from skumatch.data.images import Extent, Images
from skumatch.errors import DataError


@contextmanager
def open_source(path: Path, side: str = "") -> Iterator[Source]:
    """Yield the delivery at `path`, a folder or a zip.

    Args:
        path: the delivery.
        side: for a delivery that adds to a data set, see Source; empty for a whole data set.

    Raises:
        DataError: if it is neither, damaged, empty, or of another layout.
    """
    if path.is_dir():
        yield FolderSource(path, side)
    elif not path.exists():
        raise DataError(f"There is no {path}; give a folder or a zip in RP2K's layout.")
    elif path.is_file() and zipfile.is_zipfile(path):
        with open_zip(path) as archive:
            yield ZipSource(archive, path, side)
    elif path.is_file() and _starts_as_zip(path):
        raise DataError(f"{path} is a zip without its end, where the list of its files is; fetch it again.")
    else:
        raise DataError(f"{path} is neither a folder nor a zip; give one in RP2K's layout ({EXPECTED}).")


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def folder_images(root: Path, side: str, others: tuple[str, ...] = ()) -> Images:
    """Return the images of one side of a folder in RP2K's layout, without an import.

    Args:
        root: the folder.
        side: `train` or `test`.
        others: catch-all classes, which are left out.

    Raises:
        DataError: for a zip, a folder of another layout, or no image on the side.
    """
    with open_source(root) as source:
        if not isinstance(source, FolderSource):
            raise DataError(f"{root} is a zip; unpack it, or import it with `skumatch data import`.")
        items = [item for item in source.items if item.side == side and item.sku not in others]
    if not items:
        raise DataError(f"{root} has no images under all/{side}; {EXPECTED}.")
    return Images(
        [i.id for i in items],
        [i.sku for i in items],
        [i.name for i in items],
        [Extent(i.source) for i in items],
    )
