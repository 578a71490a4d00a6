"""Names as they were meant: what tools made of names that are not ASCII is undone, for a delivery as a whole."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from skumatch.errors import DataError
from skumatch.texts import alike, composed, visible

ESCAPE = re.compile("#U([0-9a-f]{4})|#L([0-9a-f]{6})")  # as Info-ZIP's unzip writes what its locale can't
MOJIBAKE, ESCAPES = "CP437 mojibake", "#U escapes"


def unmojibake(name: str) -> str | None:
    """The UTF-8 text that was read as CP437; None if `name` can't be such a misreading."""
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return None


def unescape(name: str) -> str:
    """`#U4e2d` and `#L01f600` as the characters they stand for.

    What would be ASCII, such as `#U002f`, stays.
    """
    return ESCAPE.sub(lambda match: _character(int(match[1] or match[2], 16), match[0]), name)


def _character(code: int, written: str) -> str:
    return chr(code) if 0x80 <= code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else written


def repair(names: Sequence[str], declared: Sequence[bool]) -> tuple[list[str], set[str]]:
    """Return the names of one delivery in NFC, garbled ones repaired, and what was repaired (MOJIBAKE, ESCAPES).

    `declared[i]` says that the encoding of `names[i]` is known: a folder's names, and a zip's entries with the UTF-8 flag.
    One name alone can be read in two ways, a whole delivery hardly: undeclared names are taken for UTF-8 if most of those
    that are not ASCII are valid UTF-8. Declared ones are repaired only if all of them are mojibake and some become
    characters of three bytes (Chinese is). Escapes are undone only where every name is ASCII.
    """
    odd = [(name, known) for name, known in zip(names, declared, strict=True) if not name.isascii()]
    loose = [unmojibake(name) for name, known in odd if not known]
    firm = [unmojibake(name) for name, known in odd if known]
    wrong = {False: 2 * sum(text is not None for text in loose) > len(loose), True: _all_mojibake(firm)}
    escaped = not odd and any(unescape(name) != name for name in names)
    done = {what for what, found in ((MOJIBAKE, any(wrong.values())), (ESCAPES, escaped)) if found}
    if not odd and not escaped:
        return list(names), done
    repaired = [
        (unmojibake(name) or name) if wrong[known] else name
        for name, known in zip(names, declared, strict=True)
    ]
    return [composed(unescape(name) if escaped else name) for name in repaired], done


def _all_mojibake(repaired: list[str | None]) -> bool:
    return all(text is not None for text in repaired) and any(
        ord(letter) >= 0x800 for text in repaired for letter in text or ""
    )


def check_spelling(skus: set[str], where: Path) -> None:
    """Raise DataError if two SKUs are spelt alike: most often one product, named in two ways."""
    spelt: dict[str, str] = {}
    for sku in sorted(skus):
        other = spelt.setdefault(alike(sku), sku)
        if other != sku:
            pair = f"'{visible(other)}' and '{visible(sku)}'"
            alone = "differ only in case, blanks or invisible characters"
            raise DataError(f"Two SKUs of {where} {alone}: {pair}; rename one and import again.")


def chosen(names: Mapping[str, str], skus: Iterable[str], where: Path) -> set[str]:
    """Look up the SKUs that a list names, whichever of the spellings that are `alike` it has.

    Args:
        names: the list's names, each with the place where it stands.
        skus: all SKUs there are, no two of them spelt alike.
        where: the delivery, for the sentence of an error.

    Raises:
        DataError: for names of no SKU.
    """
    spelt = {alike(sku): sku for sku in skus}
    missing = [name for name in names if alike(name) not in spelt]
    if missing:
        first = f"has no SKU named '{visible(missing[0])}', as {names[missing[0]]} says"
        more = f" ({len(missing):,} of {len(names):,} names are of none)" if len(missing) > 1 else ""
        form = "one SKU a line, without header, comments, quotes or other columns"
        raise DataError(f"{where} {first}{more}; correct the list: {form}.")
    return {spelt[alike(name)] for name in names}


def unsafe(name: str) -> bool:
    """Whether `name` can't be a path below a delivery: absolute, with `..`, a drive, a backslash, control or undecodable characters."""
    parts = name.split("/")
    return (
        ".." in parts
        or parts[0] == ""
        or "\\" in name
        or bool(re.match("[A-Za-z]:", name))
        or not _printable(name)
    )


def _printable(name: str) -> bool:
    return name.isprintable() or not any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name
    )
