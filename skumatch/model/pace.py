"""The speed of a training, for the progress line and for a file that can be read while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Pace:
    """Times of a training since its start or resume.

    Attributes:
        size: Images per step.
        steps: Steps of the whole training.
        first: Steps done before this start.
        live: File that gets a JSON line at the end of each epoch, or None.
        began: `time.monotonic()` at this start.
        waiting: Seconds spent waiting for pictures.
        aside: Seconds spent on work that belongs to no step.
    """

    def __init__(self, size: int, steps: int, first: int, live: Path | None = None) -> None:
        self.size, self.steps, self.first, self.live = size, steps, first, live
        self.began, self.waiting, self.aside = time.monotonic(), 0.0, 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and add up the time spent waiting for each of them."""
        requested = time.monotonic()
        for batch in batches:
            self.waiting += time.monotonic() - requested
            yield batch
            requested = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Don't count the time inside the context as time of the steps."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.aside += time.monotonic() - began

    def figures(self, step: int) -> dict[str, float]:
        """Return the figures after `step` steps; at least one step must have been done since this start.

        Returns:
            images_per_second: Over all time since the start, pauses included.
            waiting_share: Time spent waiting for pictures, as a share of the time without pauses.
            seconds_left: The time that the remaining steps take at this rate.
        """
        elapsed_s = time.monotonic() - self.began
        rate = (step - self.first) * self.size / elapsed_s
        left_s = (self.steps - step) * self.size / rate
        waiting_share = self.waiting / (elapsed_s - self.aside)
        return {
            "images_per_second": round(rate, 2),
            "waiting_share": round(waiting_share, 4),
            "seconds_left": round(left_s, 1),
        }

    def said(self, loss: float, step: int, history: list[dict[str, float]]) -> str:
        """Return the text of the progress line.

        Args:
            loss: The loss of the last step.
            step: Steps done.
            history: Figures of each finished epoch; the last validation top-1 is shown.
        """
        figures = self.figures(step)
        validations = [line["top1"] for line in history if "top1" in line]
        top1 = f", validation {100 * validations[-1]:.1f} %" if validations else ""
        left = f", {figures['seconds_left'] / 60:.0f} min left" if figures["seconds_left"] >= 60 else ""
        rate, waiting = figures["images_per_second"], 100 * figures["waiting_share"]
        return f"loss {loss:.3f}{top1}, {rate:.0f} images/s, {waiting:.0f} % waiting for pictures{left}"

    def tell(self, step: int, epoch: dict[str, Any]) -> None:
        """Append the figures of the epoch that has just ended to the live file.

        The speed is added if a step was done since this start.
        """
        if self.live is not None:
            # no speed if a resumed training begins with the validation of its last epoch
            pace = self.figures(step) if step > self.first else {}
            self.live.parent.mkdir(parents=True, exist_ok=True)
            with self.live.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({**epoch, "step": step, **pace}, sort_keys=True) + "\n")
