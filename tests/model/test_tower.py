from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from skumatch.errors import ParameterError
from skumatch.model import tower
from skumatch.model.encoder import Encoder
from skumatch.model.head import Head
from skumatch.model.optim import adamw, set_rates
from skumatch.model.torchvision_ops import open_clip
from skumatch.model.tower import compiled, shaped
from skumatch.params import LossParams, OptimizerParams, TowerParams
from tests.model.towers import pixels, smoke, timm_vit, vit

VITS = pytest.mark.parametrize("make", [vit, timm_vit])
ALL = pytest.mark.parametrize("make", [smoke, vit, timm_vit])
Make = Callable[[], Encoder]
LABELS = torch.tensor([0, 1, 2, 0])


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not tensor.equal(after[name])}


class Training:
    """A few steps of an encoder and its head."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.head = encoder, Head(3, encoder.dim, LossParams())
        params = OptimizerParams(lr_tower=1e-2, lr_head=1e-2)
        self.optimizer = adamw(encoder, self.head, params)
        set_rates(self.optimizer, 1.0)

    def step(self, number: int) -> None:
        torch.manual_seed(number)
        self.encoder.train()
        self.head(self.encoder(pixels(self.encoder, seed=number)), LABELS).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def gradients(encoder: Encoder, seed: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(9)
    encoder.zero_grad()
    embeddings = encoder.train()(pixels(encoder, seed=seed))
    (embeddings * torch.linspace(-1, 1, encoder.dim)).sum().backward()
    return embeddings.detach(), {
        name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None
    }


@ALL
def test_the_defaults_change_nothing(make: Make) -> None:
    encoder = make()
    before, plain = gradients(encoder), list(encoder.modules())
    with shaped(encoder, TowerParams(freeze=0.0)):
        after = gradients(encoder)
        assert [id(module) for module in encoder.modules()] == [id(module) for module in plain]
    assert after[0].equal(before[0]) and not changed(before[1], after[1])


@pytest.mark.parametrize(
    ("make", "share", "frozen", "free"),
    [
        (smoke, 0.5, "trunk.blocks.1.", "trunk.blocks.2."),
        (smoke, 0.01, "trunk.conv_stem.", "trunk.blocks.0."),
        (vit, 0.4, "transformer.resblocks.0.", "transformer.resblocks.1."),
        (timm_vit, 0.99, "trunk.norm.", "head.proj."),
    ],
)
def test_frozen_blocks_keep_weights_and_statistics_while_the_rest_trains(
    make: Make, share: float, frozen: str, free: str
) -> None:
    encoder = make()
    before = state(encoder.tower)
    with shaped(encoder, TowerParams(freeze=share)):
        training = Training(encoder)
        for step in range(2):
            training.step(step)
    names = changed(before, state(encoder.tower))
    assert not [name for name in names if name.startswith(frozen)]
    assert [name for name in names if name.startswith(free)]
    assert names & {name for name in before if "running" in name} or make is not smoke
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert all(module.training for module in encoder.train().modules()), "afterwards train() wakes them again"


def test_a_frozen_block_says_the_same_in_training_as_in_evaluation() -> None:
    encoder = smoke()
    with shaped(encoder, TowerParams(freeze=0.5)):
        encoder.train()
        modules = dict(encoder.tower.named_modules())
        assert (
            not modules["trunk.blocks.1"].training
            and not modules["trunk.blocks.1.0.bn1"].training
            and not modules["trunk.bn1"].training
        )
        assert modules["trunk.blocks.2"].training and encoder.training
        copied = deepcopy(encoder).train()
        assert not dict(copied.tower.named_modules())["trunk.blocks.1.0.bn1"].training


@VITS
def test_adapters_alone_are_trained_and_merged_into_plain_weights(make: Make) -> None:
    encoder = make()
    before, modules = state(encoder), [type(module) for module in encoder.modules()]
    with shaped(encoder, TowerParams(lora_rank=2, freeze=0.0)):
        training = Training(encoder)
        assert all(
            "lora_" in name for name, parameter in encoder.named_parameters() if parameter.requires_grad
        )
        assert torch.allclose(encoder.eval()(pixels(encoder)), make().eval()(pixels(encoder)), atol=1e-6), (
            "at first nothing is added"
        )
        for step in range(3):
            training.step(step)
        fixed = {
            name.replace(".base_layer", "").replace("in_proj.", "in_proj_"): tensor
            for name, tensor in state(encoder).items()
            if "lora_" not in name
        }
        assert not changed(before, fixed), "the weights below the adapters keep their bits"
        unmerged = encoder.eval()(pixels(encoder)).detach()
    merged = encoder(pixels(encoder)).detach()
    assert (merged - unmerged).abs().max() <= 1e-5
    after = state(encoder)
    names = {name.removeprefix("tower.").removeprefix("trunk.") for name in changed(before, after)}
    block = "transformer.resblocks.{}." if make is vit else "blocks.{}."
    linear = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    linear = (
        linear if make is vit else ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    )
    assert names == {
        block.format(number) + name for number in range(3 if make is vit else 6) for name in linear
    }
    assert [type(module) for module in encoder.modules()] == modules
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    for name in changed(before, after):
        assert torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-4) <= 2, name


def test_adapters_stay_out_of_frozen_blocks_and_leave_the_callers_chance_alone() -> None:
    encoder = vit()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with shaped(encoder, TowerParams(lora_rank=2, freeze=0.4)):
        moving = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert torch.rand(1).equal(expected)
    assert not [name for name in moving if "resblocks.0." in name] and [
        name for name in moving if "resblocks.1." in name
    ]


@VITS
def test_training_with_adapters_resumes_to_the_same_bits(make: Make) -> None:
    def run(
        first: int, last: int, saved: tuple[dict[str, Tensor], dict[str, object]] | None
    ) -> tuple[Encoder, Training, object]:
        encoder = make()
        with shaped(encoder, TowerParams(lora_rank=2, freeze=0.0)):
            training = Training(encoder)
            both = nn.ModuleList([encoder, training.head])
            if saved:
                both.load_state_dict(saved[0])
                training.optimizer.load_state_dict(saved[1])
            for step in range(first, last):
                training.step(step)
            kept = state(both), deepcopy(training.optimizer.state_dict())
        return encoder, training, kept

    whole = run(0, 4, None)
    resumed = run(2, 4, run(0, 2, None)[2])  # type: ignore[arg-type]
    assert not changed(state(whole[0]), state(resumed[0]))


def test_a_layer_whose_weight_alone_is_used_gets_no_adapter() -> None:
    encoder = timm_vit()
    trunk = open_clip.timm_model.timm.models.eva.Eva(
        img_size=160, patch_size=16, embed_dim=64, depth=2, num_heads=2, qkv_fused=True, num_classes=0
    )
    encoder.tower.trunk = trunk
    with shaped(encoder, TowerParams(lora_rank=2, freeze=0.0)):
        training = Training(encoder)
        for step in range(2):
            training.step(step)
        unused = [
            name
            for name, parameter in encoder.named_parameters()
            if parameter.requires_grad and not training.optimizer.state[parameter]
        ]
        adapted = {
            name.rpartition(".lora_")[0].rsplit(".", 1)[-1]
            for name, _ in encoder.named_parameters()
            if ".lora_" in name
        }
    assert not unused and adapted == {"proj", "fc1", "fc2"}


def test_adapters_need_a_block_that_isnt_frozen() -> None:
    with (
        pytest.raises(ParameterError, match=r"lora_rank could change; lower one"),
        shaped(vit(), TowerParams(lora_rank=2, freeze=0.99)),
    ):
        pass


def test_adapters_are_not_for_convolutional_towers() -> None:
    with (
        pytest.raises(ParameterError, match=r"train\.tower\.lora_rank is for ViTs"),
        shaped(smoke(), TowerParams(lora_rank=2, freeze=0.0)),
    ):
        pass


@pytest.mark.parametrize(
    ("make", "block"), [(smoke, "blocks.1.0"), (vit, "blocks.1"), (timm_vit, "blocks.1")]
)
def test_recomputing_gives_the_same_gradients_and_statistics(make: Make, block: str) -> None:
    encoder, plain = make(), make()
    passes: list[int] = []
    part = next(module for name, module in encoder.tower.named_modules() if name.endswith(block))
    part.register_forward_pre_hook(lambda *_: passes.append(1))
    with shaped(encoder, TowerParams(checkpointing=True, freeze=0.0)):
        recomputed, own = gradients(encoder)
        assert sum(passes) == 2
    expected, expected_statistics = gradients(plain)
    assert recomputed.equal(expected) and own.keys() == expected_statistics.keys()
    assert all(torch.allclose(own[name], expected_statistics[name], atol=1e-6) for name in own)
    assert not changed(state(encoder), state(plain)), "a batch counts once"
    again = gradients(encoder)[1], gradients(plain)[1]
    assert sum(passes) == 3, "afterwards once"
    assert all(torch.allclose(again[0][name], again[1][name], atol=1e-6) for name in own)
    assert not changed(state(encoder), state(plain))


@VITS
def test_patches_are_left_out_in_training_only_and_by_the_global_generator(make: Make) -> None:
    encoder = make()
    whole = encoder.eval()(pixels(encoder))
    tokens: list[int] = []
    block = next(module for name, module in encoder.tower.named_modules() if name.endswith("blocks.1"))
    block.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
    with shaped(encoder, TowerParams(patch_dropout=0.5, freeze=0.0)):
        assert encoder.eval()(pixels(encoder)).equal(whole)
        first, again = gradients(encoder)[0], gradients(encoder)[0]
        torch.manual_seed(10)
        other = encoder.train()(pixels(encoder))
        assert first.equal(again) and not first.equal(other)
    all_of_them = tokens[0]
    assert tokens == [all_of_them, *[1 + (all_of_them - 1) // 2] * 3]
    assert encoder.train()(pixels(encoder)).shape == whole.shape and tokens[-1] == all_of_them, (
        "afterwards all"
    )


def test_a_convolutional_tower_has_no_patches() -> None:
    with (
        pytest.raises(ParameterError, match=r"no patches that could be left out"),
        shaped(smoke(), TowerParams(patch_dropout=0.5, freeze=0.0)),
    ):
        pass


@pytest.mark.parametrize(("make", "backend"), [(smoke, "eager"), (vit, "aot_eager")])
def test_a_compiled_forward_says_the_same_and_leaves_names_alone(make: Make, backend: str) -> None:
    encoder, plain = make(), make()
    forward = compiled(encoder, backend=backend)
    names = list(encoder.state_dict())
    embeddings = forward(pixels(encoder.train()))
    assert torch.allclose(embeddings, plain.train()(pixels(plain)), atol=1e-5)
    embeddings.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert list(encoder.state_dict()) == names


def test_compiling_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tower.shutil, "which", lambda name: None)
    with pytest.raises(ParameterError, match="needs a C\\+\\+ compiler"):
        compiled(smoke())


def test_all_of_it_together_trains_and_comes_back_plain() -> None:
    encoder = vit()
    names = set(encoder.state_dict())
    with shaped(encoder, TowerParams(freeze=0.4, lora_rank=2, patch_dropout=0.5, checkpointing=True)):
        training = Training(encoder)
        training.step(0)
    assert set(encoder.state_dict()) == names and all(
        tensor.isfinite().all() for tensor in encoder.state_dict().values()
    )
