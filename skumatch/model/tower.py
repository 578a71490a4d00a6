"""What training may change about a tower, and takes back at the end: frozen blocks, adapters, left-out patches, recomputing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skumatch.errors import ParameterError
from skumatch.model.encoder import Encoder
from skumatch.model.layers import layers
from skumatch.model.torchvision_ops import open_clip
from skumatch.params import TowerParams

timm = open_clip.timm_model.timm  # not without torchvision_ops
COMPILERS = ("cc", "gcc", "g++", "clang")


@contextmanager
def shaped(encoder: Encoder, params: TowerParams) -> Iterator[None]:
    """Within this the encoder trains as `params` say.

    Afterwards it is plain again, adapters merged into its weights.

    Make the optimiser within it. Tensors' names differ inside only with `params.lora_rank`.
    Raises ParameterError for what the tower can't do.
    """
    with ExitStack() as undo:
        frozen = freeze(encoder.tower, params.freeze, undo) if params.freeze else set()
        if params.lora_rank:
            from skumatch.model.lora import adapted  # its import takes seconds

            undo.enter_context(adapted(encoder, params.lora_rank, frozen))
        if params.patch_dropout:
            _leave_patches_out(encoder.tower, params.patch_dropout, undo)
        if params.checkpointing:
            _recompute(encoder.tower, undo)
        yield


def freeze(tower: nn.Module, share: float, undo: ExitStack) -> set[int]:
    """Fix the first `share` of the tower's layers, at least one, and return their parameters' ids.

    They get no gradients and stay in evaluation mode whatever `train()` says: statistics of batch
    normalisation stay too.
    """
    of = layers(tower)
    last = max(of.values())
    count = min(last, max(1, round(share * (last + 1))))
    frozen = [parameter for name, parameter in tower.named_parameters() if of[name] < count]
    for parameter in frozen:
        undo.callback(parameter.requires_grad_, parameter.requires_grad)
        parameter.requires_grad_(False)
    ids = {id(parameter) for parameter in frozen}
    for module in tower.modules():
        own = {id(parameter) for parameter in module.parameters()}
        if own and own <= ids:
            module.eval()
            module.train = MethodType(_stay, module)  # type: ignore[method-assign]
            undo.callback(module.__dict__.pop, "train")
    return ids


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001 as nn.Module.train
    return module


def _leave_patches_out(tower: nn.Module, share: float, undo: ExitStack) -> None:
    """Drop this share of a ViT's patches in training (Li et al., arXiv 2212.00794), by draws of torch's global generator."""
    trunk: Any = getattr(tower, "trunk", tower)
    name = "patch_dropout" if trunk is tower else "patch_drop"
    if not hasattr(trunk, name):
        raise ParameterError(
            "This encoder has no patches that could be left out; set train.tower.patch_dropout to 0, or use a ViT."
        )
    before = getattr(trunk, name)
    kind = (
        timm.layers.PatchDropoutWithIndices if before is None else timm.layers.PatchDropout
    )  # None: timm's towers with rotary positions
    setattr(trunk, name, kind(share, num_prefix_tokens=getattr(trunk, "num_prefix_tokens", 1)))
    undo.callback(setattr, trunk, name, before)


def show_whole(tower: nn.Module) -> None:
    """From now on leave no patches out, whatever `shaped` was asked for: a fix shows pictures as they are served."""
    for module in tower.modules():
        if isinstance(module, timm.layers.PatchDropout | timm.layers.PatchDropoutWithIndices):
            module.prob = 0.0


def _recompute(tower: nn.Module, undo: ExitStack) -> None:
    """Keep only what goes between blocks and compute the rest again for the gradients (Chen et al., arXiv 1604.06174)."""
    trunk: Any = getattr(tower, "trunk", tower)
    try:
        trunk.set_grad_checkpointing(True)
    except (AssertionError, AttributeError, NotImplementedError) as error:
        raise ParameterError(
            "This encoder can't compute activations twice; set train.tower.checkpointing to false."
        ) from error
    undo.callback(trunk.set_grad_checkpointing, False)
    for module in tower.modules():
        if isinstance(module, _BatchNorm):
            undo.callback(setattr, module, "momentum", module.momentum)
            undo.callback(
                module.register_forward_pre_hook(partial(_count_once, momentum=module.momentum)).remove
            )


def _count_once(module: Any, _: tuple[Tensor, ...], momentum: float | None) -> None:
    """A batch that is computed again for the gradients is no second one to the statistics of batch normalisation."""
    again = (
        module.training and torch._C._current_graph_task_id() != -1
    )  # in a backward pass, as torch.utils.checkpoint tells it
    module.momentum = 0.0 if again else momentum
    if again:
        module.num_batches_tracked -= 1


def compiled(encoder: Encoder, backend: str = "inductor") -> Callable[[Tensor], Tensor]:
    """The encoder's forward as torch.compile makes it: for training, while the encoder itself stays as it is, names and all.

    Raises ParameterError where `backend` needs a C compiler and there is none.
    """
    if backend == "inductor" and not any(map(shutil.which, (os.environ.get("CXX", "cc"), *COMPILERS))):
        raise ParameterError(
            "train.tower.compile needs a C++ compiler and there is none; install g++, or set it to false."
        )
    forward: Callable[[Tensor], Tensor] = torch.compile(encoder.forward, backend=backend, dynamic=False)
    return forward
