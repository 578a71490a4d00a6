"""Read users' tables of pictures, Parquet or CSV: the paths or the bytes of the pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from skumatch.data.delivery.tables import read_csv
from skumatch.data.images import MAX_BYTES
from skumatch.errors import DataError
from skumatch.matching.given import TOO_LARGE, Given, place
from skumatch.matching.shop_lists import COLUMN, ListReader, ShopList
from skumatch.texts import read_bytes

PARQUET, CSV = ".parquet", ".csv"
START: Final = b"PAR1"  # of each Parquet file
ROWS = 256  # read at a time
IMAGE, PATH, ID = "image", "path", "id"
EXPECTED = "`path` (of picture files, from the table's folder) or `image` (their bytes, in Parquet)"
COMMAS = "; columns of a CSV have commas between them"
BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
TEXT = (*STRINGS, *BYTES[:3])  # some writers don't mark text as such
LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


class Listing(NamedTuple):
    """The pictures of one place, in order.

    Attributes:
        path: The picture, folder or table that the user named.
        ids: [n], the pictures' ids.
        extents: [n], their places; None where a table holds their bytes.
        shops: [n], the list of products that each is matched with; None where the place has no lists.
    """

    path: Path
    ids: list[str]
    extents: list[Given] | None
    shops: list[ShopList | None] | None = None


def is_table(path: Path) -> bool:
    """Return whether a file is a table of pictures, by its suffix in any case or by its first bytes."""
    return path.suffix.lower() in (PARQUET, CSV) or begins(path, START)


def begins(path: Path, *starts: bytes) -> bool:
    """Return whether a file begins with one of `starts`; False for one that can't be read."""
    if not path.is_file():  # opening a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(16).startswith(starts)
    except OSError:
        return False


def list_table(path: Path) -> Listing:
    """Read the ids and places of a table's pictures; no picture is read.

    A row without bytes or path stays, with that as its problem. Without a column `id` a row's id is its path,
    or its number from 0 on.

    Raises:
        DataError: The table can't be read, has no rows, lacks a column or has one of another type, or has a
            row with an empty `id`.
    """
    rows, images = _csv(path) if path.suffix.lower() == CSV and not begins(path, START) else _parquet(path)
    numbers = [str(number) for number in range(len(rows))]
    if not numbers:
        raise DataError(f"{path} has no rows; give a table with pictures.")
    ids = _ids(rows, path) if ID in rows.column_names else None
    shops = _shops(rows[COLUMN], path) if COLUMN in rows.column_names else None
    if images:
        return Listing(path, ids or numbers, None, shops)
    paths = _texts(rows, PATH, path)
    extents = [place(path.parent, text) for text in paths]
    names = [text or number for text, number in zip(paths, numbers, strict=True)]
    return Listing(path, ids or names, extents, shops)


def _csv(path: Path) -> tuple[pa.Table, bool]:
    frame = read_csv(read_bytes(path, "a smaller table"), str(path), "correct it, or write it as Parquet")
    names = [name for name in (ID, PATH, COLUMN) if name in frame.columns]
    columns = {name: pa.array(frame[name].tolist(), pa.string()) for name in names}
    _require(PATH in columns, path, [str(name) for name in frame.columns])
    return pa.table(columns), False


def _parquet(path: Path) -> tuple[pa.Table, bool]:
    """Return the table without its pictures' bytes, and whether it has a column of them."""
    with _sound(path), pq.ParquetFile(path) as table:
        schema = table.schema_arrow
        _require(IMAGE in schema.names or PATH in schema.names, path, schema.names)
        pictures = IMAGE if IMAGE in schema.names else PATH
        names = [name for name in (ID, pictures, COLUMN) if name in schema.names]
        twice = next((name for name in names if schema.names.count(name) > 1), None)
        if twice:
            raise DataError(f"{path} has two columns `{twice}`; rename one.")
        if IMAGE in names and not _holds_bytes(schema.field(IMAGE).type):
            fault = f"{path} has no bytes in `{IMAGE}`, whose type is {schema.field(IMAGE).type}"
            raise DataError(f"{fault}; write the picture files' bytes there.")
        rows = table.read([name for name in names if name != IMAGE])
        rows.validate(full=True)
        if not rows.num_columns:
            rows = pa.table({"": pa.nulls(table.metadata.num_rows)})
        return rows, IMAGE in names


