"""Airflow's log of one try of a task, and skumatch's own lines in it.

The log comes from its file for the embedded Airflow, and through the API for any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from skumatch.errors import ServiceError

Lines = list[dict[str, Any]]
ASK_SECONDS = 5.0


class TaskLog(Protocol):
    """Log of one try of a task.

    Attributes:
        place: Path or URL at which a person reads it.
    """

    place: str

    def progress(self) -> dict[str, Any]:
        """Return the fields of the newest progress line; empty before the first."""

    def all(self) -> Lines:
        """Return every line; none if the task has written nothing.

        Raises:
            ServiceError: Airflow can't deliver the log.
        """


class WrittenLog:
    """Log of the embedded Airflow: a file of JSON lines.

    Attributes:
        path: Path of the file.
        place: The same as text.
        read: Bytes of the file that are read.
        newest: Fields of the newest progress line; empty before the first.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.place, self.read = path, str(path), 0
        self.newest: dict[str, Any] = {}

    def new(self) -> Lines:
        """Return the complete lines since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.read)
            text = stream.read()
        complete = text[: text.rfind(b"\n") + 1]
        self.read += len(complete)
        return [json.loads(line) for line in complete.splitlines()]

    def progress(self) -> dict[str, Any]:
        """Return the fields of the newest progress line; empty before the first."""
        self.newest = (marked(self.new(), "progress") or [self.newest])[-1]
        return self.newest

    def all(self) -> Lines:
        """Return every line."""
        self.read = 0
        return self.new()


class ServedLog:
    """Log of an Airflow elsewhere.

    Each call reads the whole log, so progress is fetched only once in ASK_SECONDS.

    Attributes:
        ask: Fetches the log's lines.
        place: URL at which a person reads the log.
        asked: Monotonic time of the last fetch for progress, in seconds.
        newest: Fields of the newest progress line; empty before the first.
    """

    def __init__(self, ask: Callable[[], list[Any]], place: str) -> None:
        self.ask, self.place, self.asked = ask, place, -ASK_SECONDS
        self.newest: dict[str, Any] = {}

    def progress(self) -> dict[str, Any]:
        """Return the fields of the newest progress line, at most ASK_SECONDS old; empty before the first."""
        if time.monotonic() - self.asked >= ASK_SECONDS:
            with suppress(ServiceError):  # the log may not exist yet, and only the bar needs it
                self.newest = (marked(self.all(), "progress") or [self.newest])[-1]
            self.asked = time.monotonic()
        return self.newest

    def all(self) -> Lines:
        """Return every line; plain text becomes the field `event`."""
        return [line if isinstance(line, dict) else {"event": line} for line in self.ask()]


def crash(lines: Iterable[dict[str, Any]]) -> str:
    """Return the message of the exception that ended a task without an error line of its own."""
    details = [line["error_detail"] for line in lines if line.get("error_detail")]
    return str(details[-1][0]["exc_value"]) if details else "It ended without a word."


def marked(lines: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the fields of each `skumatch-KIND {json}` line."""
    parts = [str(line.get("event", "")).partition(" ") for line in lines]
    return [json.loads(text) for word, _, text in parts if word == f"skumatch-{kind}"]
