"""A JPEG's header, read without decoding: whether it needs nothing but its pixels."""

from __future__ import annotations

import struct
from typing import NamedTuple

SCAN, FRAMES = 0xDA, (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
TABLES, JFIF = (
    frozenset({0xC4, 0xDB, 0xDD, 0xFE}),
    (0xE0, 16),
)  # and comments; other blocks, EXIF first of all, Pillow reads


class Size(NamedTuple):
    """In pixels."""

    width: int
    height: int


def plain_size(data: bytes) -> Size | None:
    """The size of a JPEG in grey or colour, of 8 bits, without EXIF or other blocks of programs.

    None for anything else.
    """
    found, at = None, 2
    while data.startswith(b"\xff\xd8") and at + 10 <= len(data):
        mark, marker, length = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF or length < 2:
            return None
        if marker == SCAN:
            return found
        if marker in FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            if found or bits != 8 or channels not in (1, 3):
                return None
            found = Size(width, height)
        elif marker not in TABLES and (marker, length) != JFIF:
            return None
        at += 2 + length
    return None
