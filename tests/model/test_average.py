from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from skumatch.model.average import Average, between, snapshot, wise
from skumatch.model.encoder import Encoder
from tests.model.towers import pixels, smoke, vit

LAST = "tower.trunk.bn2"


def moved(encoder: Encoder, seed: int) -> None:
    """Another state: weights and the statistics of batch normalisation."""
    draws = torch.Generator().manual_seed(seed)
    encoder.train()(pixels(encoder, seed=seed))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(tensor.equal(second[name]) for name, tensor in first.items())


def test_the_average_follows_by_its_decay_after_a_short_memory_at_first() -> None:
    encoder = smoke()
    average, expected = Average(encoder, 0.25), snapshot(encoder)
    for step, decay in enumerate((0.1, 2 / 11, 0.25, 0.25)):
        moved(encoder, step)
        average.update(encoder, step)
        for name, tensor in encoder.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
    state = average.encoder.state_dict()
    for name in (
        f"{LAST}.weight",
        f"{LAST}.running_mean",
        f"{LAST}.running_var",
        "tower.trunk.conv_stem.weight",
    ):
        assert torch.allclose(state[name], expected[name], atol=1e-6), name
    assert state[f"{LAST}.num_batches_tracked"] == 4, "counts are copied"
    assert not average.encoder.training


def test_the_average_is_a_copy_that_training_leaves_alone() -> None:
    encoder = smoke()
    average = Average(encoder, 0.9)
    before = snapshot(average.encoder)
    moved(encoder, 1)
    assert same(before, average.encoder.state_dict()) and not any(
        p.requires_grad for p in average.encoder.parameters()
    )
    assert any(p.requires_grad for p in encoder.parameters())


def test_an_average_goes_on_from_its_saved_tensors_to_the_bit() -> None:
    encoder = smoke()
    whole, early = Average(encoder, 0.8), Average(encoder, 0.8)
    for step in range(6):
        moved(encoder, step)
        whole.update(encoder, step)
        if step < 3:
            early.update(encoder, step)
            continue
        resumed = Average(smoke(), 0.8)
        resumed.encoder.load_state_dict(snapshot(early.encoder))
        resumed.update(encoder, step)
        early = resumed
    assert same(early.encoder.state_dict(), whole.encoder.state_dict())


@given(st.floats(0, 1, width=32), st.integers(0, 9))
def test_between_is_the_straight_line_with_its_ends_to_the_bit(share: float, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    before, after = ({"weight": torch.randn(50, generator=draws), "count": torch.tensor(n)} for n in (2, 9))
    mixed = between(before, after, share)
    assert torch.allclose(
        mixed["weight"], before["weight"] + share * (after["weight"] - before["weight"]), atol=1e-5
    )
    assert mixed["count"] == 9
    assert between(before, after, 1.0)["weight"].equal(after["weight"])
    assert between(before, after, 0.0)["weight"].equal(before["weight"])


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        ({1.0: 0.5, 0.7: 0.75, 0.4: 0.6}, 0.7),
        ({1.0: 0.5, 0.7: 0.75, 0.4: 0.75}, 0.7),
        ({1.0: 0.75, 0.7: 0.75, 0.4: 0.5}, 1.0),
        ({1.0: 0.1, 0.7: 0.2, 0.4: 0.3}, 0.4),
    ],
)
def test_wise_keeps_the_best_share_and_of_equal_ones_the_larger(
    answers: dict[float, float], share: float
) -> None:
    encoder = vit()
    before = snapshot(encoder)
    moved(encoder, 1)
    after = snapshot(encoder)
    candidates: list[dict[str, Tensor]] = []

    def score(encoder: Encoder) -> float:
        candidates.append(snapshot(encoder))
        return list(answers.values())[len(candidates) - 1]

    assert wise(encoder, before, (0.4, 0.7), score) == (share, answers[share])
    assert all(same(seen, between(before, after, mix)) for seen, mix in zip(candidates, answers, strict=True))
    assert same(encoder.state_dict(), between(before, after, share))


def test_wise_moves_the_statistics_of_batch_normalisation_too() -> None:
    encoder = smoke()
    before = snapshot(encoder)
    moved(encoder, 1)
    after = snapshot(encoder)
    wise(encoder, before, (0.5,), lambda encoder: -float(encoder.state_dict()[f"{LAST}.num_batches_tracked"]))
    assert same(encoder.state_dict(), after), "a tie: as they are"
    means = iter((0.0, 1.0))
    wise(encoder, before, (0.5,), lambda _: next(means))
    half = (before[f"{LAST}.running_var"] + after[f"{LAST}.running_var"]) / 2
    assert torch.allclose(encoder.state_dict()[f"{LAST}.running_var"], half)
    assert not half.equal(after[f"{LAST}.running_var"])
