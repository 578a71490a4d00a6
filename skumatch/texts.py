"""Texts: encodings of delivered ones, the comparison of names, and numbers with their nouns.

UTF-8 is read with or without a byte order mark, UTF-16 and UTF-32 only with one. Every other encoding is
refused, since a wrong guess would change names unnoticed.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skumatch.errors import DataError, SkumatchError

if TYPE_CHECKING:
    from jinja2 import Environment

Kind = Callable[[str], SkumatchError]
Marks = tuple[tuple[bytes, str], ...]

MAX_BYTES = 100_000_000
UTF8: Marks = ((codecs.BOM_UTF8, "utf-8"),)  # for files that DVC reads too: it knows only UTF-8
MARKS: Marks = (
    *UTF8,
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's mark, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
BINARIES = (
    (b"PK\x03\x04", "a spreadsheet (.xlsx) or another zip"),
    (b"\xd0\xcf\x11\xe0", "an old Office file (.xls)"),
    (b"PAR1", "a Parquet table"),
    (b"\x1f\x8b", "a gzip file"),
)
SAVE = "save it as UTF-8 text (`iconv -f ENCODING -t UTF-8` converts a text; Excel calls it CSV UTF-8)"
LIST = "a text file with one SKU a line"
NEW_LINE = re.compile(r"\r\n|\r|\n")
CLOSE = 0.75  # similarity from which a name is suggested, as difflib measures it
SHOWN = 80  # characters of a name in a sentence


def read_bytes(path: Path, wanted: str, kind: Kind = DataError) -> bytes:
    """Read a delivered file or pipe of at most MAX_BYTES; a pipe that nobody writes to is empty.

    Args:
        path: Path of the file or pipe.
        wanted: Description of a valid file, for the sentence of an error.
        kind: Class of the error to raise.

    Raises:
        SkumatchError: The file is missing, a folder, unreadable or too large; of class `kind`.
    """
    if path.is_dir():
        raise kind(f"{path} is a folder; give {wanted}.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a blocking open waits for a pipe's writer
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise kind(f"There is no {path}; give {wanted}.") from error
    except OSError as error:
        cure = f"correct its permissions, or give {wanted}"
        raise kind(f"{path} can't be read ({error.strerror}); {cure}.") from error
    if len(data) > MAX_BYTES:
        raise kind(f"{path} has over {MAX_BYTES // 1_000_000} MB; give {wanted}.")
    return data


def read_text(path: Path, wanted: str, kind: Kind = DataError, marks: Marks = MARKS) -> str:
    """Read a delivered text file.

    Args:
        path: Path of the file.
        wanted: Description of a valid file, for the sentence of an error.
        kind: Class of the error to raise.
        marks: Byte order marks that are recognized, with their encodings.

    Raises:
        SkumatchError: As in `read_bytes` and `decode`; of class `kind`.
    """
    return decode(read_bytes(path, wanted, kind), path, kind, marks)


def decode(data: bytes, where: object, kind: Kind = DataError, marks: Marks = MARKS) -> str:
    """Decode a delivered text, without its byte order mark.

    Args:
        data: Bytes of the whole text.
        where: Name of the text, for the sentence of an error.
        kind: Class of the error to raise.
        marks: Byte order marks that are recognized, with their encodings.

    Raises:
        SkumatchError: The bytes are no text, or in another encoding; of class `kind`.
    """
    binary = next((name for start, name in BINARIES if data.startswith(start)), None)
    if binary:
        raise kind(f"{where} is {binary}, not text; {SAVE}.")
    mark, encoding = next(((mark, name) for mark, name in marks if data.startswith(mark)), (b"", "utf-8"))
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = _line(body[: error.start].decode(encoding, "ignore"))
        byte = f"byte 0x{body[error.start]:02X} in line {line}"
        raise kind(f"{where} is not {encoding.upper()} ({byte}); {SAVE}.") from error
    if "\0" in text:
        line = _line(text[: text.index("\0")])
        hint = "so it is no text, or UTF-16 without a byte order mark"
        raise kind(f"{where} has a NUL character in line {line}, {hint}; {SAVE}.")
    return text


def _line(before: str) -> int:
    return len(NEW_LINE.findall(before)) + 1


def read_names(path: Path) -> dict[str, str]:
    """Read a list of SKUs, one a line, in composed Unicode; blank lines and repeated names are left out.

    Returns:
        Each name with the place of its first line.

    Raises:
        DataError: As in `read_text`, or the list has no names.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(NEW_LINE.split(read_text(path, LIST)), 1):
        if alike(line):
            names.setdefault(composed(line).strip(), f"line {number} of {path}")
    if not names:
        raise DataError(f"{path} has no names in it; give {LIST}.")
    return names


def composed(text: str) -> str:
    """Return the text in Unicode's composed form (NFC), used for SKUs; macOS decomposes file names."""
    return unicodedata.normalize("NFC", text)


def alike(name: str) -> str:
    """Return a key that all spellings of a name share.

    The key is in NFC, without case and invisible characters, with single spaces for blanks.
    """
    seen = (letter for letter in unicodedata.normalize("NFD", name) if unicodedata.category(letter) != "Cf")
    return composed(" ".join("".join(seen).casefold().split()))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return `Did you mean 'NAME'? ` for the most similar of some names; empty if none is similar."""
    spelt = {alike(known): known for known in names}
    matches = difflib.get_close_matches(alike(name), spelt, 1, CLOSE)
    return f"Did you mean '{visible(spelt[matches[0]])}'? " if matches else ""


def visible(name: str) -> str:
    """Return a name for a sentence: invisible characters escaped, cut after SHOWN characters."""
    cut = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, such as `1 SKU` or `2,388 SKUs`.

    Args:
        number: The number.
        noun: The noun for one.
        plural: The noun for several, if that is not `noun` with an s.
    """
    return f"{number:,} {agreeing(number, noun, plural)}"


def agreeing(number: int, word: str, plural: str = "") -> str:
    """Return a word in the form that goes with a number: `is` with 1, `are` with 0 and 2.

    Args:
        number: The number.
        word: The form for one.
        plural: The form for several, if that is not `word` with an s.
    """
    return word if number == 1 else plural or f"{word}s"


def first_of(names: Sequence[str], shown: int) -> str:
    """List the first `shown` names, and the number of the others."""
    first = ", ".join(names[:shown])
    return f"{first} and {len(names) - shown:,} more" if len(names) > shown else first


def queries_of(queries: int, skus: int) -> str:
    """Return the extent of an evaluation, such as `1,484 queries of 82 SKUs`."""
    return f"{counted(queries, 'query', 'queries')} of {counted(skus, 'SKU')}"


FILTERS: dict[str, Callable[..., str]] = {  # of all pages' templates
    "count": "{:,}".format,
    "counted": counted,
    "agreeing": agreeing,
}


def page_environment(*packages: str) -> Environment:
    """Return the environment of a page's templates, with FILTERS: text is escaped, unknown names are errors.

    Args:
        packages: Packages with a folder `templates`, searched in this order.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment


class _Counting(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec[:1].isalpha():
            return counted(int(value), *format_spec.split("|"))
        return str(super().format_field(value, format_spec))


def filled(template: str, values: Mapping[Any, Any]) -> str:
    """Fill a template as `str.format_map` does, with nouns: `{n:query|queries}` gives `1 query`, `2 queries`.

    Args:
        template: Text with fields. A field's format that begins with a letter is a noun, and its plural after
            a `|` if that is not the noun with an s.
        values: Value of each field by name.
    """
    return _Counting().vformat(template, (), values)
