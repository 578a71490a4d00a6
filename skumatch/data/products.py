"""Products: what is known of a SKU besides its pictures, in the table `products.parquet` of a data version.

The table has a row for each product of which anything is to be said; a version without any has no table.
Columns:

- sku: its name, as in the manifest.
- state: `sold`, or `retired`: no longer in the shops. A product that has nothing but a catalogue picture is
  catalogue-only; that follows from the manifest and is no state of its own.
- since, until: days (YYYY-MM-DD) from which and to which it was sold; empty where nobody said.
- drawn_as: the name by which it is drawn for what is never trained on; empty where that is its own. A product
  that was renamed keeps the draw of its first name.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa

from skumatch.data.delivery.tables import read_csv
from skumatch.data.manifest import read_whole, write_parquet
from skumatch.errors import DataError
from skumatch.texts import alike, composed, visible

FILE, CSV = "products.parquet", "products.csv"
SOLD, RETIRED = "sold", "retired"
SCHEMA = pa.schema([(name, pa.string()) for name in ("sku", "state", "since", "until", "drawn_as")])
COLUMNS = SCHEMA.names


def no_products() -> pd.DataFrame:
    """The table of a version of which nothing is said."""
    return pd.DataFrame({name: pd.Series(dtype=object) for name in COLUMNS})


def read_products(root: Path) -> pd.DataFrame:
    """Read the products of the data version at `root`, in order of sku; without rows if it has no table.

    Raises:
        DataError: for a table that is damaged or has other columns.
    """
    path = root / FILE
    if not path.is_file():
        return no_products()
    return read_whole(path, COLUMNS)


def write_products(root: Path, products: pd.DataFrame) -> None:
    """Write the rows that say anything, in order of sku; no table where none does."""
    rows = telling(products)
    if len(rows):
        write_parquet(root / FILE, rows, SCHEMA)


def telling(products: pd.DataFrame) -> pd.DataFrame:
    """The rows that say more than that a product is sold, in order of sku; without a state it is sold."""
    drawn_as = products["drawn_as"].mask(products["drawn_as"].eq(products["sku"]), "")
    rows = products.assign(state=products["state"].replace("", SOLD), drawn_as=drawn_as)
    plain = rows["state"].eq(SOLD) & (rows["since"] + rows["until"] + rows["drawn_as"]).eq("")
    shown: pd.DataFrame = rows[~plain][COLUMNS].sort_values("sku", ignore_index=True)
    return shown


def retired(products: pd.DataFrame) -> set[str]:
    """The products that are no longer sold."""
    return set(products.loc[products["state"].eq(RETIRED), "sku"])


def draw_names(products: pd.DataFrame) -> dict[str, str]:
    """Product -> the name by which it is drawn, where that is another than its own."""
    rows = products[products["drawn_as"].ne("")]
    return dict(zip(rows["sku"], rows["drawn_as"], strict=True))


def with_product(products: pd.DataFrame, sku: str, **values: str) -> pd.DataFrame:
    """The table with these values of one product; a new row starts as `sold`."""
    rows = products[products["sku"].eq(sku)]
    before = (
        rows.iloc[0].to_dict()
        if len(rows)
        else {"sku": sku, "state": SOLD, "since": "", "until": "", "drawn_as": ""}
    )
    changed = pd.DataFrame([before | values], columns=COLUMNS)
    return telling(pd.concat([products[products["sku"].ne(sku)], changed], ignore_index=True))


def of_skus(products: pd.DataFrame, skus: Iterable[str]) -> pd.DataFrame:
    """The rows of products that still have a picture."""
    return products[products["sku"].isin(set(skus))].reset_index(drop=True)


def named_here(products: pd.DataFrame, skus: Iterable[str]) -> pd.DataFrame:
    """The rows of products that are among `skus`, under the spelling that these have."""
    spelt = {alike(sku): sku for sku in skus}
    names = pd.Series([spelt.get(alike(sku), "") for sku in products["sku"]], products.index, dtype=str)
    return products.assign(sku=names)[names.ne("")].reset_index(drop=True)


def products_of_csv(data: bytes, where: str) -> pd.DataFrame:
    """Read a delivered table of products; of its columns only `sku` is needed.

    Raises:
        DataError: for no table, no column `sku`, another state than `sold`, `retired` or none, no day, or a
            SKU twice, in whatever spelling.
    """
    table = read_csv(data, where, "correct or remove it")
    if "sku" not in table:
        raise DataError(f"{where} lacks a column sku; correct or remove it.")
    absent = pd.Series("", table.index, dtype=str)
    texts = {name: [composed(text).strip() for text in table.get(name, absent)] for name in COLUMNS}
    rows = pd.DataFrame(texts, dtype=str)
    rows["state"] = rows["state"].str.lower()
    for sku, state in zip(rows["sku"], rows["state"], strict=True):
        if state not in ("", SOLD, RETIRED):
            raise DataError(
                f"{where} gives '{visible(sku)}' the state '{visible(state)}'; write {SOLD} or {RETIRED}."
            )
    for name in ("since", "until"):
        dated = zip(rows["sku"], rows[name], strict=True)
        days = [day(text, f"{where}: {name} of '{visible(sku)}'") for sku, text in dated]
        rows[name] = pd.Series(days, rows.index, dtype=str)
    for sku in rows.loc[rows["sku"].map(alike).duplicated(), "sku"]:
        raise DataError(f"{where} lists '{visible(sku)}' twice; leave one line.")
    return rows


def day(text: str, where: str) -> str:
    """The day `text`, or nothing. Raises DataError for another form than YYYY-MM-DD."""
    try:
        return date.fromisoformat(text).isoformat() if text else ""
    except ValueError as error:
        raise DataError(f"{where} is '{visible(text)}', which is no day; write it as 2026-11-30.") from error
