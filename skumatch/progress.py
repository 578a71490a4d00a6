"""Progress reports: a bar for a person at a terminal, event lines for a program that follows."""

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
LOG_SECONDS = 30.0  # between two lines in a log


class Advance(Protocol):
    """Function that reports finished work."""

    def __call__(self, n: int = 1, text: str = "") -> None:
        """Report that `n` more units are done, with an optional note `text`."""


def silent(n: int = 1, text: str = "") -> None:
    """Report nothing; an Advance for callers without a progress report."""


def followed() -> bool:
    """Return whether a program follows (SKUMATCH_EVENTS); blank counts as unset."""
    return bool(os.environ.get("SKUMATCH_EVENTS", "").strip())


def emit(kind: str, /, **fields: Any) -> None:
    """Print a machine-readable line, `skumatch-KIND {json}`, if a program follows (SKUMATCH_EVENTS=1)."""
    if followed():
        print(f"skumatch-{kind} {json.dumps(fields, sort_keys=True)}", flush=True)


@contextmanager
def track(stage: str, total: int | None, unit: str = "images") -> Iterator[Advance]:
    """Yield `advance(n, text)`: event lines for a program, a bar on a terminal, otherwise lines for a log.

    Work that ends within LOG_SECONDS leaves no line in a log.

    Args:
        stage: Name of the work.
        total: Number of units; None if it is unknown.
        unit: Name of the units, in the plural.
    """
    if followed():
        yield _EventLines(stage, total, unit)
    elif sys.stderr.isatty():
        with _bar(stage, total, unit) as bar:
            yield bar
    else:
        yield _LogLines(stage, total, unit)


class _EventLines:
    def __init__(self, stage: str, total: int | None, unit: str) -> None:
        self.stage, self.total, self.unit, self.done, self.last = stage, total, unit, 0, 0.0

    def __call__(self, n: int = 1, text: str = "") -> None:
        self.done += n
        if self.done == self.total or time.monotonic() - self.last >= EVENT_SECONDS:
            self.last = time.monotonic()
            emit("progress", stage=self.stage, done=self.done, total=self.total, unit=self.unit, text=text)


class _LogLines:
    """A line on stderr every LOG_SECONDS, with the work done and an estimate of the time left."""

    def __init__(self, stage: str, total: int | None, unit: str) -> None:
        self.stage, self.total, self.unit, self.done = stage, total, unit, 0
        self.began = self.last = time.monotonic()

    def __call__(self, n: int = 1, text: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last < LOG_SECONDS:
            return
        self.last = now
        of, left = "", ""
        if self.total and self.done:
            minutes = (self.total - self.done) * (now - self.began) / self.done / 60
            of, left = f" of {self.total:,}", f", about {max(1, round(minutes))} min left" if minutes else ""
        note = f" ({text})" if text else ""
        print(f"{self.stage}: {self.done:,}{of} {self.unit}{left}{note}", file=sys.stderr, flush=True)


@contextmanager
def _bar(stage: str, total: int | None, unit: str) -> Iterator[Advance]:
    words, note = TextColumn("[bold]{task.description}"), TextColumn("{task.fields[text]}", markup=False)
    columns = (words, BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn(), note)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(stage, total=total, text="")
        yield lambda n=1, text="": progress.update(task, advance=n, text=text)
