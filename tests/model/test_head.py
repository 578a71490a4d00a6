from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from skumatch.model.head import Head

EMBEDDINGS = functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def expected(head: Head, margin: float, smoothing: float) -> torch.Tensor:
    """ArcFace by the paper's formula (no target angle here is beyond pi - margin)."""
    cosines = EMBEDDINGS @ functional.normalize(head.loss.W, dim=0)
    target = functional.one_hot(LABELS, 4).bool()
    logits = 16.0 * torch.where(target, torch.cos(torch.acos(cosines) + margin), cosines)
    return functional.cross_entropy(logits, LABELS, label_smoothing=smoothing)


@pytest.mark.parametrize(("share", "margin"), [(0.0, 0.0), (0.5, 0.15), (1.0, 0.3), (2.0, 0.3)])
def test_margin_is_in_radians_and_grows_to_its_full_size(share: float, margin: float) -> None:
    torch.manual_seed(3)
    head = Head(classes=4, dim=8, margin=0.3, scale=16.0, label_smoothing=0.1)
    head.ramp(share)
    assert math.isclose(head(EMBEDDINGS, LABELS).item(), expected(head, margin, 0.1).item(), rel_tol=1e-5)


def test_class_directions_start_with_about_length_one() -> None:
    lengths = Head(classes=50, dim=1280, margin=0.2, scale=24.0, label_smoothing=0.1).loss.W.norm(dim=0)
    assert lengths.min() > 0.8 and lengths.max() < 1.2


def test_full_margin_without_a_ramp() -> None:
    head = Head(classes=4, dim=8, margin=0.3, scale=16.0, label_smoothing=0.0)
    assert math.isclose(head(EMBEDDINGS, LABELS).item(), expected(head, 0.3, 0.0).item(), rel_tol=1e-5)


def test_half_precision_embeddings_leave_the_class_weights_in_float32() -> None:
    head = Head(classes=4, dim=8, margin=0.3, scale=16.0, label_smoothing=0.0)
    assert head(EMBEDDINGS.bfloat16(), LABELS).dtype == torch.float32
    assert head.loss.W.dtype == torch.float32
    assert list(head.state_dict()) == ["loss.W"]  # in the same checkpoint as the tower
