"""Batch normalisation over the images of several processes, so that they learn what one process would."""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skumatch.model.torchvision_ops import open_clip

timm = open_clip.timm_model.timm  # not without torchvision_ops


def share_statistics(model: nn.Module, device: torch.device) -> None:
    """Make batch normalisation use the images of all processes, which have equally many.

    The names of tensors stay.

    On GPUs torch's SyncBatchNorm takes its place. There is none for CPUs, so there its pass in training is
    replaced by the same in plain torch: means and variances are gathered, and their gradients summed.
    """
    if device.type == "cuda":
        timm.layers.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = MethodType(_normalised, module)  # type: ignore[method-assign]


class _Gather(torch.autograd.Function):
    """[...] of this process -> [processes, ...] of all."""

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
    """[B, C, ...] -> the same, normalised over B of all processes; in evaluation mode as ever."""
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
    found = (pixels - mean.view(shape)) * scale.view(shape)
    if module.bias is not None:
        found = found + module.bias.view(shape)
    if isinstance(module, timm.layers.BatchNormAct2d):
        found = module.act(module.drop(found))
    return found


def _remember(module: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as torch does: by the momentum, with the unbiased variance."""
    assert module.momentum is not None and module.num_batches_tracked is not None
    assert module.running_mean is not None and module.running_var is not None
    module.num_batches_tracked += 1
    module.running_mean.lerp_(mean, module.momentum)
    module.running_var.lerp_(variance * (count / (count - 1)), module.momentum)
