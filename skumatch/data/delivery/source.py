"""A delivery, as a folder or a zip: its files, sorted, and access to their original bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skumatch.data.delivery.editions import recognise
from skumatch.data.delivery.layout import NO_IMAGE, DeliveredFile, DeliveredImage, arrange, sorted_out
from skumatch.data.delivery.tables import read_csv
from skumatch.data.images import MAX_BYTES, Extent
from skumatch.data.products import CSV, products_of_csv
from skumatch.errors import DataError, ImageError
from skumatch.texts import alike, composed, counted, visible

TABLE = "classes.csv"


def groups_of(files: Sequence[DeliveredFile], where: Path, read: Callable[[Any], bytes]) -> dict[str, str]:
    """Read the group of each SKU from the uppermost classes.csv outside `all/`.

    Args:
        files: the delivery's files, with their `kind` set.
        where: the delivery, for the sentence of an error.
        read: returns the bytes of a table, given its `source`.

    Returns:
        Groups by their SKU as `alike` spells it; empty if there is no table.

    Raises:
        DataError: for a table that can't be read, lacks a column, or puts a SKU into two groups.
    """
    top = _uppermost(files, TABLE)
    return {} if top is None else _read(read(top.source), f"{where}: {top.name}")


def products_of(
    files: Sequence[DeliveredFile], where: Path, read: Callable[[Any], bytes]
) -> pd.DataFrame | None:
    """Read the uppermost products.csv outside `all/`; return None if there is none.

    Args:
        files: the delivery's files, with their `kind` set.
        where: the delivery, for the sentence of an error.
        read: returns the bytes of a table, given its `source`.

    Raises:
        DataError: as `products_of_csv` does.
    """
    top = _uppermost(files, CSV)
    return None if top is None else products_of_csv(read(top.source), f"{where}: {top.name}")


def _uppermost(files: Sequence[DeliveredFile], name: str) -> DeliveredFile | None:
    outside = [file for file in files if file.kind == NO_IMAGE and "all" not in file.name.split("/")]
    tables = [file for file in outside if file.name.split("/")[-1] == name]
    return min(tables, key=lambda file: (file.name.count("/"), file.name), default=None)


def _read(data: bytes, where: str) -> dict[str, str]:
    table = read_csv(data, where, "correct or remove it")
    if not {"sku", "group"} <= set(table.columns):
        present = ", ".join(map(str, table.columns[:8]))
        raise DataError(f"{where} lacks a column sku or group (found: {present}); correct or remove it.")
    groups: dict[str, str] = {}
    for sku, text in zip(table["sku"], table["group"], strict=True):
        group = composed(text).strip()
        if alike(sku) and group and groups.setdefault(alike(sku), group) != group:
            raise DataError(f"{where} puts '{visible(sku)}' into two groups; correct it and import again.")
    return groups


MAX_TABLE_BYTES = 500_000_000


class Source(ABC):
    """A delivery.

    Attributes:
        items: its images, in order of id.
        junk: number of files left out, by kind.
        edition: title of its edition.
        repaired: kinds of garbled names that were repaired, as `names.repair` returns them.
        groups: the group of each SKU that has one, by the SKU as `alike` spells it.
        products: the delivered table of products, see products.py; None without a table.
    """

    def __init__(
        self, files: Sequence[DeliveredFile], repaired: set[str], where: Path, side: str = ""
    ) -> None:
        """Sort a delivery's files and read its tables.

        Args:
            files: its files.
            repaired: kinds of garbled names that were repaired.
            where: the delivery's path.
            side: empty for a whole data set. For a delivery that adds to one, `train` or `test`: the side of
                pictures in `<sku>/<image>` without `all/`; no picture of the other side is needed.

        Raises:
            DataError: for a delivery of another layout, without a side, or with two different files for one
                place.
        """
        files = sorted_out(files, self.head)
        edition = recognise(files, where, self.table, side)
        self.edition, self.repaired = edition.title, repaired
        self.groups = groups_of(files, where, self.table)
        self.products = products_of(files, where, self.table)
        self.items, self.junk, clashes = arrange(files, where, edition.find, whole=not side)
        for first, second in clashes:
            if not self._equal(first, second):
                raise DataError(
                    f"Two files of {where} are both named {first.id}; rename one and import again."
                )
            self.junk["copy"] += 1

    def read(self, item: DeliveredImage) -> bytes:
        """Return the original bytes of an image.

        Raises:
            ImageError: if there are too many, or a zip's entry can't be read.
            StorageError: if a file can't be read.
        """
        if item.size > MAX_BYTES:
            raise ImageError(
                "too-large",
                f"The file has {counted(item.size, 'byte')}, over {MAX_BYTES:,}; deliver it smaller.",
            )
        # A path: catalogue pictures are in a folder of their own, even if the delivery is a zip.
        return Extent(item.source).read() if isinstance(item.source, str) else self.image(item.source)

    def _equal(self, first: DeliveredImage, second: DeliveredImage) -> bool:
        try:
            return self.read(first) == self.read(second)
        except ImageError:
            return False

    @abstractmethod
    def image(self, source: Any) -> bytes:
        """Return the bytes of one file; raise ImageError if they can't be read."""

    @abstractmethod
    def head(self, source: Any) -> bytes:
        """Return at least the first HEAD (see images.py) bytes of a file; b"" if they can't be read."""

    @abstractmethod
    def table(self, source: Any) -> bytes:
        """Return the bytes of a table such as classes.csv; raise DataError if they can't be read."""


def check_small(data: bytes, where: object) -> bytes:
    """Return the bytes of a table, `where` for the sentence of an error.

    Raises:
        DataError: for more than MAX_TABLE_BYTES.
    """
    if len(data) > MAX_TABLE_BYTES:
        most = f"{MAX_TABLE_BYTES // 1_000_000} MB"
        raise DataError(f"{where} has over {most}, too much for a table; correct or remove it.")
    return data