def _require(has_pictures: bool, path: Path, names: list[str]) -> None:
    if not has_pictures:
        fault = f"{path} has no column of pictures (its columns: {', '.join(names[:8])})"
        raise DataError(f"{fault}; it needs {EXPECTED}{COMMAS if path.suffix.lower() == CSV else ''}.")


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a type is bytes, or the struct of bytes and path that Hugging Face's datasets use."""
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return any(is_kind(_plain(kind)) for is_kind in BYTES)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _ids(rows: pa.Table, path: Path) -> list[str]:
    ids = _texts(rows, ID, path, pa.types.is_integer)
    empty = next((number for number, value in enumerate(ids) if value is None), None)
    if empty is not None:
        raise DataError(f"Row {empty} of {path} has no `id`; give every row one, or leave the column out.")
    return [value for value in ids if value is not None]


def _shops(column: pa.ChunkedArray, path: Path) -> list[ShopList | None]:
    """Read each row's list of products, a few rows at a time; equal lists are kept once."""
    kind = _plain(column.type)
    values = _plain(kind.value_type) if any(is_list(kind) for is_list in LISTS) else kind
    if not any(is_kind(values) for is_kind in (*TEXT, pa.types.is_null)):
        fault = f"{path} has `{COLUMN}` of the type {column.type}"
        raise DataError(f"{fault}; write it as lists of texts, or as text.")
    reader, shops = ListReader(path), list[ShopList | None]()
    for start in range(0, len(column), ROWS):
        with _sound(path):
            cells = [_decoded(cell) for cell in column.slice(start, ROWS).to_pylist()]
        shops += [reader.read(start + number, cell) for number, cell in enumerate(cells)]
    return shops


def _decoded(value: Any) -> Any:
    """Decode bytes within a value, since some writers don't mark text as text."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def _texts(rows: pa.Table, name: str, path: Path, *more: Callable[[pa.DataType], bool]) -> list[str | None]:
    """Return a column's texts, None for blank cells; `more` are type checks that are allowed besides text."""
    column = rows[name]
    if not any(is_kind(_plain(column.type)) for is_kind in (*TEXT, *more)):
        words = "text or whole numbers" if more else "text"
        raise DataError(f"{path} has `{name}` of the type {column.type}; write it as {words}.")
    with _sound(path):
        values: list[str | None] = column.cast(_plain(column.type)).cast(pa.string()).to_pylist()
    return [value if value and value.strip() else None for value in values]


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn arrow's errors on a damaged file into DataError."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} can't be read as a Parquet table ({words}); write it again.") from error


def lay_out(listing: Listing, spool: Path) -> list[Given]:
    """Write the bytes of a table's pictures to the file `spool`, and return each picture's place.

    A table can only be read from start to end, but several processes read the pictures. The file gets the
    table's modification time.
    """
    extents: list[Given] = []
    with spool.open("wb") as stream:
        for value in _images(listing.path):
            data, text = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
            if data is None:
                extents.append(place(listing.path.parent, text))
            elif len(data) > MAX_BYTES:
                extents.append(Given("", problem=TOO_LARGE))
            else:
                extents.append(Given(str(spool), stream.tell(), len(data)))
                stream.write(data)
    os.utime(spool, ns=(0, listing.path.stat().st_mtime_ns))
    return extents


def _images(path: Path) -> Iterator[Any]:
    """Yield the cells of the column of pictures."""
    with _sound(path), pq.ParquetFile(path) as table:
        for batch in table.iter_batches(ROWS, columns=[IMAGE], use_threads=False):
            yield from batch.column(0).to_pylist()
