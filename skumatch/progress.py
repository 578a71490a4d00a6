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


def emit(kind: str, /, **fields: Any) -> None:
    """Print one machine-readable line, `skumatch-KIND {json}`, where a program follows (SKUMATCH_EVENTS=1)."""
    if os.environ.get("SKUMATCH_EVENTS"):
        print(f"skumatch-{kind} {json.dumps(fields, sort_keys=True)}", flush=True)


@contextmanager
def track(stage: str, total: int | None, unit: str = "images") -> Iterator[Advance]:
    """Yield `advance(n, text)`: a rich bar on a terminal, event lines for a follower, silence otherwise."""
    if sys.stderr.isatty() and not os.environ.get("SKUMATCH_EVENTS"):
        with _bar(stage, total, unit) as advance:
            yield advance
        return
    done, last = 0, 0.0

    def advance(n: int = 1, text: str = "") -> None:
        nonlocal done, last
        done += n
        if done == total or time.monotonic() - last >= EVENT_SECONDS:
            last = time.monotonic()
            emit("progress", stage=stage, done=done, total=total, unit=unit, text=text)

    yield advance


@contextmanager
def _bar(stage: str, total: int | None, unit: str) -> Iterator[Advance]:
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(stage, total=total, text="")
        yield lambda n=1, text="": progress.update(task, advance=n, text=text)
