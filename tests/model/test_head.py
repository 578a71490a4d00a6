from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from skumatch.errors import ParameterError
from skumatch.model.head import Head
from skumatch.params import LossParams

EMBEDDINGS = functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
ARCFACE = LossParams(margin=0.3, scale=16.0, label_smoothing=0.1)


def head(params: LossParams, classes: int = 4) -> Head:
    torch.manual_seed(3)
    return Head(classes, 8, params)


def logits(cosines: torch.Tensor, margin: float, angular: bool) -> torch.Tensor:
    """By the papers' formulas (no target angle here is beyond pi - margin)."""
    target = functional.one_hot(LABELS, 4).bool()
    with_margin = torch.cos(torch.acos(cosines) + margin) if angular else cosines - margin
    return 16.0 * torch.where(target, with_margin, cosines)


def cosines(weights: torch.Tensor, centres: int = 1, dim: int = 8) -> torch.Tensor:
    beginnings = functional.normalize(EMBEDDINGS[:, :dim], dim=-1)
    return (beginnings @ functional.normalize(weights, dim=0)).view(6, 4, centres).amax(dim=2)


def expected(head: Head, margin: float, smoothing: float) -> torch.Tensor:
    return functional.cross_entropy(
        logits(cosines(head.loss.W), margin, angular=True), LABELS, label_smoothing=smoothing
    )


@pytest.mark.parametrize(("epochs", "margin"), [(0.0, 0.0), (1.0, 0.15), (2.0, 0.3), (4.0, 0.3)])
def test_margin_is_in_radians_and_grows_over_its_epochs(epochs: float, margin: float) -> None:
    made = head(ARCFACE.model_copy(update={"margin_epochs": 2.0}))
    made.ramp(epochs)
    assert math.isclose(made(EMBEDDINGS, LABELS).item(), expected(made, margin, 0.1).item(), rel_tol=1e-5)


@pytest.mark.parametrize(("epochs", "share"), [(0.0, 0.0), (1.0, 0.5), (3.0, 1.0)])
def test_cosface_takes_its_margin_from_the_cosine(epochs: float, share: float) -> None:
    made = head(LossParams(kind="cosface", margin=0.3, margin_epochs=2.0, scale=16.0, label_smoothing=0.1))
    made.ramp(epochs)
    right = functional.cross_entropy(
        logits(cosines(made.loss.W), 0.3 * share, angular=False), LABELS, label_smoothing=0.1
    )
    assert math.isclose(made(EMBEDDINGS, LABELS).item(), right.item(), rel_tol=1e-5)


def test_the_nearest_of_a_classs_centres_counts() -> None:
    made = head(LossParams(kind="subcentre", centres=3, margin=0.3, scale=16.0, label_smoothing=0.1))
    assert made.loss.W.shape == (8, 12)
    right = functional.cross_entropy(
        logits(cosines(made.loss.W, centres=3), 0.3, angular=True), LABELS, label_smoothing=0.1
    )
    assert math.isclose(made(EMBEDDINGS, LABELS).item(), right.item(), rel_tol=1e-5)


def test_supcon_is_the_papers_loss_of_pairs_and_has_no_weights() -> None:
    made = head(LossParams(kind="supcon", temperature=0.2))
    made.ramp(0.5)
    similar = EMBEDDINGS @ EMBEDDINGS.T / 0.2
    others = ~torch.eye(6, dtype=torch.bool)
    log_share = similar - torch.logsumexp(similar.masked_fill(~others, -torch.inf), dim=1, keepdim=True)
    positives = (LABELS[:, None] == LABELS) & others
    anchors = positives.any(dim=1)
    right = -torch.stack([log_share[i][positives[i]].mean() for i in range(6) if anchors[i]]).mean()
    assert math.isclose(made(EMBEDDINGS, LABELS).item(), right.item(), rel_tol=1e-4)
    assert not list(made.parameters())


def test_matryoshka_averages_the_losses_of_the_beginnings() -> None:
    made = head(ARCFACE.model_copy(update={"dims": (2, 4, 8)}))
    made.ramp(0.5)
    weights = {2: made.nested[0].W, 4: made.nested[1].W, 8: made.loss.W}
    each = [logits(cosines(weight, dim=dim), 0.15, angular=True) for dim, weight in weights.items()]
    right = torch.stack(
        [functional.cross_entropy(part_loss, LABELS, label_smoothing=0.1) for part_loss in each]
    ).mean()
    assert math.isclose(made(EMBEDDINGS, LABELS).item(), right.item(), rel_tol=1e-5)
    assert list(made.state_dict()) == ["loss.W", "nested.0.W", "nested.1.W"]


def test_a_beginning_longer_than_the_embedding() -> None:
    with pytest.raises(
        ParameterError, match=r"train\.loss\.dims has 16, but the embedding is 8 numbers long"
    ):
        head(ARCFACE.model_copy(update={"dims": (4, 16)}))


@settings(max_examples=20)
@given(
    kind=st.sampled_from(["arcface", "subcentre", "cosface", "supcon"]),
    stretch=st.floats(0.01, 100),
    dims=st.sampled_from([(), (3,)]),
)
def test_only_directions_count(kind: str, stretch: float, dims: tuple[int, ...]) -> None:
    made = head(LossParams.model_validate({"kind": kind, "dims": dims}))
    assert math.isclose(
        made(stretch * EMBEDDINGS, LABELS).item(), made(EMBEDDINGS, LABELS).item(), rel_tol=1e-3, abs_tol=1e-4
    )


@pytest.mark.parametrize("kind", ["arcface", "subcentre", "cosface"])
def test_class_directions_start_with_about_length_one(kind: str) -> None:
    lengths = Head(50, 1280, LossParams.model_validate({"kind": kind})).loss.W.norm(dim=0)
    assert lengths.min() > 0.8 and lengths.max() < 1.2


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_full_margin_without_a_ramp_or_its_epochs(kind: str) -> None:
    params = LossParams.model_validate(
        {"kind": kind, "margin": 0.3, "scale": 16.0, "label_smoothing": 0.0, "margin_epochs": 0}
    )
    made = head(params)
    right = functional.cross_entropy(logits(cosines(made.loss.W), 0.3, angular=kind == "arcface"), LABELS)
    assert math.isclose(made(EMBEDDINGS, LABELS).item(), right.item(), rel_tol=1e-5)
    made.ramp(0.0)
    assert math.isclose(made(EMBEDDINGS, LABELS).item(), right.item(), rel_tol=1e-5)


@pytest.mark.parametrize("kind", ["arcface", "subcentre", "cosface", "supcon"])
def test_half_precision_embeddings_leave_the_class_weights_in_float32(kind: str) -> None:
    made = head(LossParams.model_validate({"kind": kind, "dims": (4,)}))
    with torch.autocast("cpu", torch.bfloat16):
        loss = made(EMBEDDINGS.bfloat16(), LABELS)
    assert loss.dtype == torch.float32 and loss.item() == made(EMBEDDINGS.bfloat16().float(), LABELS).item()
    assert all(weight.dtype == torch.float32 for weight in made.parameters())


def test_arcfaces_weights_are_in_the_checkpoint_under_their_name() -> None:
    assert list(head(ARCFACE).state_dict()) == ["loss.W"]
