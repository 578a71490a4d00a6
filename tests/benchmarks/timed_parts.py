"""Parts for the tests of `benchmarks.limited`; their process imports this module and no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.limited import LeftOut
from benchmarks.measure import Row


def quick() -> Iterator[Row]:
    yield Row("quick", 1.0, None, "s")


def endless(child: Path) -> Iterator[Row]:
    """Start a process, as a loader of pictures is one, and never end."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    child.write_text(str(process.pid), "utf-8")
    yield Row("before", 2.0, 1.0, "s")
    time.sleep(40)


def failing() -> Iterator[Row]:
    yield Row("before", 3.0, 4.0, "s")
    raise RuntimeError("CUDA out of memory.\nA second line.")


def killed() -> Iterator[Row]:
    yield Row("before", 3.0, 4.0, "s")
    os._exit(3)


def unfit() -> Iterator[Row]:
    raise LeftOut("It needs more memory.")
    yield
