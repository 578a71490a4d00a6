"""A delivery, whatever it comes as: its files arranged, each one's original bytes read when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skumatch.data.delivery.editions import recognise
from skumatch.data.delivery.groups import groups_of, products_of
from skumatch.data.delivery.layout import Found, Item, arrange, sorted_out
from skumatch.data.images import MAX_BYTES, Extent
from skumatch.errors import DataError, ImageError

MAX_TABLE_BYTES = 500_000_000


class Source(ABC):
    """`items` in order of id, `junk`: files left out by kind, `edition`: how it is called, `repaired`: what was wrong with its names.

    `groups`: the group of each SKU that has one, by the SKU as `alike` spells it. `products`: what the
    delivery says of products, as in products.py; None without a table.
    """

    def __init__(self, found: Sequence[Found], repaired: set[str], where: Path, side: str = "") -> None:
        """List a delivery's pictures.

        Args:
            found: its files.
            repaired: what was wrong with their names.
            where: the delivery.
            side: of a delivery that adds to a data set: `train` or `test`, where pictures lie in
                `<sku>/<image>` without `all/`; it needs no picture of the other side. Empty for a whole data
                set.

        Raises:
            DataError: for a delivery of another layout, without a side, or with two different files for one
                place.
        """
        found = sorted_out(found, self.head)
        edition = recognise(found, where, self.table, side)
        self.edition, self.repaired = edition.title, repaired
        self.groups = groups_of(found, where, self.table)
        self.products = products_of(found, where, self.table)
        self.items, self.junk, clashes = arrange(found, where, edition.find, whole=not side)
        for first, second in clashes:
            if not self._equal(first, second):
                raise DataError(
                    f"Two files of {where} are both named {first.id}; rename one and import again."
                )
            self.junk["copy"] += 1

    def read(self, item: Item) -> bytes:
        """The original bytes. Raises ImageError if there are too many, or they can't be had."""
        if item.size > MAX_BYTES:
            raise ImageError(
                "too-large", f"The file has {item.size:,} bytes, over {MAX_BYTES:,}; deliver it smaller."
            )
        # A catalogue picture lies in a folder of its own, whatever the delivery is.
        return Extent(item.source).read() if isinstance(item.source, str) else self.image(item.source)

    def _equal(self, first: Item, second: Item) -> bool:
        try:
            return self.read(first) == self.read(second)
        except ImageError:
            return False

    @abstractmethod
    def image(self, source: Any) -> bytes:
        """The bytes of one file. Raises ImageError."""

    @abstractmethod
    def head(self, source: Any) -> bytes:
        """The first bytes of a file, HEAD of them or more; b"" where they can't be had."""

    @abstractmethod
    def table(self, source: Any) -> bytes:
        """The bytes of a meta.csv or classes.csv. Raises DataError."""


def check_small(data: bytes, where: object) -> bytes:
    """Return the bytes of a table. Raises DataError for more than MAX_TABLE_BYTES."""
    if len(data) > MAX_TABLE_BYTES:
        most = f"{MAX_TABLE_BYTES // 1_000_000} MB"
        raise DataError(f"{where} has over {most}, too much for a table; correct or remove it.")
    return data
