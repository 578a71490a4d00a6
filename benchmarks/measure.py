"""Seconds and memory of one function, alone in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cost:
    """seconds: wall time of the call. peak_mib: the largest resident memory of its process, imports included."""

    seconds: float
    peak_mib: float
    result: Any


@dataclass(frozen=True)
class Row:
    """One line of a bench: what was measured, its bound, and whether it holds.

    `better`: is less or more wanted?
    """

    name: str
    measured: float
    bound: float
    unit: str
    parts: str = ""
    better: str = "less"

    @property
    def holds(self) -> bool:
        return self.measured <= self.bound if self.better == "less" else self.measured >= self.bound


def cost(function: Callable[..., Any], *arguments: Any) -> Cost:
    """Call `function`, a module's own, in a fresh process and return what it cost.

    Its errors are raised here.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_timed, function, arguments).result()


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Cost:
    start = time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - start
    return Cost(seconds, _peak_kib() / 1024, result)


def _peak_kib() -> int:
    # Not getrusage: its peak is handed on from the process that started this one. Linux only.
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
