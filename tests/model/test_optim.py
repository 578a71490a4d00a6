from __future__ import annotations

import pytest
import torch
from torch import nn

from skumatch.errors import ParameterError, TrainingDiverged
from skumatch.model.encoder import Encoder, build
from skumatch.model.head import Head
from skumatch.model.optim import adamw, clip, groups, set_rates
from skumatch.model.tower import layers
from skumatch.params import EncoderParams, LossParams, OptimizerParams
from tests.model.towers import smoke, timm_vit, vit

DECAYING = OptimizerParams(lr_tower=1e-2, lr_head=0.1, layer_decay=0.5)


def head(encoder: Encoder) -> Head:
    return Head(3, encoder.dim, LossParams())


def rates(encoder: Encoder, params: OptimizerParams) -> dict[str, float]:
    """The highest rate of each of the encoder's parameters, by name."""
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    parameter_groups = groups(encoder, head(encoder), params)
    listed = [
        (names[id(parameter)], group["highest"])
        for group in parameter_groups[:-1]
        for parameter in group["params"]
    ]
    assert len(listed) == len(dict(listed)) == len(names), "each once"
    return dict(listed)


@pytest.mark.parametrize(
    ("model", "side", "blocks", "last"),
    [
        ("ViT-B-32", 224, "tower.transformer.resblocks.{}.mlp.c_fc.weight", 13),
        ("vit-s14-dinov2", 224, "tower.trunk.blocks.{}.mlp.fc1.weight", 12),
    ],
)
def test_rates_decay_block_by_block_on_vits(model: str, side: int, blocks: str, last: int) -> None:
    with torch.device("meta"):  # names and rates need no weights
        encoder = build(EncoderParams(model=model, weights="none", height=side, width=side), None)
    rate_by_name = rates(encoder, DECAYING)
    stem = "tower.conv1.weight" if model == "ViT-B-32" else "tower.trunk.patch_embed.proj.weight"
    assert rate_by_name[stem] == pytest.approx(1e-2 * 0.5**last)
    assert [rate_by_name[blocks.format(block)] for block in range(12)] == pytest.approx(
        [1e-2 * 0.5 ** (last - 1 - block) for block in range(12)]
    )
    assert max(rate_by_name.values()) == 1e-2 and len(set(rate_by_name.values())) == last + 1


def test_open_clips_own_vit_from_stem_to_top() -> None:
    rate_by_name = rates(vit(), DECAYING)
    for name in ("conv1.weight", "class_embedding", "positional_embedding", "ln_pre.bias"):
        assert rate_by_name[f"tower.{name}"] == 1e-2 * 0.5**4
    assert rate_by_name["tower.transformer.resblocks.0.attn.in_proj_weight"] == 1e-2 * 0.5**3
    assert rate_by_name["tower.transformer.resblocks.2.ln_1.weight"] == 1e-2 * 0.5
    assert rate_by_name["tower.ln_post.weight"] == rate_by_name["tower.proj"] == 1e-2


def test_rates_decay_on_efficientnet() -> None:
    with torch.device("meta"):
        encoder = build(
            EncoderParams(model="efficientnet-lite0", weights="none", height=192, width=192), None
        )
    rate_by_name = rates(encoder, DECAYING)
    assert rate_by_name["tower.trunk.conv_stem.weight"] == 1e-2 * 0.5**16
    assert rate_by_name["tower.trunk.blocks.0.0.conv_dw.weight"] == 1e-2 * 0.5**15
    assert rate_by_name["tower.trunk.blocks.1.1.bn3.bias"] == 1e-2 * 0.5**13
    assert (
        rate_by_name["tower.trunk.blocks.6.0.conv_pwl.weight"]
        == rate_by_name["tower.trunk.conv_head.weight"]
        == 1e-2
    )


def test_rates_decay_on_what_open_clip_puts_over_timms_towers() -> None:
    rate_by_name = rates(timm_vit(), DECAYING)
    assert (rate_by_name["tower.head.proj.weight"], rate_by_name["tower.trunk.norm.weight"]) == (1e-2, 0.5e-2)


def test_a_projection_moves_as_fast_as_the_top() -> None:
    rate_by_name = rates(smoke(dim=8), DECAYING)
    assert rate_by_name["projection.linear.weight"] == rate_by_name["tower.trunk.conv_head.weight"] == 1e-2


def test_without_decay_there_are_two_groups_and_weight_decay_on_everything() -> None:
    encoder = smoke()
    both, own = head(encoder), OptimizerParams()
    optimizer = adamw(encoder, both, own)
    first, second = optimizer.param_groups
    assert [id(p) for p in first["params"]] == [id(p) for p in encoder.parameters()]
    assert [id(p) for p in second["params"]] == [id(p) for p in both.parameters()]
    assert (first["highest"], second["highest"]) == (own.lr_tower, own.lr_head)
    assert first["weight_decay"] == second["weight_decay"] == own.weight_decay


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_only_what_needs_gradients_is_optimised(decay: float) -> None:
    encoder = smoke()
    encoder.tower.trunk.conv_stem.weight.requires_grad_(False)  # type: ignore[union-attr]
    given = [
        p
        for group in groups(encoder, nn.Identity(), OptimizerParams(layer_decay=decay))
        for p in group["params"]
    ]
    assert {id(p) for p in given} == {id(p) for p in encoder.parameters() if p.requires_grad}
    assert len(given) == len(list(encoder.parameters())) - 1


def test_all_rates_follow_the_schedule() -> None:
    encoder = smoke()
    optimizer = adamw(encoder, head(encoder), DECAYING)
    set_rates(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [
        group["highest"] * 0.1 for group in optimizer.param_groups
    ]
    assert optimizer.param_groups[0]["lr"] == 1e-2 * 0.1, "the tower's own rate comes first"


def test_the_layers_of_a_tower_that_tells_none(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = smoke()
    monkeypatch.setattr(type(encoder.tower.trunk), "group_matcher", lambda self, coarse: {"all": ""})
    with pytest.raises(
        ParameterError, match=r"doesn't tell its layers apart; set train\.optimizer\.layer_decay to 1"
    ):
        layers(encoder.tower)


def test_gradients_are_scaled_together_down_to_a_norm() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip([first, second], 10.0) == pytest.approx(5.0)
    assert first.grad.tolist() == [3.0, 0.0]
    assert clip([first, second], 1.0) == pytest.approx(5.0)
    assert torch.cat([first.grad, second.grad]).tolist() == pytest.approx([0.6, 0.0, 0.8])


def test_gradients_that_are_no_numbers_stop_the_run() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([float("inf")])
    with pytest.raises(TrainingDiverged, match=r"norm became inf; lower train\.optimizer\.lr_tower"):
        clip([parameter], 1.0)
