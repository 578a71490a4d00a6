"""A process that is gone before one of its calls of MLflow's client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.proving import PROVING

READS = ("get", "search", "list", "download", "load")  # how the names of calls that change nothing begin


class Killed(BaseException):
    """The process is gone: nothing in the package catches this."""


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, at: int | None = None) -> Iterator[list[str]]:
    """MLflow answers the first `at` calls (None: all); then all further calls of the process fail.

    Yields:
        The names of the calls that were answered.
    """
    from mlflow import MlflowClient

    calls, lock = list[str](), threading.Lock()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **named: Any) -> Any:
            with lock:
                if at is not None and len(calls) >= at:
                    raise Killed
                calls.append(name)
            return call(*words, **named)

        return counted

    with monkeypatch.context() as patched:
        for name, call in vars(MlflowClient).items():
            if not name.startswith("_") and callable(call):
                patched.setattr(MlflowClient, name, counting(name, call))
        yield calls


def moments(calls: Sequence[str]) -> list[int]:
    """Numbers of calls after which a kill leaves a new state: before each call that may write.

    Of several writes in a row with one name, such as uploads of files, only the first and the last count in a
    daily test.
    """
    writes = [at for at, name in enumerate(calls) if not name.startswith(READS)]

    def first_or_last(place: int) -> bool:
        names = [calls[writes[near]] for near in (place - 1, place, place + 1) if 0 <= near < len(writes)]
        return len(names) < 3 or len(set(names)) > 1

    return [at for place, at in enumerate(writes) if PROVING or first_or_last(place)]


@contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[None]:
    """Kill what is done before its call `at`; on another day it may wait less, and end with fewer calls."""
    with dying(monkeypatch, at) as calls, suppress(Killed):
        yield
    assert len(calls) >= at // 2, calls
