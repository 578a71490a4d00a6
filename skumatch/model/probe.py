"""The probe: a projection and a head fitted to a frozen tower's features, in seconds on a CPU."""

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

SHRINKAGE = 0.1  # of the scatter within SKUs towards a multiple of the identity
WEIGHT = 0.25  # a direction's weight is its scatter between SKUs, relative to that within them, to this power
LEAST = 1e-9  # lower bound of that scatter: n SKUs differ in n - 1 directions, all others only add noise
WARMUP = 0.1  # share of the head's steps
PART = 65_536  # pictures that are projected, or whose products are summed, in one call


def tower_features(encoder: Encoder, batches: Iterable[Tensor]) -> Tensor:
    """Compute the frozen tower's features of uint8 [B, 3, H, W] batches: float32 [n, width] on the CPU."""
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
    """Fit the encoder's projection in place, if it has one, and train a head: the start of fine-tuning.

    Args:
        encoder: The encoder, whose tower stays as it is.
        features: [views, n, width], from `tower_features`: first the pictures as they are served, then
            augmented views.
        labels: [n], each picture's class, 0..classes - 1.
        classes: Number of classes.
        params: Parameters of the probe.
        loss: Parameters of the loss.
        seed: Seed of all random numbers.

    Returns:
        The trained head, on the CPU.
    """
    all_features, all_labels = features.flatten(0, 1), labels.repeat(len(features))
    if encoder.projection:
        fit(encoder.projection, all_features, all_labels, classes)
    encoder.eval()
    device = next(encoder.parameters()).device
    with torch.no_grad():
        embeddings = torch.cat(
            [encoder.projected(part.to(device)).cpu() for part in torch.split(all_features, PART)]
        )
    return _trained(embeddings, all_labels, classes, params, loss, seed)


@torch.no_grad()
def fit(projection: Projection, features: Tensor, labels: Tensor, classes: int) -> None:
    """Fit the projection by linear discriminant analysis, in closed form.

    The scatter within classes is the same for all of them and is shrunk (Friedman, 1989). The directions are
    ordered by how much SKUs differ in them, so that the first k numbers of an embedding are the best k. Each
    direction is weighted by a power of that difference. If the embedding is longer than the number of SKUs,
    the remaining directions have weights near zero.

    Args:
        projection: The projection to fit, in place.
        features: [n, width].
        labels: [n], 0..classes - 1.
        classes: Number of classes.
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
    """Compute the mean [width], and the scatter within classes and in total [width, width], in float64.

    The features are processed in parts, so that only one part is held in float64.
    """
    width, count = features.shape[1], len(features)
    sums = torch.zeros(classes, width, dtype=torch.float64)
    products = torch.zeros(width, width, dtype=torch.float64)
    for part, part_labels in zip(torch.split(features, PART), torch.split(labels, PART), strict=True):
        rows = levelled(part).double()
        sums.index_add_(0, part_labels, rows)
        products += rows.T @ rows
    sizes = labels.bincount(minlength=classes).clamp(min=1)
    mean, between = sums.sum(dim=0) / count, (sums / sizes[:, None]).T @ sums
    return mean, (products - between) / count, products / count - mean.outer(mean)


def _trained(
    embeddings: Tensor, labels: Tensor, classes: int, params: ProbeParams, loss: LossParams, seed: int
) -> Head:
    """Train a head on fixed embeddings [n, dim]."""
    torch.manual_seed(generator(seed, "probe").initial_seed())
    head = Head(classes, embeddings.shape[1], loss)
    if not list(head.parameters()):
        return head  # a loss of pairs has no weights to learn
    optimizer, batch = AdamW(head.parameters()), min(params.batch, len(labels))
    steps_per_epoch = len(labels) // batch
    steps = params.epochs * steps_per_epoch
    for epoch in range(params.epochs):
        order = torch.randperm(len(labels), generator=generator(seed, "probe", epoch))
        for place, chosen in enumerate(torch.split(order[: steps_per_epoch * batch], batch)):
            step = epoch * steps_per_epoch + place
            optimizer.param_groups[0]["lr"] = params.lr * one_cycle(step, steps, WARMUP)
            head.ramp(step / steps_per_epoch)
            optimizer.zero_grad()
            head(embeddings[chosen], labels[chosen]).backward()
            optimizer.step()
    return head
