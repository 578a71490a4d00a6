"""How fast a training goes: for the progress line, and for a file that whoever follows may read meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Pace:
    """Time since the start, and the share of the steps' time that was spent waiting for pictures.

    size: images a step. steps: in all; first: done before. live: a file that gets a JSON line an epoch, as it
        ends.
    """

    def __init__(self, size: int, steps: int, first: int, live: Path | None = None) -> None:
        self.size, self.steps, self.first, self.live = size, steps, first, live
        self.began, self.waiting, self.aside = time.monotonic(), 0.0, 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same, while the time that each of them takes to come is noted."""
        asked = time.monotonic()
        for batch in batches:
            self.waiting += time.monotonic() - asked
            yield batch
            asked = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within is no step."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.aside += time.monotonic() - began

    def figures(self, step: int) -> dict[str, float]:
        """images_per_second with all that is done between steps, waiting_share of the steps' time, and seconds_left after `step` steps.

        At least one of them has been done since the start.
        """
        took = time.monotonic() - self.began
        rate = (step - self.first) * self.size / took
        left = (self.steps - step) * self.size / rate
        waiting = self.waiting / (took - self.aside)
        return {
            "images_per_second": round(rate, 2),
            "waiting_share": round(waiting, 4),
            "seconds_left": round(left, 1),
        }

    def said(self, loss: float, step: int, history: list[dict[str, float]]) -> str:
        """The progress line's text."""
        now = self.figures(step)
        known = [line["top1"] for line in history if "top1" in line]
        top1 = f", validation {100 * known[-1]:.1f} %" if known else ""
        left = f", {now['seconds_left'] / 60:.0f} min left" if now["seconds_left"] >= 60 else ""
        rate, waiting = now["images_per_second"], 100 * now["waiting_share"]
        return f"loss {loss:.3f}{top1}, {rate:.0f} images/s, {waiting:.0f} % waiting for pictures{left}"

    def tell(self, step: int, epoch: dict[str, Any]) -> None:
        """Add what is known of the epoch that has just ended to the live file.

        Its pace, if a step was done since the start.
        """
        if self.live is not None:
            pace = (
                self.figures(step) if step > self.first else {}
            )  # none where a resume judges what was left unjudged
            self.live.parent.mkdir(parents=True, exist_ok=True)
            with self.live.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({**epoch, "step": step, **pace}, sort_keys=True) + "\n")
