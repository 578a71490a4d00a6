"""A check of a JPEG's header, without decoding: a plain JPEG needs nothing but its pixels."""

from __future__ import annotations

import struct
from typing import NamedTuple

SCAN, FRAMES = 0xDA, (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
# Tables, comments and the JFIF block; Pillow reads pictures with other blocks, such as EXIF.
TABLES, JFIF = frozenset({0xC4, 0xDB, 0xDD, 0xFE}), (0xE0, 16)


class Size(NamedTuple):
    """The size of a picture.

    Attributes:
        width: pixels.
        height: pixels.
    """

    width: int
    height: int


def plain_size(data: bytes) -> Size | None:
    """Return the size of a JPEG in grey or colour, of 8 bits, without EXIF or other application blocks.

    Return None for anything else.
    """
    size, at = None, 2
    while data.startswith(b"\xff\xd8") and at + 10 <= len(data):
        mark, marker, length = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF or length < 2:
            return None
        if marker == SCAN:
            return size
        if marker in FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            if size or bits != 8 or channels not in (1, 3):
                return None
            size = Size(width, height)
        elif marker not in TABLES and (marker, length) != JFIF:
            return None
        at += 2 + length
    return None
