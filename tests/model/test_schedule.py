from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skumatch.model.schedule import Schedule, one_cycle, rate_share
from skumatch.params import FixParams, OptimizerParams
from tests.model.plain import plain


@given(
    images=st.integers(2, 60),
    batch=st.integers(2, 20),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_resuming_anywhere_gives_the_rest_of_the_same_batches(
    images: int, batch: int, epochs: int, seed: int, data: st.DataObject
) -> None:
    whole = Schedule(images, batch, epochs, seed)
    steps = list(whole)
    start = data.draw(st.integers(0, whole.steps))
    assert list(Schedule(images, batch, epochs, seed, start)) == steps[start:]
    assert len(steps) == whole.steps and all(len(step) == min(batch, images) for step in steps)


@given(images=st.integers(2, 60), seed=st.integers(0, 99))
def test_an_epoch_shows_each_image_at_most_once_in_another_order(images: int, seed: int) -> None:
    schedule = Schedule(images, 2, 2, seed)
    assert sorted(schedule.order(0)) == list(range(images))
    shown = [index for step in schedule for epoch, index, _ in step if epoch == 1]
    assert len(set(shown)) == len(shown) >= images - 1
    assert images < 20 or schedule.order(0) != schedule.order(1)


@pytest.mark.parametrize(("steps", "share"), [(1000, 0.3), (120, 0.1)])
def test_rate_is_pytorchs_one_cycle(steps: int, share: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=steps, pct_start=share, cycle_momentum=False
    )
    for step in range(steps):
        assert one_cycle(step, steps, share) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-4)
        optimizer.step()
        if step + 1 < steps:
            reference.step()


@given(steps=st.integers(1, 30), share=st.floats(0, 0.99))
def test_rate_is_never_zero_nor_above_the_highest(steps: int, share: float) -> None:
    assert all(0 < one_cycle(step, steps, share) <= 1 for step in range(steps))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_highest_rate_is_where_the_warm_up_ends_and_the_fix_begins_at_its_share_of_it(
    share: float,
) -> None:
    params = plain(
        epochs=4, fix=FixParams(epochs=1, lr_share=share), optimizer=OptimizerParams(warmup_share=share)
    )
    rates = [rate_share(step, 100, params) for step in range(500)]
    assert max(range(400), key=rates.__getitem__) == pytest.approx(400 * share, abs=1) and max(
        rates[:400]
    ) == pytest.approx(1)
    assert rates[400] == pytest.approx(share, rel=1e-3) and rates[400:] == sorted(rates[400:], reverse=True)
