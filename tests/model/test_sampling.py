"""Class-balanced and P-K sampling: contents of an epoch for any counts of SKUs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skumatch.errors import ParameterError
from skumatch.model.chance import generator
from skumatch.model.schedule import Key, Schedule, balanced, grouped, occurrences, whole_parts
from skumatch.params import SamplingParams

seeds = st.integers(0, 999)
powers = st.sampled_from([0.0, 0.3, 0.5, 1.0])
counts = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def labels_of(sizes: list[int]) -> list[int]:
    """SKU number i has `sizes[i]` images, in an order of no meaning."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(0).permutation(labels).tolist()  # type: ignore[no-any-return]


def shown(labels: list[int], order: Any) -> Counter[int]:
    return Counter(labels[image] for image in order)


@given(sizes=counts, power=powers, seed=seeds)
def test_an_epoch_has_its_length_and_each_sku_its_share(sizes: list[int], power: float, seed: int) -> None:
    labels = labels_of(sizes)
    order = balanced(labels, power, generator(seed))
    assert len(order) == len(labels) and (order == balanced(labels, power, generator(seed))).all()
    weights = np.array(sizes, float) ** power
    shares = shown(labels, order)
    assert all(
        abs(shares[sku] - share) < 1 for sku, share in enumerate(len(labels) * weights / weights.sum())
    )
    times = Counter(order.tolist())
    for sku in range(len(sizes)):
        each = [times[image] for image, label in enumerate(labels) if label == sku]
        assert max(each) - min(each) <= 1


def test_power_zero_shows_all_skus_alike_and_a_half_lies_between() -> None:
    labels = labels_of([90, 10])
    assert shown(labels, balanced(labels, 0, generator(1))) == {0: 50, 1: 50}
    assert shown(labels, balanced(labels, 0.5, generator(1))) == {0: 75, 1: 25}
    assert shown(labels, balanced(labels, 1, generator(1))) == {0: 90, 1: 10}


def test_a_share_of_less_than_an_image_comes_in_some_epochs() -> None:
    labels = labels_of([40, 1, 1])  # by n ** 0.9 the single ones come 1.4 times an epoch
    epochs = [shown(labels, balanced(labels, 0.9, generator(seed)))[1] for seed in range(400)]
    assert set(epochs) == {1, 2} and np.mean(epochs) == pytest.approx(42 / (40**0.9 + 2), abs=0.1)


@given(parts=st.lists(st.floats(0, 5), min_size=1, max_size=30), seed=seeds)
def test_whole_parts_keep_the_sum_and_are_neighbours(parts: list[float], seed: int) -> None:
    expected = np.array([*parts, np.ceil(sum(parts)) - sum(parts)])
    rounded = whole_parts(expected, generator(seed))
    assert rounded.sum() == round(expected.sum())
    assert (np.abs(rounded - expected) < 1 + 1e-9).all() and (rounded >= 0).all()


@given(values=st.lists(st.integers(0, 4), max_size=40))
def test_occurrences_count_what_came_before(values: list[int]) -> None:
    assert occurrences(np.array(values, np.int64)).tolist() == [
        values[:i].count(value) for i, value in enumerate(values)
    ]


@given(
    sizes=counts, power=powers, seed=seeds, steps=st.integers(1, 9), per_sku=st.integers(1, 5), data=st.data()
)
def test_every_batch_has_different_skus_with_as_many_images(
    sizes: list[int], power: float, seed: int, steps: int, per_sku: int, data: st.DataObject
) -> None:
    labels, skus = labels_of(sizes), data.draw(st.integers(1, len(sizes)))
    order = grouped(labels, power, steps, skus, per_sku, generator(seed))
    assert len(order) == steps * skus * per_sku
    for batch in order.reshape(steps, skus, per_sku).tolist():
        groups = [{labels[image] for image in group} for group in batch]
        assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == skus
        for group in batch:
            assert len(set(group)) == min(per_sku, sizes[labels[group[0]]])


