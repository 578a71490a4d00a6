"""Repair of names that tools garbled because they are not ASCII, for a delivery as a whole."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from skumatch.errors import DataError
from skumatch.texts import alike, composed, visible

# As Info-ZIP's unzip writes characters that its locale doesn't have.
ESCAPE = re.compile("#U([0-9a-f]{4})|#L([0-9a-f]{6})")
MOJIBAKE, ESCAPES = "CP437 mojibake", "#U escapes"


def unmojibake(name: str) -> str | None:
    """Return the UTF-8 text that was decoded as CP437; None if `name` can't be such a text."""
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return None


def unescape(name: str) -> str:
    """Replace escapes such as `#U4e2d` and `#L01f600` by the characters that they stand for.

    Escapes of ASCII characters, such as `#U002f`, stay.
    """
    return ESCAPE.sub(lambda match: _character(int(match[1] or match[2], 16), match[0]), name)


def _character(code: int, written: str) -> str:
    return chr(code) if 0x80 <= code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else written


def repair(names: Sequence[str], declared: Sequence[bool]) -> tuple[list[str], set[str]]:
    """Repair the garbled names of one delivery.

    A single name can be ambiguous; a whole delivery hardly is. Undeclared names are taken for UTF-8 if most
    of those that are not ASCII are valid UTF-8. Declared names are repaired only if all that are not ASCII
    are mojibake and some become characters of three bytes, as Chinese ones are. Escapes are undone only if
    every name is ASCII.

    Args:
        names: the files' names.
        declared: for each name, True if its encoding is known, as for a folder's names and for a zip's
            entries with the UTF-8 flag.

    Returns:
        The names in NFC, in the same order, and the kinds of repair: MOJIBAKE, ESCAPES, both or none.
    """
    not_ascii = [(name, known) for name, known in zip(names, declared, strict=True) if not name.isascii()]
    undeclared = [unmojibake(name) for name, known in not_ascii if not known]
    of_declared = [unmojibake(name) for name, known in not_ascii if known]
    # By `declared`: True if such names are mojibake.
    garbled = {
        False: 2 * sum(text is not None for text in undeclared) > len(undeclared),
        True: _all_mojibake(of_declared),
    }
    escaped = not not_ascii and any(unescape(name) != name for name in names)
    kinds = {kind for kind, present in ((MOJIBAKE, any(garbled.values())), (ESCAPES, escaped)) if present}
    if not not_ascii and not escaped:
        return list(names), kinds
    repaired = [
        (unmojibake(name) or name) if garbled[known] else name
        for name, known in zip(names, declared, strict=True)
    ]
    return [composed(unescape(name) if escaped else name) for name in repaired], kinds


def _all_mojibake(repaired: list[str | None]) -> bool:
    return all(text is not None for text in repaired) and any(
        ord(letter) >= 0x800 for text in repaired for letter in text or ""
    )


def check_spelling(skus: set[str], where: Path) -> None:
    """Check that no two SKUs differ in spelling only; most often they would be one product.

    Raises:
        DataError: if two SKUs are spelt alike.
    """
    spelt: dict[str, str] = {}
    for sku in sorted(skus):
        other = spelt.setdefault(alike(sku), sku)
        if other != sku:
            pair = f"'{visible(other)}' and '{visible(sku)}'"
            difference = "differ only in case, blanks or invisible characters"
            raise DataError(f"Two SKUs of {where} {difference}: {pair}; rename one and import again.")


def chosen(names: Mapping[str, str], skus: Iterable[str], where: Path) -> set[str]:
    """Look up the SKUs of a list, in any spelling that `alike` treats as equal.

    Args:
        names: the list's names, each with the place where it stands.
        skus: the delivery's SKUs, no two of them spelt alike.
        where: the delivery, for the sentence of an error.

    Returns:
        The SKUs as the delivery spells them.

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
    """Return True if `name` can't be a path below a delivery.

    Such names are absolute, or have `..`, a drive, a backslash, or control or undecodable characters.
    """
    parts = name.split("/")
    has_drive = bool(re.match("[A-Za-z]:", name))
    return ".." in parts or parts[0] == "" or "\\" in name or has_drive or not _printable(name)


def _printable(name: str) -> bool:
    return name.isprintable() or not any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name
    )
