"""Groups of products, such as aisles or brands, where a delivery tells them: a table classes.csv with the columns sku and group."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skumatch.data.delivery.layout import Found
from skumatch.errors import DataError

TABLE = "classes.csv"


def groups_of(files: Sequence[Found], where: Path, read: Callable[[Any], bytes]) -> dict[str, str]:
    """SKU -> group, of the uppermost classes.csv outside `all/`; empty if there is none.

    Raises DataError for one that can't be read, lacks a column, or puts a SKU into two groups.
    """
    tables = [file for file in files if file.kind is None and file.name.split("/")[-1] == TABLE and "all" not in file.name.split("/")]
    top = min(tables, key=lambda file: (file.name.count("/"), file.name), default=None)
    return {} if top is None else _read(read(top.source), f"{where}: {top.name}")


def _read(data: bytes, where: str) -> dict[str, str]:
    try:
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{where} can't be read as a table ({' '.join(str(error).split())}); correct or remove it.") from error
    if not {"sku", "group"} <= set(table.columns):
        raise DataError(f"{where} lacks a column sku or group (found: {', '.join(map(str, table.columns[:8]))}); correct or remove it.")
    cleaned = table[["sku", "group"]].map(lambda text: unicodedata.normalize("NFC", text.strip()))
    told = cleaned[cleaned["sku"].ne("") & cleaned["group"].ne("")].drop_duplicates()
    twice = told.loc[told["sku"].duplicated(), "sku"].tolist()
    if twice:
        raise DataError(f"{where} puts '{twice[0]}' into two groups; correct it and import again.")
    return dict(zip(told["sku"], told["group"], strict=True))
