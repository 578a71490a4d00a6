"""One progress report for a person at a terminal and for a program that follows: a bar here, event lines there."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVENT_SECONDS = 2.0


class Advance(Protocol):
    def __call__(self, n: int = 1, text: str = "") -> None: ...


def silent(n: int = 1, text: str = "") -> None:
    """An Advance that tells nobody."""


def emit(kind: str, /, **fields: Any) -> None:
    """Print one machine-readable line, `skumatch-KIND {json}`, where a program follows (SKUMATCH_EVENTS=1)."""
    if os.environ.get("SKUMATCH_EVENTS"):
        print(f"skumatch-{kind} {json.dumps(fields, sort_keys=True)}", flush=True)


@contextmanager
def track(stage: str, total: int | None, unit: str = "images") -> Iterator[Advance]:
    """Yield `advance(n, text)`: a rich bar on a terminal, event lines for a follower, silence otherwise."""
    if sys.stderr.isatty() and not os.environ.get("SKUMATCH_EVENTS"):
        with _bar(stage, total, unit) as bar:
            yield bar
    else:
        yield _EventLines(stage, total, unit)


class _EventLines:
    def __init__(self, stage: str, total: int | None, unit: str) -> None:
        self.stage, self.total, self.unit, self.done, self.last = stage, total, unit, 0, 0.0

    def __call__(self, n: int = 1, text: str = "") -> None:
        self.done += n
        if self.done == self.total or time.monotonic() - self.last >= EVENT_SECONDS:
            self.last = time.monotonic()
            emit("progress", stage=self.stage, done=self.done, total=self.total, unit=self.unit, text=text)


@contextmanager
def _bar(stage: str, total: int | None, unit: str) -> Iterator[Advance]:
    words, note = TextColumn("[bold]{task.description}"), TextColumn("{task.fields[text]}")
    columns = (words, BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn(), note)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(stage, total=total, text="")
        yield lambda n=1, text="": progress.update(task, advance=n, text=text)
