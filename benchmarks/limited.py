"""Parts of a benchmark in processes of their own, each ended when its time is over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

from benchmarks.measure import Row

State = Literal["done", "left out", "failed", "over its time"]
LAST_S = 10  # seconds that a process has to end after its last row


class LeftOut(Exception):
    """A part can't be measured on this machine; the text says why."""


class Part(NamedTuple):
    """A part of a benchmark.

    Attributes:
        name: of the part.
        limit_s: seconds after which it is ended.
        measure: a function at the top level of a module that yields rows.
        arguments: its arguments; they are pickled.
    """

    name: str
    limit_s: float
    measure: Callable[..., Iterator[Row]]
    arguments: tuple[Any, ...] = ()


@dataclass
class PartOutcome:
    """How a part ended.

    Attributes:
        part: its name.
        state: "done", or how it ended before.
        reason: why it is not "done", a sentence; else empty.
        seconds: that it took, imports included.
        rows: the figures that it came to.
    """

    part: str
    state: State = "failed"
    reason: str = "Its process ended without a word."
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


def run_parts(parts: Sequence[Part], total_s: float, start: str) -> Iterator[PartOutcome]:
    """Run parts one after the other and yield the outcome of each as it ends.

    Args:
        parts: the parts.
        total_s: seconds for all of them; a part gets no more than is left.
        start: how their processes start, "spawn" or "fork".
    """
    context = multiprocessing.get_context(start)
    end = time.monotonic() + total_s
    for part in parts:
        began = time.monotonic()
        if began >= end:
            yield PartOutcome(part.name, "left out", f"The {total_s:g} s of all parts were over.")
            continue
        outcome = _run(part, min(part.limit_s, end - began), context)
        outcome.seconds = round(time.monotonic() - began, 1)
        yield outcome


def _run(part: Part, limit_s: float, context: Any) -> PartOutcome:
    outcome, end = PartOutcome(part.name), time.monotonic() + limit_s
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(part, sender))
    process.start()
    sender.close()  # so that the pipe ends when the process does
    try:
        while True:
            if not receiver.poll(max(0.0, end - time.monotonic())):
                outcome.state, outcome.reason = "over its time", f"It was ended after {limit_s:.0f} s."
                break
            message = receiver.recv()
            if isinstance(message, Row):
                outcome.rows.append(message)
            else:
                outcome.state, outcome.reason = message
                process.join(LAST_S)
                break
    except EOFError:
        process.join(LAST_S)
        outcome.reason = f"Its process ended with exit code {process.exitcode}."
    finally:
        _kill(process)
    return outcome


def _kill(process: Any) -> None:
    """End the process and those that it started, such as loaders of pictures, if any are left."""
    with suppress(ProcessLookupError):  # it has ended, or has no group yet
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _end_with_parent() -> None:
    """End this process and those that it started when the benchmark is killed, so that the card is free."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _measure(part: Part, sender: Connection) -> None:
    """Send a part's rows, then how it ended: in its process, which gets a process group of its own."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for row in part.measure(*part.arguments):
            sender.send(row)
    except LeftOut as reason:
        sender.send(("left out", str(reason)))
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        sender.send(("failed", f"{type(error).__name__}: {first_line}"))
        raise
    else:
        sender.send(("done", ""))
