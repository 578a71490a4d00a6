"""Time and peak memory of one function, in a process of its own."""

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
    """Cost of one call.

    Attributes:
        seconds: wall time.
        peak_mib: largest resident memory of its process in MiB, imports included.
        result: the value that the call returned.
    """

    seconds: float
    peak_mib: float
    result: Any


@dataclass(frozen=True)
class Row:
    """One figure of a benchmark, with its bound.

    Attributes:
        name: of the figure.
        measured: the figure.
        bound: largest good figure, or the smallest if `better` is "more"; None if any figure will do.
        unit: of figure and bound.
        parts: the quantities that the figure is made of, in words.
        better: "less" or "more".
    """

    name: str
    measured: float
    bound: float | None
    unit: str
    parts: str = ""
    better: str = "less"

    @property
    def holds(self) -> bool | None:
        """Return whether the figure keeps its bound; None if it has none."""
        if self.bound is None:
            return None
        return self.measured <= self.bound if self.better == "less" else self.measured >= self.bound


def cost(function: Callable[..., Any], *arguments: Any) -> Cost:
    """Call `function` in a fresh process and return its cost; errors of the call are raised here.

    Args:
        function: a function at the top level of a module, as it is pickled.
        *arguments: positional arguments; they are pickled, too.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_timed, function, arguments).result()


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Cost:
    start = time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - start
    return Cost(seconds, _peak_kib() / 1024, result)


def _peak_kib() -> int:
    # Linux only. getrusage won't do: its peak is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
