"""A loss that falls, stays or fluctuates is normal; one that rises far above its level has diverged."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from skumatch.model.run import Trend

LOSSES = st.lists(st.floats(0, 40), min_size=1, max_size=300)


def steps_until(losses: list[float], trend: Trend | None = None) -> int | None:
    """Return the number of losses until divergence is reported."""
    trend = trend or Trend()
    return next((step for step, loss in enumerate(losses, 1) if trend.diverged(loss)), None)


@given(LOSSES)
def test_a_loss_that_never_rises_is_never_told(losses: list[float]) -> None:
    assert steps_until(sorted(losses, reverse=True)) is None


@given(LOSSES, st.integers(0, 300))
def test_what_was_saved_goes_on_alike(losses: list[float], cut: int) -> None:
    straight, first = Trend(), Trend()
    verdicts = [straight.diverged(loss) for loss in losses]
    before = [first.diverged(loss) for loss in losses[:cut]]
    again = Trend.model_validate_json(first.model_dump_json())
    assert verdicts == before + [again.diverged(loss) for loss in losses[cut:]]


def test_shaking_is_no_divergence() -> None:
    draws = random.Random(1)  # noqa: S311 no secret
    falling = [12 * 0.98**step + 1.5 + draws.choice([-0.4, 0.0, 0.0, 4.0]) for step in range(2000)]
    assert steps_until(falling) is None


def test_a_collapse_is_told_within_fifty_steps() -> None:
    learnt = [12 * 0.98**step + 1.0 for step in range(500)]
    steps = steps_until([*learnt, *[8.2] * 200])
    assert steps is not None and 500 < steps <= 550
