"""Lists of the products that a shop sells, from a file or from a column with one list per row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skumatch.bundle import Assortment, Bundle
from skumatch.bundle.assortment import first_names
from skumatch.errors import DataError
from skumatch.matching.given import place
from skumatch.texts import alike, counted, read_names, visible

COLUMN = "assortment"
JSON_START = "["  # of a cell that holds names; any other cell is the path of a file
FORM = '["one product", "another"], or the path of a text file with one SKU a line'


class ShopList(NamedTuple):
    """A list of products.

    Attributes:
        names: Names of products as they were written, at least one.
        where: The list's place, for messages.
    """

    names: tuple[str, ...]
    where: str


def read_list(path: Path) -> ShopList:
    """Read a text file with one SKU a line. Raises DataError as `texts.read_names` does."""
    return ShopList(tuple(read_names(path)), str(path))


class ListReader:
    """Read the column `assortment` of one table, row by row; equal lists are kept once."""

    def __init__(self, table: Path) -> None:
        self.table = table
        self._written: dict[str, ShopList] = {}
        self._listed: dict[tuple[str, ...], ShopList] = {}

    def read(self, row: int, value: Any) -> ShopList | None:
        """Read one cell.

        Args:
            row: Its number from 0 on, for messages.
            value: A list of names; a text as FORM says; None or a blank text where the row has no list.

        Raises:
            DataError: The text has another form, a file can't be read, or there are no names; it names the
                row.
        """
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, str):
            return self._text(row, value.strip())
        return self._names(row, value)

    def _text(self, row: int, text: str) -> ShopList:
        if text not in self._written:
            read = self._parsed if text.startswith(JSON_START) else self._file
            self._written[text] = read(row, text)
        return self._written[text]

    def _file(self, row: int, text: str) -> ShopList:
        try:
            return read_list(Path(place(self.table.parent, text).path))
        except ValueError as error:  # a NUL character
            raise self._refused(row, f"'{visible(text)}', which no file can be called") from error
        except DataError as error:
            raise DataError(f"Row {row} of {self.table}: {error}") from error

    def _parsed(self, row: int, text: str) -> ShopList:
        try:
            return self._names(row, json.loads(text))
        except (ValueError, RecursionError) as error:
            raise self._refused(row, f"{visible(text)}, which is no JSON list") from error

    def _names(self, row: int, values: Iterable[Any]) -> ShopList:
        names = tuple(value for value in values if value is not None)
        odd = next((value for value in names if not isinstance(value, str)), None)
        if odd is not None:
            raise self._refused(row, f"{visible(repr(odd))} in it, which is no text")
        if not any(alike(name) for name in names):
            fault = f"Row {row} of {self.table} has an `{COLUMN}` without names"
            raise DataError(f"{fault}; name products, or leave the cell empty.")
        return self._listed.setdefault(names, ShopList(names, f"row {row} of {self.table}"))

    def _refused(self, row: int, fault: str) -> DataError:
        return DataError(f"Row {row} of {self.table} has an `{COLUMN}` with {fault}; write {FORM}.")


@dataclass(frozen=True, eq=False)
class Assortments:
    """The products that each of n pictures is matched with.

    Attributes:
        kinds: All distinct assortments; None is the whole gallery.
        numbers: [n], each picture's place in `kinds`.
    """

    kinds: tuple[Assortment | None, ...]
    numbers: NDArray[np.int64]

    @property
    def restricted(self) -> list[Assortment]:
        """The assortments that are not the whole gallery."""
        return [kind for kind in self.kinds if kind is not None]

    @property
    def warning(self) -> str | None:
        """A sentence about all names that the gallery has no product for; None where there are none."""
        lacking = [kind for kind in self.restricted if kind.missing]
        if len(lacking) < 2:
            return lacking[0].warning if lacking else None
        names = tuple({alike(name): name for kind in lacking for name in kind.missing}.values())
        share = f"{len(lacking):,} of {counted(len(self.restricted), 'assortment')} have products"
        cause = "that are not in the model's gallery, so no picture is matched with these"
        return f"{share} {cause}: {first_names(names)}."


def look_up(bundle: Bundle, lists: Sequence[ShopList | None], common: ShopList | None) -> Assortments | None:
    """Look up the names of all lists in the bundle's gallery.

    Args:
        bundle: The bundle to match with.
        lists: Each picture's own list; None where it has none.
        common: The list of pictures that have none of their own; None for the whole gallery.

    Returns:
        Each picture's assortment; None where no picture has a list.

    Raises:
        DataError: The gallery has none of a list's products.
    """
    effective = [shop or common for shop in lists]
    distinct = {id(shop): shop for shop in effective}  # lists of one table that are equal are one object
    kinds = tuple(bundle.assortment(*shop) if shop else None for shop in distinct.values())
    if not any(kinds):
        return None
    places = {key: number for number, key in enumerate(distinct)}
    return Assortments(kinds, np.array([places[id(shop)] for shop in effective], np.int64))
