"""The probe: what can be learned from a frozen tower's features, computed once, in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import AdamW

from skumatch.model.chance import generator
from skumatch.model.encoder import Encoder
from skumatch.model.head import Head
from skumatch.model.projection import Projection, levelled
from skumatch.model.runtime import autocast
from skumatch.model.schedule import one_cycle
from skumatch.params import LossParams, ProbeParams

SHRINKAGE = 0.1  # of the scatter within SKUs towards the same in all directions
WEIGHT = (
    0.25  # power of a direction's scatter between SKUs, relative to that within them, that it weighs with
)
LEAST = 1e-9  # of that scatter: n SKUs differ in n - 1 directions, and any more only add noise
WARMUP = 0.1  # share of the head's steps
PART = 65_536  # pictures that are projected, or whose products are summed, at once


def tower_features(encoder: Encoder, batches: Iterable[Tensor]) -> Tensor:
    """What the frozen tower says of uint8 [B, 3, H, W] batches: float32 [n, width] on the CPU."""
    encoder.eval()
    device = next(encoder.parameters()).device
    with torch.no_grad(), autocast(device):
        return torch.cat(
            [encoder.features(encoder.preprocess.normalise(pixels.to(device))).cpu() for pixels in batches]
        )


def probe(
    encoder: Encoder,
    features: Tensor,
    labels: Tensor,
    classes: int,
    params: ProbeParams,
    loss: LossParams,
    seed: int,
) -> Head:
    """Fit the encoder's projection in place, where it has one, then train and return a head for it: the start of fine-tuning.

    features: [views, n, width] of `tower_features`, the pictures as they are served first, then augmented ones. labels: [n].
    """
    everything, repeated = features.flatten(0, 1), labels.repeat(len(features))
    if encoder.projection:
        fit(encoder.projection, everything, repeated, classes)
    encoder.eval()
    device = next(encoder.parameters()).device
    with torch.no_grad():
        embeddings = torch.cat(
            [encoder.projected(part.to(device)).cpu() for part in torch.split(everything, PART)]
        )
    return _trained(embeddings, repeated, classes, params, loss, seed)


@torch.no_grad()
def fit(projection: Projection, features: Tensor, labels: Tensor, classes: int) -> None:
    """Discriminant directions in closed form: linear discriminant analysis with shrunk scatter (Friedman, 1989, with one class scatter).

    Directions are ordered by how much SKUs differ in them, so that a beginning of the embedding is the best of its length, and
    weighed by a power of it; where `dim` is larger than there are SKUs, the rest weighs next to nothing. features: [n, width].
    labels: [n] in 0..classes - 1.
    """
    mean, within, total = _scatter(features, labels, classes)
    width = len(mean)
    shrunk = within + SHRINKAGE * within.trace() / width * torch.eye(width, dtype=torch.float64)
    whitener = torch.linalg.inv(torch.linalg.cholesky(shrunk))
    between, directions = torch.linalg.eigh(whitener @ (total - within) @ whitener.T)
    order = between.argsort(descending=True, stable=True)[: projection.neck.num_features]
    rows = (whitener.T @ directions[:, order]).T
    spread = ((rows @ total) * rows).sum(dim=1).clamp(min=1e-6)
    weight = between[order].clamp(min=LEAST) ** WEIGHT * spread.sqrt()
    projection.linear.weight.copy_(rows)
    projection.neck.running_mean.copy_(rows @ mean)  # type: ignore[union-attr]
    projection.neck.running_var.copy_(spread)  # type: ignore[union-attr]
    projection.neck.weight.copy_(weight / weight.square().mean().sqrt())


def _scatter(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [width], scatter within classes and in all [width, width], in float64 and a part at a time."""
    width, count = features.shape[1], len(features)
    sums = torch.zeros(classes, width, dtype=torch.float64)
    products = torch.zeros(width, width, dtype=torch.float64)
    for some, of in zip(torch.split(features, PART), torch.split(labels, PART), strict=True):
        rows = levelled(some).double()
        sums.index_add_(0, of, rows)
        products += rows.T @ rows
    sizes = labels.bincount(minlength=classes).clamp(min=1)
    mean, between = sums.sum(dim=0) / count, (sums / sizes[:, None]).T @ sums
    return mean, (products - between) / count, products / count - mean.outer(mean)


def _trained(
    embeddings: Tensor, labels: Tensor, classes: int, params: ProbeParams, loss: LossParams, seed: int
) -> Head:
    """A head for embeddings [n, dim] that stay as they are."""
    torch.manual_seed(generator(seed, "probe").initial_seed())
    head = Head(classes, embeddings.shape[1], loss)
    if not list(head.parameters()):
        return head  # a loss of pairs has nothing of its own to learn
    optimizer, batch = AdamW(head.parameters()), min(params.batch, len(labels))
    each = len(labels) // batch
    for epoch in range(params.epochs):
        order = torch.randperm(len(labels), generator=generator(seed, "probe", epoch))
        for place, chosen in enumerate(torch.split(order[: each * batch], batch)):
            step = epoch * each + place
            optimizer.param_groups[0]["lr"] = params.lr * one_cycle(step, params.epochs * each, WARMUP)
            head.ramp(step / each)
            optimizer.zero_grad()
            head(embeddings[chosen], labels[chosen]).backward()
            optimizer.step()
    return head
