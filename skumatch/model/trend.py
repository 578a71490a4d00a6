"""Whether a training still learns: its recent loss against the lowest it had come to."""

from __future__ import annotations

from pydantic import BaseModel

MEMORY = 0.98  # of the moving average: about 50 steps
TIMES, MORE = 3.0, 1.0  # a loss of three times the lowest, and one more, is no chance of batches


class Trend(BaseModel):
    """recent: moving average of the losses; lowest: the lowest it has been.

    Both None before the first step.
    """

    recent: float | None = None
    lowest: float | None = None

    def diverged(self, loss: float) -> bool:
        """Take in a step's loss; tell whether what was learnt is being lost."""
        self.recent = loss if self.recent is None else MEMORY * self.recent + (1 - MEMORY) * loss
        self.lowest = self.recent if self.lowest is None else min(self.lowest, self.recent)
        return self.recent > TIMES * self.lowest + MORE
