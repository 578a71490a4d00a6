"""Detection of a diverging training: the moving average of the loss against its minimum."""

from __future__ import annotations

from pydantic import BaseModel

MEMORY = 0.98  # decay of the moving average, which covers about 50 steps
TIMES, MORE = 3.0, 1.0  # a loss over TIMES * lowest + MORE is more than chance in the choice of batches


class Trend(BaseModel):
    """The course of the loss.

    Attributes:
        recent: Moving average of the losses; None before the first step.
        lowest: The lowest value of that average; None before the first step.
    """

    recent: float | None = None
    lowest: float | None = None

    def diverged(self, loss: float) -> bool:
        """Add a step's loss; return True if the average has risen far above its minimum."""
        self.recent = loss if self.recent is None else MEMORY * self.recent + (1 - MEMORY) * loss
        self.lowest = self.recent if self.lowest is None else min(self.lowest, self.recent)
        return self.recent > TIMES * self.lowest + MORE
