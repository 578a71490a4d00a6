"""Low-rank adapters (LoRA) by peft, merged back into plain weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

from skumatch.errors import ParameterError
from skumatch.model.chance import generator
from skumatch.model.encoder import Encoder

BLOCK = re.compile(r"blocks\.\d+\.")
NAME = "default"  # peft's name of an adapter


@contextmanager
def adapted(encoder: Encoder, rank: int, frozen: Set[int] = frozenset()) -> Iterator[None]:
    """Train only low-rank changes to a ViT's linear layers (LoRA, Hu et al., arXiv 2106.09685).

    Inside the context each linear layer of attention and MLP has the weight W + B A. W is fixed; A and B, of
    this rank, are trained, and B starts at 0. In attention the layers are query, key, value and output; in
    EVA-01 only the output. A projection beside the tower is trained as it is. Afterwards the tower has plain
    weights again.

    Args:
        encoder: An encoder whose tower is a ViT.
        rank: Rank of the changes.
        frozen: The ids (`id()`) of parameters that aren't changed.

    Raises:
        ParameterError: The tower is no ViT, or all of its blocks are frozen.
    """
    tower = encoder.tower
    if not encoder.fixed_canvas:
        raise ParameterError(
            "train.tower.lora_rank is for ViTs, and this encoder is convolutional; set it to 0, or use a ViT."
        )
    grad_flags = [(parameter, parameter.requires_grad) for parameter in tower.parameters()]
    attentions = {
        name: module
        for name, module in tower.named_modules()
        if type(module) is nn.MultiheadAttention and BLOCK.search(name)
    }
    for name, module in attentions.items():
        tower.set_submodule(name, Attention(module))
    try:
        _adapt(tower, rank, frozen)
        yield
    finally:
        _merge(tower)
        for name, module in attentions.items():
            tower.set_submodule(name, module)
        for parameter, requires_grad in grad_flags:
            parameter.requires_grad_(requires_grad)


def _adapt(tower: Any, rank: int, frozen: Set[int]) -> None:
    """Add adapters to the linear layers of the blocks that aren't frozen."""
    # With a q_bias timm's attention reads the weight of `qkv` and never calls the layer.
    bypassed = {
        f"{name}.qkv" for name, module in tower.named_modules() if getattr(module, "q_bias", None) is not None
    }
    linear = {
        name: module
        for name, module in tower.named_modules()
        if BLOCK.search(name) and isinstance(module, nn.Linear)
    }
    targets = [
        name for name, module in linear.items() if id(module.weight) not in frozen and name not in bypassed
    ]
    if not targets:
        raise ParameterError(
            "train.tower.freeze leaves no block that train.tower.lora_rank could change; lower one of them."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator("lora", rank).initial_seed())
        LoraModel(tower, {NAME: LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)}, NAME)


@torch.no_grad()
def _merge(tower: nn.Module) -> None:
    """Add each adapter to its layer's weight and put the plain layer back in its place."""
    for name, module in list(tower.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            tower.set_submodule(name, module.get_base_layer())


class Attention(nn.Module):
    """Self-attention with the weights of a torch nn.MultiheadAttention in two linear layers for peft.

    peft also adapts nn.MultiheadAttention itself, but then counts the change of the output layer twice (peft
    0.21, huggingface/peft pull request 3774).

    Attributes:
        heads: Number of heads.
        in_proj: Linear layer for query, key and value.
        out_proj: Linear layer for the output.
    """

    def __init__(self, plain: nn.MultiheadAttention) -> None:
        super().__init__()
        assert plain.batch_first and plain.in_proj_weight is not None and not plain.dropout
        self.heads = plain.num_heads
        with torch.device("meta"):
            self.in_proj = nn.Linear(plain.embed_dim, 3 * plain.embed_dim)
        self.in_proj.weight, self.in_proj.bias = plain.in_proj_weight, plain.in_proj_bias
        self.out_proj = plain.out_proj

    def forward(
        self, query: Tensor, *_: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attend as nn.MultiheadAttention does when key and value equal the query.

        Args:
            query: [B, tokens, width].
            need_weights: Must be False.
            attn_mask: As in nn.MultiheadAttention.

        Returns:
            [B, tokens, width], and None in place of the attention weights.
        """
        assert not need_weights
        queries, keys, values = self.in_proj(query).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask)
        projected: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return projected, None
