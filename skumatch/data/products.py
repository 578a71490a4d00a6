"""Products: facts about SKUs besides their pictures, in the table `products.parquet` of a data version.

The table has a row for each product with any value other than the defaults; a version without such a product
has no table. Columns:

- sku: its name, as in the manifest.
- state: `sold` (the default), or `retired`, for no longer in the shops. A product that has nothing but a
  catalogue picture is catalogue-only; that follows from the manifest and is no state of its own.
- since, until: first and last day of sale (YYYY-MM-DD); empty if unknown.
- drawn_as: the name that decides by its hash whether the product is held out of training; empty for its own
  name. A product that was renamed keeps the draw of its first name.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa

from skumatch.data.delivery.tables import read_csv
from skumatch.data.manifest import read_whole
from skumatch.errors import DataError
from skumatch.files import write_parquet
from skumatch.texts import alike, composed, visible

FILE, CSV = "products.parquet", "products.csv"
SOLD, RETIRED = "sold", "retired"
SCHEMA = pa.schema([(name, pa.string()) for name in ("sku", "state", "since", "until", "drawn_as")])
COLUMNS = SCHEMA.names


def no_products() -> pd.DataFrame:
    """Return an empty table of products."""
    return pd.DataFrame({name: pd.Series(dtype=object) for name in COLUMNS})


def read_products(root: Path) -> pd.DataFrame:
    """Read the products of the data version at `root`, in order of sku; an empty table if it has none.

    Raises:
        DataError: for a table that is damaged or has other columns.
    """
    path = root / FILE
    if not path.is_file():
        return no_products()
    return read_whole(path, COLUMNS)


def write_products(root: Path, products: pd.DataFrame) -> None:
    """Write the rows with other values than the defaults, in order of sku; no table if there are none."""
    rows = telling(products)
    if len(rows):
        write_parquet(root / FILE, rows, SCHEMA)


def telling(products: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with other values than the defaults, in order of sku.

    An empty state becomes `sold`; a `drawn_as` that is the product's own name becomes empty.
    """
    drawn_as = products["drawn_as"].mask(products["drawn_as"].eq(products["sku"]), "")
    rows = products.assign(state=products["state"].replace("", SOLD), drawn_as=drawn_as)
    plain = rows["state"].eq(SOLD) & (rows["since"] + rows["until"] + rows["drawn_as"]).eq("")
    shown: pd.DataFrame = rows[~plain][COLUMNS].sort_values("sku", ignore_index=True)
    return shown


def retired(products: pd.DataFrame) -> set[str]:
    """Return the names of the products that are no longer sold."""
    return set(products.loc[products["state"].eq(RETIRED), "sku"])


def draw_names(products: pd.DataFrame) -> dict[str, str]:
    """Return the draw name of each product whose draw name is not its own."""
    rows = products[products["drawn_as"].ne("")]
    return dict(zip(rows["sku"], rows["drawn_as"], strict=True))


def with_product(products: pd.DataFrame, sku: str, **values: str) -> pd.DataFrame:
    """Return the table with these column values for one product; a new row starts as `sold`."""
    rows = products[products["sku"].eq(sku)]
    before = (
        rows.iloc[0].to_dict()
        if len(rows)
        else {"sku": sku, "state": SOLD, "since": "", "until": "", "drawn_as": ""}
    )
    changed = pd.DataFrame([before | values], columns=COLUMNS)
    return telling(pd.concat([products[products["sku"].ne(sku)], changed], ignore_index=True))


def of_skus(products: pd.DataFrame, skus: Iterable[str]) -> pd.DataFrame:
    """Return the rows of products that are among `skus`."""
    return products[products["sku"].isin(set(skus))].reset_index(drop=True)


def named_here(products: pd.DataFrame, skus: Iterable[str]) -> pd.DataFrame:
    """Return the rows of products that are among `skus` in any spelling, with the names that `skus` has."""
    spelt = {alike(sku): sku for sku in skus}
    names = pd.Series([spelt.get(alike(sku), "") for sku in products["sku"]], products.index, dtype=str)
    return products.assign(sku=names)[names.ne("")].reset_index(drop=True)


def products_of_csv(data: bytes, where: str) -> pd.DataFrame:
    """Read a delivered table of products; the column `sku` is required, all others are optional.

    Args:
        data: the file's bytes.
        where: its name, for the sentence of an error.

    Raises:
        DataError: for a file that is no table, no column `sku`, a state other than `sold`, `retired` or
            empty, another form of day, or a SKU twice, in any spelling.
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
    """Return the day as YYYY-MM-DD; empty for an empty text.

    Args:
        text: the day.
        where: the place where it stands, for the sentence of an error.

    Raises:
        DataError: for another form than YYYY-MM-DD.
    """
    try:
        return date.fromisoformat(text).isoformat() if text else ""
    except ValueError as error:
        raise DataError(f"{where} is '{visible(text)}', which is no day; write it as 2026-11-30.") from error
