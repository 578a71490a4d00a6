"""Airflow's log of one try of a task, and what our own lines in it say: from its file where Airflow is ours, else through its API."""

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
    """place: where a person reads it."""

    place: str

    def progress(self) -> dict[str, Any]:
        """The fields of the newest progress line; empty before the first."""

    def all(self) -> Lines:
        """Every line; none where the task has written nothing.

        Raises ServiceError where Airflow can't give them.
        """


class WrittenLog:
    """On this disk, JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path, self.place, self.read = path, str(path), 0
        self.newest: dict[str, Any] = {}

    def new(self) -> Lines:
        """The whole lines since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.read)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def progress(self) -> dict[str, Any]:
        self.newest = (marked(self.new(), "progress") or [self.newest])[-1]
        return self.newest

    def all(self) -> Lines:
        self.read = 0
        return self.new()


class ServedLog:
    """Of an Airflow elsewhere.

    It reads the whole log for each call, so that progress is asked for every five seconds only.
    """

    def __init__(self, ask: Callable[[], list[Any]], place: str) -> None:
        self.ask, self.place, self.asked = ask, place, -ASK_SECONDS
        self.newest: dict[str, Any] = {}

    def progress(self) -> dict[str, Any]:
        if time.monotonic() - self.asked >= ASK_SECONDS:
            with suppress(ServiceError):  # a log that isn't there yet: only the bar waits for it
                self.newest = (marked(self.all(), "progress") or [self.newest])[-1]
            self.asked = time.monotonic()
        return self.newest

    def all(self) -> Lines:
        return [line if isinstance(line, dict) else {"event": line} for line in self.ask()]


def crash(lines: Iterable[dict[str, Any]]) -> str:
    """The words of the exception that ended a task without an error line of its own."""
    details = [line["error_detail"] for line in lines if line.get("error_detail")]
    return str(details[-1][0]["exc_value"]) if details else "It ended without a word."


def marked(lines: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The fields of each `skumatch-KIND {json}` line."""
    parts = [str(line.get("event", "")).partition(" ") for line in lines]
    return [json.loads(text) for word, _, text in parts if word == f"skumatch-{kind}"]
