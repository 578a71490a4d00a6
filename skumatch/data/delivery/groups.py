"""Optional tables of a delivery: classes.csv (sku and group) and products.csv (state and days of sale)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skumatch.data.delivery.layout import NO_IMAGE, DeliveredFile
from skumatch.data.delivery.tables import read_csv
from skumatch.data.products import CSV, products_of_csv
from skumatch.errors import DataError
from skumatch.texts import alike, composed, visible

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
