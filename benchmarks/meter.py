"""Run a Python command and write what it cost: `python -I meter.py FOLDER WORD...` runs `python WORD...`.

CPU seconds, bytes and the largest process come from the kernel's own sums over all descendants that ended and
were waited for (`getrusage` of children, `/proc/self/io`), so a child of milliseconds counts in full. Orphans
come to this process, which waits for them, too. Missing are: processes that outlive the command, such as
servers that it starts; children of a process that ignores SIGCHLD; and, in bytes, files that are mapped
instead of read. Bytes are those of all reads and writes, whether the disk or its cache answered, and pipes.

Memory is that of all processes together, pages that several share counted once, seen every half second; at
least the peak of the largest process. Linux only. It imports nothing of the project, so it starts at once and
the command can't inherit a peak from it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SAMPLE_S = 0.5
prctl = ctypes.CDLL(None).prctl  # looked up here: a forked child must not load libraries


def end_with_parent() -> None:
    """Have Linux send this process SIGTERM when its parent dies."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Watched:
    """A running command whose output is passed on.

    Attributes:
        silent_s: the longest time without output.
        peak_bytes: the largest sum of memory that was seen.
    """

    def __init__(self, words: list[str]) -> None:
        self.silent_s, self.peak_bytes = 0.0, 0
        self._heard = self._sampled = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
        signal.signal(signal.SIGTERM, lambda *_: self._process.terminate())

    def follow(self) -> int:
        """Pass the output on until the command ends; return its exit code, negative for a signal."""
        assert self._process.stdout
        output = self._process.stdout.fileno()
        while True:
            ready, _, _ = select.select([output], [], [], SAMPLE_S)
            if ready:
                text = os.read(output, 1 << 16)
                if not text:
                    break
                self._hear(text)
            elif os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break  # a process that it left behind holds the pipe
            if time.monotonic() - self._sampled >= SAMPLE_S:
                self.peak_bytes = max(self.peak_bytes, memory_of_descendants())
                self._sampled = time.monotonic()
        self._hear(b"")
        return reap(self._process.pid)

    def _hear(self, text: bytes) -> None:
        now = time.monotonic()
        self.silent_s, self._heard = max(self.silent_s, now - self._heard), now
        with suppress(BrokenPipeError):
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()


def memory_of_descendants() -> int:
    """Return the memory of all descendants in bytes, shared pages divided among those that share them."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def reap(pid: int) -> int:
    """Wait for a child, and for orphans that ended; return the child's exit code, negative for a signal."""
    code = None
    with suppress(ChildProcessError):
        while code is None or os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            ended, status = os.wait()
            code = os.waitstatus_to_exitcode(status) if ended == pid else code
    assert code is not None
    return code


def bytes_of_descendants() -> tuple[int, int]:
    """Return the bytes that all descendants that ended have read and written."""
    process, thread = (_io(path) for path in ("/proc/self/io", f"/proc/self/task/{os.getpid()}/io"))
    return process["rchar"] - thread["rchar"], process["wchar"] - thread["wchar"]


def _io(path: str) -> dict[str, int]:
    pairs = (line.split(": ") for line in Path(path).read_text("ascii").splitlines())
    return {name: int(value) for name, value in pairs}


def main(folder: Path, words: list[str]) -> int:
    """Run the command, write its cost into a file of `folder`, and return its exit code as a shell does."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    end_with_parent()
    began, start = time.time(), time.monotonic()
    watched = Watched(words)
    code = watched.follow()
    usage, (read, written) = resource.getrusage(resource.RUSAGE_CHILDREN), bytes_of_descendants()
    cost = {
        "words": words,
        "began": began,
        "exit_code": code,
        "wall_s": time.monotonic() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": max(watched.peak_bytes, usage.ru_maxrss << 10) / (1 << 20),
        "read_mb": read / 1e6,
        "written_mb": written / 1e6,
        "silent_s": watched.silent_s,
        "meter_s": time.process_time(),
    }
    target = folder / f"{time.time_ns()}-{os.getpid()}.json"
    aside = target.with_suffix(".part")
    aside.write_text(json.dumps(cost), "utf-8")
    aside.replace(target)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
