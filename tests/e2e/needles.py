"""Search for words in everything that a project writes: files, database cells, and terminal output."""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

SAID = "terminal"
USER = "someone"


def places(words: Iterable[str], root: Path, outputs: Iterable[str] = ()) -> dict[str, set[str]]:
    """Map each word to the relative paths of files below `root` that hold it, and SAID for the terminal."""
    texts = {
        str(path.relative_to(root)): path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    paths: dict[str, set[str]] = {word: set() for word in words}
    for name, content in (
        *((name, _content(path)) for name, path in texts.items()),
        (SAID, "\n".join(outputs).encode()),
    ):
        for word in paths:
            if any(form in content for form in _forms(word)):
                paths[word].add(name)
    return paths


def _forms(word: str) -> tuple[bytes, bytes]:
    """As it is, and as HTTP sends it with its user's name."""
    return word.encode(), b64encode(f"{USER}:{word}".encode())


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return b""  # servers remove files of theirs meanwhile
    return b"\n".join((raw, *_cells(path))) if raw.startswith(b"SQLite format 3\0") else raw


def _cells(path: Path) -> Iterator[bytes]:
    """Yield each cell as a whole; in the database file a long text is split, maybe within a word."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 a name that the database gave
                yield from (cell if isinstance(cell, bytes) else str(cell).encode() for cell in row)
