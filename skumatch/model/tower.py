"""Parts of a tower counted by layer, and its changes for training: frozen layers, LoRA, patch dropout."""

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
from skumatch.model.torchvision_ops import open_clip
from skumatch.params import TowerParams

# by way of open_clip: importing timm directly would bypass torchvision_ops
group_parameters = open_clip.timm_model.timm.models.group_parameters
TRUNK = "trunk."  # prefix of the names of a timm model's tensors in an open_clip tower
# in the form of timm's group_matcher; parameters that match no pattern belong to the top
OWN_VIT = {
    "stem": r"^conv1|class_embedding|positional_embedding|ln_pre",
    "blocks": r"^transformer\.resblocks\.(\d+)",
}


def layers(tower: nn.Module) -> dict[str, int]:
    """Return the number of each parameter's layer, by the parameter's name.

    Layer 0 is the stem. Each block is a layer. The last layer is the top: a final norm or projection, unless
    that belongs to the last block. timm's towers define their layers. open_clip's own towers don't, and timm
    would put all of their parameters into a single layer, so `OWN_VIT` defines theirs.

    Raises:
        ParameterError: The tower doesn't tell its layers apart.
    """
    trunk: Any = getattr(tower, "trunk", None)
    if trunk is None:
        layer_of = dict(group_parameters(tower, OWN_VIT, reverse=True))
    else:
        matched = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
        layer_of = {f"{TRUNK}{name}": layer for name, layer in matched.items()}
        top = max(layer_of.values()) + 1
        layer_of |= {name: top for name, _ in tower.named_parameters() if name not in layer_of}
    if max(layer_of.values()) == 0:
        raise ParameterError(
            "This encoder doesn't tell its layers apart; "
            "set train.optimizer.layer_decay to 1 and train.tower.freeze to 0, or use another."
        )
    return layer_of


timm = open_clip.timm_model.timm  # importing it directly would bypass torchvision_ops
COMPILERS = ("cc", "gcc", "g++", "clang")


@contextmanager
def shaped(encoder: Encoder, params: TowerParams) -> Iterator[None]:
    """Change the encoder's tower for training as `params` say, and undo the changes afterwards.

    Adapters are merged into the tower's weights at the end. Make the optimiser inside the context. The names
    of tensors change inside it only if `params.lora_rank` is over 0.

    Raises:
        ParameterError: The tower doesn't support an option.
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
    """Freeze the first layers of a tower.

    Frozen parameters get no gradients. Modules that consist of them stay in evaluation mode, even if
    `train()` is called, so the statistics of batch normalisation don't change either.

    Args:
        tower: The tower.
        share: Share of the layers to freeze, 0..1; at least one is frozen, and the top never is.
        undo: Gets the callbacks that undo this.

    Returns:
        The ids (`id()`) of the frozen parameters.

    Raises:
        ParameterError: The tower doesn't tell its layers apart.
    """
    layer_of = layers(tower)
    last = max(layer_of.values())
    count = min(last, max(1, round(share * (last + 1))))
    frozen = [parameter for name, parameter in tower.named_parameters() if layer_of[name] < count]
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
    """Drop this share of a ViT's patches in training (Li et al., arXiv 2212.00794).

    The patches are drawn by torch's global generator.
    """
    trunk: Any = getattr(tower, "trunk", tower)
    name = "patch_dropout" if trunk is tower else "patch_drop"
    if not hasattr(trunk, name):
        raise ParameterError(
            "This encoder has no patches that could be left out; "
            "set train.tower.patch_dropout to 0, or use a ViT."
        )
    before = getattr(trunk, name)
    # it is None in timm's towers with rotary positions
    kind = timm.layers.PatchDropoutWithIndices if before is None else timm.layers.PatchDropout
    setattr(trunk, name, kind(share, num_prefix_tokens=getattr(trunk, "num_prefix_tokens", 1)))
    undo.callback(setattr, trunk, name, before)


def show_whole(tower: nn.Module) -> None:
    """Turn off patch dropout for the rest of the training.

    The fix trains on pictures as they are served, so it must see all patches.
    """
    for module in tower.modules():
        if isinstance(module, timm.layers.PatchDropout | timm.layers.PatchDropoutWithIndices):
            module.prob = 0.0


def _recompute(tower: nn.Module, undo: ExitStack) -> None:
    """Turn on activation checkpointing (Chen et al., arXiv 1604.06174).

    Only the activations between blocks are kept; the backward pass computes the others again.
    """
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
    """Keep batch normalisation from counting a batch twice when the backward pass computes it again."""
    # a task id other than -1 means a backward pass; torch.utils.checkpoint uses the same test
    again = module.training and torch._C._current_graph_task_id() != -1
    module.momentum = 0.0 if again else momentum
    if again:
        module.num_batches_tracked -= 1


def compiled(encoder: Encoder, backend: str = "inductor") -> Callable[[Tensor], Tensor]:
    """Return the encoder's forward function compiled by torch.compile; the encoder itself stays unchanged.

    Raises:
        ParameterError: `backend` needs a C++ compiler and there is none.
    """
    if backend == "inductor" and not any(map(shutil.which, (os.environ.get("CXX", "cc"), *COMPILERS))):
        raise ParameterError(
            "train.tower.compile needs a C++ compiler and there is none; install g++, or set it to false."
        )
    forward: Callable[[Tensor], Tensor] = torch.compile(encoder.forward, backend=backend, dynamic=False)
    return forward
