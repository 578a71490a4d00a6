"""The probe, on synthetic features: SKUs differ in directions of low variance, light in others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from skumatch.model.encoder import Encoder, build
from skumatch.model.probe import fit, probe, tower_features
from skumatch.model.projection import Projection
from skumatch.params import EncoderParams, LossParams, ProbeParams

SKUS, EACH, WIDTH = 6, 12, 32
PARAMS = ProbeParams(epochs=60, batch=16)


def made(seed: int, count: int = EACH) -> tuple[Tensor, Tensor]:
    """Features [SKUS * count, WIDTH] and labels: strong light in numbers 0 to 7, weak SKUs in 8 to 15."""
    look = torch.randn(SKUS, 8, generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(SKUS).repeat_interleave(count)
    light = 2 * torch.randn(len(labels), 8, generator=draws)
    rest = 0.3 * torch.randn(len(labels), WIDTH - 16, generator=draws)
    return torch.cat(
        [light, look[labels] + 0.2 * torch.randn(len(labels), 8, generator=draws), rest], dim=1
    ) + 1, labels


def top1(gallery: Tensor, queries: Tensor, labels: Tensor, query_labels: Tensor) -> float:
    nearest = (functional.normalize(queries, dim=-1) @ functional.normalize(gallery, dim=-1).T).argmax(dim=1)
    return (labels[nearest] == query_labels).float().mean().item()


class Told(Encoder):
    """The tiny encoder as if its tower said WIDTH numbers: features are given, no picture is seen."""

    def __init__(self, dim: int) -> None:
        encoder = build(EncoderParams(model="smoke", weights="none", height=32, width=32), None)
        super().__init__(
            encoder.tower, encoder.preprocess, WIDTH, encoder.spec.model_copy(update={"dim": dim})
        )


def test_the_projection_finds_what_tells_skus_apart() -> None:
    (features, labels), (queries, query_labels) = made(1), made(2)
    encoder = Told(dim=8)
    probe(encoder, features[None], labels, SKUS, PARAMS, LossParams(), 7)
    with torch.inference_mode():
        gallery, projected = encoder.projected(features), encoder.projected(queries)
    assert top1(features, queries, labels, query_labels) < 0.6
    assert top1(gallery, projected, labels, query_labels) > 0.9
    assert (
        top1(gallery[:, :5], projected[:, :5], labels, query_labels)
        > top1(gallery[:, -3:], projected[:, -3:], labels, query_labels) + 0.2
    )


def test_a_projection_longer_than_there_are_skus_hears_no_noise() -> None:
    """SKUS products differ in SKUS - 1 directions; the others hardly change the nearest neighbours."""
    (features, labels), (queries, _) = made(1), made(2)
    projection = Projection(WIDTH, WIDTH).eval()
    fit(projection, features, labels, SKUS)
    with torch.inference_mode():
        projected = projection(torch.cat([features, queries]))
    whole, few = (functional.normalize(part, dim=1) for part in (projected, projected[:, : SKUS - 1]))
    assert torch.allclose(whole @ whole.T, few @ few.T, atol=0.01)


def test_evaluation_and_training_see_the_same_vectors_at_first() -> None:
    features, labels = made(1)
    projection = Projection(WIDTH, 8)
    fit(projection, features, labels, SKUS)
    assert torch.allclose(projection.eval()(features), projection.train()(features), atol=1e-2)
    assert torch.allclose(projection.eval()(features).mean(dim=0), torch.zeros(8), atol=1e-4)


@pytest.mark.parametrize("kind", ["arcface", "subcentre", "cosface"])
def test_the_heads_class_directions_tell_skus_apart(kind: str) -> None:
    features, labels = made(1)
    encoder, loss = Told(dim=8), LossParams.model_validate({"kind": kind, "centres": 2})
    head = probe(encoder, features[None], labels, SKUS, PARAMS, loss, 7)
    with torch.inference_mode():
        cosines = encoder.projected(made(2)[0]) @ functional.normalize(head.loss.W, dim=0)
    says = cosines.unflatten(1, (SKUS, -1)).amax(dim=2).argmax(dim=1)
    assert (says == labels).float().mean() > 0.9


def test_without_a_projection_only_the_head_learns() -> None:
    features, labels = made(1)
    encoder = Told(dim=0)
    head = probe(encoder, features[None], labels, SKUS, PARAMS, LossParams(), 7)
    assert encoder.projected(features).equal(functional.normalize(features, dim=-1))
    start = probe(
        encoder, features[None], labels, SKUS, PARAMS.model_copy(update={"epochs": 0}), LossParams(), 7
    )
    with torch.inference_mode():
        assert head(encoder.projected(features), labels) < 0.5 * start(encoder.projected(features), labels)


@pytest.mark.parametrize("change", [{"lr": 1e-4}, {"batch": 64}])
def test_rate_and_batch_of_the_head_are_those_asked_for(change: dict[str, float]) -> None:
    """Slower, or in fewer steps, it has come less far."""
    features, labels = made(1)
    encoder, few = Told(dim=0), PARAMS.model_copy(update={"epochs": 3})
    quick, slow = (
        probe(encoder, features[None], labels, SKUS, params, LossParams(), 7)
        for params in (few, few.model_copy(update=change))
    )
    with torch.inference_mode():
        assert quick(encoder.projected(features), labels) < slow(encoder.projected(features), labels)


def test_a_loss_of_pairs_has_no_head_to_learn() -> None:
    features, labels = made(1)
    head = probe(Told(dim=8), features[None], labels, SKUS, PARAMS, LossParams(kind="supcon"), 7)
    assert not head.state_dict()


def test_augmented_views_teach_what_to_overlook() -> None:
    features, labels = made(1, count=2)
    queries, query_labels = made(2)
    views = torch.stack(
        [features, *(torch.cat([made(seed, 2)[0][:, :8], features[:, 8:]], dim=1) for seed in range(10, 18))]
    )
    accuracies = []
    for seen in (views[:1], views):
        encoder = Told(dim=8)
        probe(encoder, seen, labels, SKUS, PARAMS, LossParams(), 7)
        with torch.inference_mode():
            accuracies.append(
                top1(encoder.projected(features), encoder.projected(queries), labels, query_labels)
            )
    assert accuracies[1] > accuracies[0] + 0.1


def test_equal_arguments_give_equal_bits_and_the_seed_counts() -> None:
    features, labels = made(1)

    def run(seed: int) -> list[Tensor]:
        encoder = Told(dim=8)
        head = probe(encoder, features[None], labels, SKUS, PARAMS, LossParams(), seed)
        return [*head.state_dict().values(), *encoder.projection.state_dict().values()]  # type: ignore[union-attr]

    torch.manual_seed(1)
    first = run(7)
    torch.manual_seed(2)
    assert all(before.equal(other) for before, other in zip(first, run(7), strict=True))
    assert not first[0].equal(run(8)[0])


@settings(max_examples=20)
@given(stretch=st.floats(0.01, 100), seed=st.integers(0, 1000), parts=st.integers(1, 71))
def test_neither_length_nor_order_of_features_counts(stretch: float, seed: int, parts: int) -> None:
    features, labels = made(1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    whole, shuffled = Projection(WIDTH, 4), Projection(WIDTH, 4)
    fit(whole, features, labels, SKUS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skumatch.model.probe.PART", parts)
        fit(shuffled, stretch * features[order], labels[order], SKUS)
    original, other = (
        functional.normalize(each.eval()(features), dim=-1).detach() for each in (whole, shuffled)
    )
    assert torch.allclose(original @ original.T, other @ other.T, atol=1e-3)


def test_tower_features_are_the_towers_own() -> None:
    encoder = build(EncoderParams(model="smoke", weights="none", height=32, width=32, dim=16), None).train()
    pixels = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    features = tower_features(encoder, pixels.split(4))
    assert features.shape == (6, encoder.width) and not features.is_inference()
    expected = encoder.eval().tower(
        encoder.preprocess.normalise(pixels).contiguous(memory_format=torch.channels_last)
    )
    assert torch.allclose(features, expected, atol=1e-5)
