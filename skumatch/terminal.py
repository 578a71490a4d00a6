"""Standard streams that accept any text: unprintable characters are replaced, and a reader may leave."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOOKALIKES = dict(zip("✓✗–…·•×≤≥↻↷", "+x-~.*x<>~>", strict=True))  # as wide, so that tables stay straight
STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}  # in the order of their descriptors


def prepare() -> None:
    """Make the standard streams safe to write any text to, before anything is printed.

    Nothing changes on a UTF-8 terminal. If Python doesn't even read file names as UTF-8 (LC_ALL=C with
    PYTHONUTF8=0), the process restarts in Python's UTF-8 mode and keeps the terminal's encoding.
    """
    codecs.register_error("lookalikes", _lookalikes)
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lookalikes")
    if codecs.lookup(sys.stdout.encoding).name != "utf-8":
        os.environ["PYTHONIOENCODING"] = f"{sys.stdout.encoding}:replace"  # for the processes started here
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command


def _lookalikes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(LOOKALIKES.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def _open_closed() -> None:
    """Open closed streams on the null device, each at its own descriptor: the lowest free one."""
    for name, mode in STREAMS.items():
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - it stays open
            os.set_inheritable(stream.fileno(), True)  # as the others are
            setattr(sys, name, stream)


@contextmanager
def whole_output() -> Iterator[None]:
    """Flush standard output at the end; a reader that left early, as `head` does, is no error.

    Raises:
        OSError: Standard output is a file on a full disk.
    """
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards the rest
            if not isinstance(error, BrokenPipeError):
                raise


def print_json(value: Any) -> None:
    """Print JSON on one line; characters that the terminal can't show are escaped, so nothing is lost."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text)
