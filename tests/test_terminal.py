"""Output to every terminal and pipe: replaced characters, lossless JSON, no traceback at a closed pipe."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from skumatch import terminal
from skumatch.errors import StorageError
from skumatch.files import disk_errors
from skumatch.progress import track
from tests.cli import Cli
from tests.conftest import draw

COLA = "可口可乐（罐装330ml）"


class Terminal(io.TextIOWrapper):
    """Standard output with an encoding of its own."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Terminal]:
    """Make standard output and error one terminal of an encoding."""
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    monkeypatch.delenv("SKUMATCH_EVENTS", raising=False)

    def make(encoding: str) -> Terminal:
        made = Terminal(io.BytesIO(), encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, "stdout", made)
        monkeypatch.setattr(sys, "stderr", made)
        terminal.prepare()
        return made

    return make


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", f"✗ {COLA} … café\n"),
        ("ascii", "x ???????330ml? ~ caf?\n"),
        ("latin-1", "x ???????330ml? ~ café\n"),
        ("cp1252", "x ???????330ml? … café\n"),
        ("gbk", f"x {COLA} … café\n"),
    ],
)
def test_what_a_terminal_cannot_show_is_replaced(
    screen: Callable[[str], Terminal], encoding: str, expected: str
) -> None:
    made = screen(encoding)
    print(f"✗ {COLA} … café")
    assert made.shown() == expected


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_frames_and_bars_are_drawn(screen: Callable[[str], Terminal], encoding: str) -> None:
    made = screen(encoding)
    Console(width=40).print(Panel(Text(f"• {COLA} " * 4), title="✓ – ↻"))
    with track("embed", 3) as advance:
        advance(3, "…")
    assert "3/3" in made.shown() and "330ml" in made.shown()


def test_a_name_that_is_no_text_can_be_printed_on_utf8(screen: Callable[[str], Terminal]) -> None:
    made = screen("utf-8")
    print(os.fsdecode(b"caf\xe9"))
    assert made.shown() == "caf?\n"


@given(value=st.lists(st.text()), encoding=st.sampled_from(["utf-8", "ascii", "cp1252", "gbk", "utf-16"]))
def test_json_loses_nothing_in_any_encoding(value: list[str], encoding: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = Terminal(io.BytesIO(), encoding=encoding)
        patch.setattr(sys, "stdout", made)
        terminal.print_json(value)
        assert json.loads(made.shown()) == value


def test_what_is_started_writes_in_the_terminals_encoding(screen: Callable[[str], Terminal]) -> None:
    screen("cp1252")
    done = subprocess.run([sys.executable, "-c", f"print('é {COLA}')"], capture_output=True, check=True)
    assert done.stdout.decode("cp1252").startswith("é ?")
    screen("utf-8")


@pytest.mark.parametrize(
    ("files", "mode", "restarts"), [("ascii", None, True), ("ascii", "1", False), ("utf-8", None, False)]
)
def test_a_python_without_utf8_file_names_starts_once_more(
    screen: Callable[[str], Terminal],
    monkeypatch: pytest.MonkeyPatch,
    files: str,
    mode: str | None,
    restarts: bool,
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: files)
    monkeypatch.setattr(
        os, "execv", lambda path, words: started.append((path, words, os.environ["PYTHONUTF8"]))
    )
    monkeypatch.setenv("PYTHONUTF8", mode or "0")
    screen("ascii")
    assert started == ([(sys.executable, [sys.executable, *sys.orig_argv[1:]], "1")] if restarts else [])


def test_a_reader_that_left_is_no_error_and_a_full_disk_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        with terminal.whole_output():
            print("to nobody")
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        with (
            pytest.raises(StorageError, match="No space left"),
            disk_errors("this command"),
            terminal.whole_output(),
        ):
            print("to a full disk")


def test_closed_streams_get_their_own_descriptors() -> None:
    """Else the next file that is opened would become standard output and get the printed text."""
    code = (
        "import sys, os; from skumatch import terminal; terminal.prepare(); print('x'); "
        "os.write(2, b'%d %d' % (sys.stdin.fileno(), sys.stdout.fileno()))"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec {sys.executable} -c "{code}" <&- >&-'], capture_output=True, check=True
    )
    assert done.stderr == b"0 1"


def test_commands_work_in_terminals_that_are_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in the data version are right even where Python decodes file names as ASCII."""
    cli = Cli.make(tmp_path)
    for side in ("train", "test"):
        draw(tmp_path / "photos/all" / side / COLA / "0.png", side)
    with monkeypatch.context() as patch:
        patch.setenv("LC_ALL", "C")
        patch.setenv("PYTHONUTF8", "0")
        assert "2 images of 1 SKU" in cli("data", "import", tmp_path / "photos").out
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONIOENCODING", "ascii")
        inspected = cli("data", "inspect")
        assert (
            inspected.code == 0
            and inspected.err == ""
            and "330ml" in inspected.out
            and inspected.out.isascii()
        )
        refused = cli("data", "import", tmp_path / COLA)
        assert (refused.code, refused.err.count("\n"), refused.err[:2]) == (11, 1, "x "), refused
    assert COLA in cli("data", "inspect").out
