"""Batch normalisation over the images of all processes, so that training equals that of a single process."""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skumatch.model.torchvision_ops import open_clip

timm = open_clip.timm_model.timm  # importing it directly would bypass torchvision_ops


def share_statistics(model: nn.Module, device: torch.device) -> None:
    """Make batch normalisation use the images of all processes, each of which must have equally many.

    On GPUs torch's SyncBatchNorm replaces the layers. torch has none for CPUs, so there the layers' forward
    pass in training is replaced by one in plain torch: means and variances are gathered, and their gradients
    summed. The names of tensors don't change.
    """
    if device.type == "cuda":
        timm.layers.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = MethodType(_normalised, module)  # type: ignore[method-assign]


class _Gather(torch.autograd.Function):
    """Gather a tensor [...] of each process as [processes, ...], with gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ARG004
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]


def _normalised(module: _BatchNorm, pixels: Tensor) -> Tensor:
    """Normalise [B, C, ...] over the images of all processes; in evaluation mode call the layer's forward."""
    if not module.training:
        return type(module).forward(module, pixels)
    axes, shape = [0, *range(2, pixels.dim())], [1, -1] + [1] * (pixels.dim() - 2)
    own = torch.stack([pixels.mean(axes), pixels.var(axes, correction=0)])
    means, variances = cast(Tensor, _Gather.apply(own)).unbind(1)  # type: ignore[no-untyped-call]
    mean = means.mean(0)
    variance = (variances + (means - mean).square()).mean(0)
    if module.track_running_stats:
        _remember(module, mean.detach(), variance.detach(), len(means) * pixels.numel() // pixels.shape[1])
    scale = (variance + module.eps).rsqrt() * module.weight
    output = (pixels - mean.view(shape)) * scale.view(shape)
    if module.bias is not None:
        output = output + module.bias.view(shape)
    if isinstance(module, timm.layers.BatchNormAct2d):
        output = module.act(module.drop(output))
    return output


def _remember(module: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics as torch does: by the momentum, with the unbiased variance."""
    assert module.momentum is not None and module.num_batches_tracked is not None
    assert module.running_mean is not None and module.running_var is not None
    module.num_batches_tracked += 1
    module.running_mean.lerp_(mean, module.momentum)
    module.running_var.lerp_(variance * (count / (count - 1)), module.momentum)