@given(seed=seeds, power=st.sampled_from([0.0, 0.5, 1.0]))
def test_groups_are_drawn_by_the_power_but_never_twice_in_a_batch(seed: int, power: float) -> None:
    sizes = [400, 40, 40, 10, 10]
    labels = labels_of(sizes)
    counts = shown(labels, grouped(labels, power, 25, 2, 4, generator(seed)))
    groups = [counts[sku] / 4 for sku in range(5)]
    assert sum(groups) == 50 and max(groups) <= 25
    weights = np.array(sizes[1:], float) ** power
    first = min(
        25.0, 50 * 400**power / (400**power + weights.sum())
    )  # the largest SKU can be in every batch, and no more
    shares = [first, *((50 - first) * weights / weights.sum())]
    assert all(abs(group - share) <= 1 + 1e-9 for group, share in zip(groups, shares, strict=True))


def test_all_images_of_a_sku_come_round() -> None:
    labels = labels_of([8, 8, 8])
    assert set(grouped(labels, 1.0, 4, 3, 2, generator(3)).tolist()) == set(range(24))


KINDS = [
    SamplingParams(),
    SamplingParams(power=0.5),
    SamplingParams(per_sku=2),
    SamplingParams(power=0.0, per_sku=4),
]


def schedule(sampling: SamplingParams, **changes: Any) -> Schedule:
    return Schedule(60, 16, 3, 5, labels=labels_of([20, 15, 10, 5, 4, 3, 2, 1]), sampling=sampling, **changes)


def test_the_default_is_a_plain_permutation() -> None:
    order = torch.randperm(60, generator=generator(5, "order", 2)).tolist()
    assert schedule(KINDS[0]).order(2) == order == Schedule(60, 16, 3, 5).order(2)
    last = list(schedule(KINDS[0]))[-3:]
    assert last == [[Key(2, image) for image in order[start : start + 16]] for start in (0, 16, 32)]


@pytest.mark.parametrize("sampling", KINDS)
@given(start=st.integers(0, 9))
def test_resuming_anywhere_gives_the_rest(sampling: SamplingParams, start: int) -> None:
    whole = schedule(sampling)
    assert whole.steps == 9 and list(replace(whole, start=start)) == list(whole)[start:]
    assert whole.order(0) != whole.order(1) and replace(whole, seed=6).order(0) != whole.order(0)


@pytest.mark.parametrize("sampling", KINDS)
@given(world=st.sampled_from([1, 2, 4]), start=st.integers(0, 9))
def test_the_ranks_parts_together_are_one_processs_batches(
    sampling: SamplingParams, world: int, start: int
) -> None:
    parts = [list(schedule(sampling, rank=rank, world=world, start=start)) for rank in range(world)]
    assert [[key for part in step for key in part] for step in zip(*parts, strict=True)] == list(
        schedule(sampling, start=start)
    )
    assert all(len(batch) == 16 // world for part in parts for batch in part)


def test_an_image_shown_again_has_a_key_of_its_own() -> None:
    keys = [key for batch in schedule(KINDS[3]) for key in batch]
    assert len(set(keys)) == len(keys) and max(key.again for key in keys) > 0
    assert {key.again for batch in schedule(KINDS[0]) for key in batch} == {0}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"world": 3}, r"^3 processes can't share 16 images a step; set train\.batch to a multiple of 3\.$"),
        (
            {"sampling": SamplingParams(per_sku=3)},
            r"^train\.batch is 16, .*per_sku images; set it to a multiple of 3\.$",
        ),
        ({"sampling": SamplingParams(per_sku=4), "world": 8}, r"set it to a multiple of 32\.$"),
        (
            {"sampling": SamplingParams(per_sku=1)},
            r"^A batch of 16 with train\.sampling\.per_sku 1 needs 16 SKUs, there are 8; lower",
        ),
    ],
)
def test_batches_that_cant_be_made_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        replace(schedule(SamplingParams()), **changes)


def test_fewer_images_than_a_batch_make_one_step_of_what_there_is() -> None:
    assert [len(batch) for batch in Schedule(5, 8, 2, 0)] == [5, 5]
    few = Schedule(5, 8, 2, 0, labels=[0, 0, 0, 1, 1], sampling=SamplingParams(per_sku=4))
    assert [len(batch) for batch in few] == [8, 8] and few.size == 8
