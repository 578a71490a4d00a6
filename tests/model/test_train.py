from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from skumatch.data.images import Images, Pixels
from skumatch.errors import Fenced, ParameterError, TrainingDiverged
from skumatch.model import run
from skumatch.model.checkpoint import Checkpoints
from skumatch.model.encoder import Encoder, build
from skumatch.model.head import Learner
from skumatch.model.tower import compiled, timm
from skumatch.model.train import train
from skumatch.params import (
    AverageParams,
    EncoderParams,
    FixParams,
    LossParams,
    OptimizerParams,
    ProbeParams,
    RuntimeParams,
    TowerParams,
)
from tests.conftest import ROOT
from tests.model.ddp_worker import read
from tests.model.plain import mild, plain
from tests.model.towers import vit

PARAMS = plain(
    epochs=2, batch=4, optimizer=OptimizerParams(lr_tower=3e-3, lr_head=1e-2), augment=mild(cutout=16)
)  # 12 steps
CPU = RuntimeParams(device="cpu", threads=1)
CLASSES = ["cola", "milk", "mint"]
PatchDropout = timm.layers.PatchDropout


def fit(
    shelf: Images, spec: EncoderParams, checkpoints: Checkpoints | None = None, **changes: Any
) -> Encoder:
    params = PARAMS.model_copy(update=changes.pop("params", {}))
    given: dict[str, Any] = {
        "images": shelf,
        "classes": CLASSES,
        "spec": spec,
        "params": params,
        "seed": 3,
        "weights": None,
        "runtime": CPU,
        "history": None,
    }
    return train(**(given | changes), checkpoints=checkpoints)


def same(first: Encoder, second: Encoder) -> bool:
    other = second.state_dict()
    return all(tensor.equal(other[name]) for name, tensor in first.state_dict().items())


class Killed(Exception):
    pass


class EverySteps(Checkpoints):
    """Saves after a fixed number of steps, independent of time."""

    every, asked = 3, 0

    def due(self) -> bool:
        self.asked += 1
        return self.asked % self.every == 0


class KilledAfter(EverySteps):
    """Saves `saves` times, then the process is gone."""

    saves = 2

    def save(self, *args: Any) -> None:
        super().save(*args)
        self.saves -= 1
        if self.saves == 0:
            raise Killed


@pytest.fixture(scope="module")
def whole(shelf: Images, tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, str]:
    """A run in one piece, and its history."""
    path = tmp_path_factory.mktemp("whole") / "history.jsonl"
    return fit(
        shelf, EncoderParams(model="smoke", weights="none", height=32, width=32), history=path
    ), path.read_text()


@pytest.mark.parametrize("saves", [1, 2, 4])
def test_killed_and_resumed_ends_with_the_same_bits(
    shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str], tmp_path: Path, saves: int
) -> None:
    killed = KilledAfter(str(tmp_path), "k")
    killed.saves = saves
    with pytest.raises(Killed):
        fit(shelf, smoke, killed)
    resumed = fit(shelf, smoke, Checkpoints(str(tmp_path), "k"), history=tmp_path / "history.jsonl")
    assert same(resumed, whole[0])
    assert (tmp_path / "history.jsonl").read_text() == whole[1]


def test_workers_give_the_same_bits(shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str]) -> None:
    assert same(fit(shelf, smoke, runtime=CPU.model_copy(update={"workers": 2})), whole[0])


def test_another_seed_gives_other_bits(
    shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str]
) -> None:
    assert not same(fit(shelf, smoke, seed=4), whole[0])


def test_history_has_one_deterministic_line_an_epoch(whole: tuple[Encoder, str]) -> None:
    lines = [json.loads(line) for line in whole[1].splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(line.keys() == {"epoch", "loss", "lr"} for line in lines)
    assert lines[1]["lr"] < lines[0]["lr"]


def test_the_loss_falls(shelf: Images, smoke: EncoderParams, tmp_path: Path) -> None:
    fit(shelf, smoke, params={"loss": LossParams(margin=0.0)}, history=tmp_path / "history.jsonl")
    first, second = (
        json.loads(line)["loss"] for line in (tmp_path / "history.jsonl").read_text().splitlines()
    )
    assert second < first


def test_training_brings_pictures_of_one_sku_together(shelf: Images, whole: tuple[Encoder, str]) -> None:
    encoder = whole[0]
    with torch.no_grad():
        embeddings = encoder(
            encoder.preprocess.normalise(
                torch.stack([encoder.preprocess(shelf[i]) for i in range(len(shelf))])
            )
        )
    similarities = (embeddings @ embeddings.T).fill_diagonal_(-1)
    nearest = [shelf.skus[index] for index in similarities.argmax(dim=1)]
    assert nearest == shelf.skus
    assert not encoder.training


def test_no_epochs_returns_the_encoder_as_built(shelf: Images, smoke: EncoderParams) -> None:
    returned = fit(shelf, smoke, params={"epochs": 0})
    torch.manual_seed(3)
    assert same(returned, build(smoke, None)) and not returned.training


def test_a_batch_larger_than_the_data(shelf: Images, smoke: EncoderParams, tmp_path: Path) -> None:
    fit(shelf.take(range(0, 27, 3)), smoke, params={"batch": 64}, history=tmp_path / "history.jsonl")
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_a_loss_that_is_no_number_stops_the_run(shelf: Images, smoke: EncoderParams, tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "k")
    with pytest.raises(TrainingDiverged, match=r"at step 1 of 12; lower train\.optimizer\.lr_tower"):
        fit(shelf, smoke, checkpoints, params={"loss": LossParams(scale=1e39)})
    assert checkpoints.latest() is None


def test_a_training_that_loses_what_it_learnt_stops_before_that_is_saved(
    shelf: Images, smoke: EncoderParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 120 on the learning rates are a thousand times as high.

    With a tiny encoder the loss can't rise far.
    """
    rate = run.rate_share
    monkeypatch.setattr(run, "TIMES", 1.0)
    monkeypatch.setattr(
        run, "rate_share", lambda step, *others: rate(step, *others) * (1000 if step >= 120 else 1)
    )
    checkpoints = EverySteps(str(tmp_path), "k")
    with pytest.raises(
        TrainingDiverged,
        match=r"has come to [\d.]+ and risen to [\d.]+ again at step \d+ of 360; lower train",
    ):
        fit(shelf, smoke, checkpoints, params={"epochs": 60})
    saved = checkpoints.latest()
    assert saved and saved.meta["trend"]["recent"] <= saved.meta["trend"]["lowest"] + 1


def test_sigterm_saves_a_checkpoint_and_exits(
    shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str], tmp_path: Path
) -> None:
    class Terminated(Images):
        """Gets SIGTERM while the 7th picture, of step 2, is read."""

        reads = 0

        def pixels(self, index: int) -> Pixels:
            self.reads += 1
            if self.reads == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().pixels(index)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        fit(
            Terminated(shelf.ids, shelf.skus, shelf.names, shelf.extents),
            smoke,
            Checkpoints(str(tmp_path), "k"),
        )
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    resumed = Checkpoints(str(tmp_path), "k")
    checkpoint = resumed.latest()
    assert checkpoint is not None and checkpoint.step == 2
    assert same(fit(shelf, smoke, resumed), whole[0])


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("epoch", [1, 2])
def test_sigterm_does_not_wait_for_a_validation(
    shelf: Images, smoke: EncoderParams, tmp_path: Path, epoch: int, times: int
) -> None:
    """A checkpoint is written at once.

    The epoch, here also the last one, is judged after the resume: bits and history are the same.

    Also where the validation is stopped again after the resume.
    """
    verdicts, stops = {6: 0.25, 12: 0.5}, [6 * epoch] * times
    steps = iter(sorted([*verdicts, *stops]))

    def judge(_: Encoder) -> float:
        step = next(steps)
        if step in stops:
            stops.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it went on")
        return verdicts[step]

    given = {"judge": judge, "history": tmp_path / "history.jsonl"}
    for _ in range(times):
        with pytest.raises(SystemExit) as stopped:
            fit(shelf, smoke, Checkpoints(str(tmp_path), "k"), **given)
        checkpoint = Checkpoints(str(tmp_path), "k").latest()
        assert stopped.value.code == 143 and checkpoint is not None and checkpoint.step == 6 * epoch
    resumed = fit(shelf, smoke, Checkpoints(str(tmp_path), "k"), **given)
    scores = iter(verdicts.values())
    straight = fit(shelf, smoke, judge=lambda _: next(scores), history=tmp_path / "straight.jsonl")
    assert (
        same(resumed, straight)
        and (tmp_path / "history.jsonl").read_text() == (tmp_path / "straight.jsonl").read_text()
    )


KILLED_AT_29 = """
import os, signal, sys
from pathlib import Path
from skumatch.params import EncoderParams
from tests.model.ddp_worker import read
from tests.model.test_train import SIXTY, EverySteps, fit

class Killed(type(read(Path(sys.argv[1])))):
    reads = 0
    def pixels(self, index):
        self.reads += 1
        if self.reads == 4 * 28 + 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pixels(index)

found = read(Path(sys.argv[1]))
spec = EncoderParams(model="smoke", weights="none", height=32, width=32)
checkpoints = EverySteps(sys.argv[2], "k")
checkpoints.every = 20
fit(Killed(found.ids, found.skus, found.names, found.extents), spec, checkpoints, params=SIXTY)
"""
SIXTY = {"epochs": 10, "average": AverageParams(ema=0.9), "optimizer": OptimizerParams(lr_tower=1e-3)}


def test_sixty_steps_are_those_of_a_process_killed_at_the_29th_and_forty_more(
    shelf: Images, smoke: EncoderParams, tmp_path: Path
) -> None:
    folder = Path(shelf.extents[0].path).parent
    pictures = read(folder)
    words = [sys.executable, "-c", KILLED_AT_29, str(folder), str(tmp_path)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    resumed = Checkpoints(str(tmp_path), "k")
    checkpoint = resumed.latest()
    assert checkpoint is not None and checkpoint.step == 20
    assert same(fit(pictures, smoke, resumed, params=SIXTY), fit(pictures, smoke, params=SIXTY))


def test_an_attempt_that_was_taken_over_stops(shelf: Images, smoke: EncoderParams, tmp_path: Path) -> None:
    first = Checkpoints(str(tmp_path), "k")
    Checkpoints(str(tmp_path), "k")
    with pytest.raises(Fenced):
        fit(shelf, smoke, first)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_isnt_there(shelf: Images, smoke: EncoderParams) -> None:
    with pytest.raises(ParameterError, match=r"runtime\.device is cuda but PyTorch finds no GPU"):
        fit(shelf, smoke, runtime=RuntimeParams(device="cuda"))


def test_progress_is_reported_to_a_follower(
    shelf: Images, smoke: EncoderParams, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKUMATCH_EVENTS", "1")
    fit(shelf, smoke)
    last = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("skumatch-progress "))
    assert (last["stage"], last["done"], last["total"]) == ("train", 48, 48)
    assert last["text"].startswith("loss ") and last["text"].endswith("% waiting for pictures")


def falling(*answers: float) -> Any:
    """A judge that gives these answers, and keeps the weights it saw."""
    seen: list[dict[str, Any]] = []

    def judge(encoder: Encoder) -> float:
        seen.append({name: tensor.clone() for name, tensor in encoder.state_dict().items()})
        return answers[len(seen) - 1]

    judge.seen = seen  # type: ignore[attr-defined]
    return judge


def test_each_epoch_is_judged_and_said(
    shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str], tmp_path: Path
) -> None:
    judged = fit(shelf, smoke, history=tmp_path / "h.jsonl", judge=falling(0.5, 0.25))
    lines = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert [line.pop("top1") for line in lines] == [0.5, 0.25]
    assert lines == [json.loads(line) for line in whole[1].splitlines()]
    assert same(judged, whole[0]), "being judged changes nothing"


def test_some_epochs_and_the_last_are_judged(shelf: Images, smoke: EncoderParams, tmp_path: Path) -> None:
    judge, params = falling(0.5, 0.75, 0.25), {"epochs": 5, "validate_every": 2}
    fit(shelf, smoke, params=params, history=tmp_path / "h.jsonl", judge=judge)
    lines = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert [line.get("top1") for line in lines] == [None, 0.5, None, 0.75, 0.25]
    patient = falling(0.5, 0.25, 0.25)
    best = fit(shelf, smoke, params=params | {"epochs": 9, "patience": 3}, judge=patient)
    assert len(patient.seen) == 3, "given up at a validation, not between two"
    assert all(tensor.equal(patient.seen[0][name]) for name, tensor in best.state_dict().items())


def test_without_a_better_epoch_training_stops_and_the_best_is_returned(
    shelf: Images, smoke: EncoderParams, tmp_path: Path
) -> None:
    judge = falling(0.5, 0.75, 0.75, 0.5, 1.0)
    best = fit(shelf, smoke, params={"epochs": 5, "patience": 2}, history=tmp_path / "h.jsonl", judge=judge)
    assert len(judge.seen) == 4
    assert all(tensor.equal(judge.seen[1][name]) for name, tensor in best.state_dict().items())
    assert len((tmp_path / "h.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("saves", [1, 3, 5, 8])
def test_who_waits_for_a_better_epoch_resumes_to_the_same_bits(
    shelf: Images, smoke: EncoderParams, tmp_path: Path, saves: int
) -> None:
    params = {"epochs": 5, "patience": 2}

    def judge(encoder: Encoder) -> float:
        """Of the weights alone, and best in the second epoch."""
        return answers[float(next(encoder.parameters()).detach().sum())]

    answers: dict[float, float] = {}
    learnt = falling(0.5, 0.75, 0.75, 0.5)
    straight = fit(shelf, smoke, params=params, judge=learnt)
    answers |= {
        float(next(iter(seen.values())).sum()): top1
        for seen, top1 in zip(learnt.seen, (0.5, 0.75, 0.75, 0.5), strict=True)
    }
    killed = KilledAfter(str(tmp_path), "k")
    killed.saves = saves
    with pytest.raises(Killed):
        fit(shelf, smoke, killed, params=params, judge=judge)
    assert same(fit(shelf, smoke, Checkpoints(str(tmp_path), "k"), params=params, judge=judge), straight)


def test_patience_needs_pictures_to_validate_on(shelf: Images, smoke: EncoderParams) -> None:
    with pytest.raises(ParameterError, match=r"raise split\.val_share"):
        fit(shelf, smoke, params={"patience": 1})


def test_the_fix_shows_whole_pictures_and_goes_on_from_the_tuning(
    shelf: Images,
    smoke: EncoderParams,
    whole: tuple[Encoder, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[tuple[int, ...]] = []
    real = Encoder.forward
    monkeypatch.setattr(
        Encoder,
        "forward",
        lambda self, pixels: (sizes.append(tuple(pixels.shape[2:])), real(self, pixels))[1],
    )
    fit(shelf, smoke, params={"fix": FixParams(epochs=1)}, history=tmp_path / "h.jsonl")
    lines = (tmp_path / "h.jsonl").read_text().splitlines()
    assert lines[:2] == whole[1].splitlines() and len(lines) == 3
    sizes.clear()
    larger = smoke.model_copy(update={"height": 64, "width": 64})
    fit(shelf, larger, params={"fix": FixParams(epochs=1), "augment": mild(view=0.5)})
    assert sizes == [(32, 32)] * 12 + [(64, 64)] * 6


@pytest.mark.parametrize("saves", [None, 5])
def test_a_fix_leaves_no_patches_out(
    shelf: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saves: int | None
) -> None:
    """Also where it was taken up again in its second epoch.

    9 patches and a class token, half of the patches left out before.
    """
    tokens: list[int] = []
    real = PatchDropout.forward
    monkeypatch.setattr(
        PatchDropout, "forward", lambda self, x: (tokens.append(real(self, x).shape[1]), real(self, x))[1]
    )
    spec = EncoderParams(model="ViT-S-32-alt", weights="none", height=96, width=96)
    params = {"epochs": 1, "fix": FixParams(epochs=2), "tower": TowerParams(patch_dropout=0.5, freeze=0.0)}
    if saves is None:
        fit(shelf, spec, params=params)
        assert tokens == [5] * 6 + [10] * 12
        return
    killed = KilledAfter(str(tmp_path), "k")
    killed.saves = saves
    with pytest.raises(Killed):
        fit(shelf, spec, killed, params=params)
    tokens.clear()
    fit(shelf, spec, Checkpoints(str(tmp_path), "k"), params=params)
    assert tokens == [10] * 3


@pytest.mark.parametrize("saves", [4, 5])
def test_a_fix_that_was_killed_resumes_to_the_same_bits(
    shelf: Images, smoke: EncoderParams, tmp_path: Path, saves: int
) -> None:
    params = {"fix": FixParams(epochs=1)}
    killed = KilledAfter(str(tmp_path), "k")
    killed.saves = saves
    with pytest.raises(Killed):
        fit(shelf, smoke, killed, params=params)
    assert same(
        fit(shelf, smoke, Checkpoints(str(tmp_path), "k"), params=params), fit(shelf, smoke, params=params)
    )


def test_a_probe_comes_first_and_alone_leaves_the_tower_as_it_was(
    shelf: Images, smoke: EncoderParams, tmp_path: Path
) -> None:
    spec = smoke.model_copy(update={"dim": 4})
    probed = fit(shelf, spec, params={"epochs": 0, "probe": ProbeParams(epochs=2, views=2)})
    torch.manual_seed(3)
    built = build(spec, None)
    assert all(
        tensor.equal(built.tower.state_dict()[name]) for name, tensor in probed.tower.state_dict().items()
    )
    assert not probed.projection.linear.weight.equal(built.projection.linear.weight)  # type: ignore[union-attr]
    both, plain = (fit(shelf, spec, params={"probe": ProbeParams(epochs=n, views=2)}) for n in (2, 0))
    assert not same(both, plain)
    killed = KilledAfter(str(tmp_path), "k")
    with pytest.raises(Killed):
        fit(shelf, spec, killed, params={"probe": ProbeParams(epochs=2, views=2)})
    assert same(
        fit(shelf, spec, Checkpoints(str(tmp_path), "k"), params={"probe": ProbeParams(epochs=2, views=2)}),
        both,
    )


def test_gradients_are_clipped(shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str]) -> None:
    rates = PARAMS.optimizer
    assert same(fit(shelf, smoke, params={"optimizer": rates.model_copy(update={"clip": 1e9})}), whole[0])
    assert not same(
        fit(shelf, smoke, params={"optimizer": rates.model_copy(update={"clip": 1e-4})}), whole[0]
    )


EVERYTHING = {
    "fix": FixParams(epochs=1),
    "probe": ProbeParams(epochs=2, batch=8, views=2),
    "patience": 9,
    "validate_every": 2,
    "average": AverageParams(ema=0.5, wise=(0.3, 0.6)),
    "tower": TowerParams(freeze=0.3),
    "optimizer": OptimizerParams(lr_tower=3e-3, lr_head=1e-2, layer_decay=0.7, clip=1.0),
}


def weight(encoder: Encoder) -> float:
    """A verdict that depends on the weights alone."""
    return round(float(next(reversed(list(encoder.parameters()))).detach().double().abs().mean()), 6)


@pytest.mark.parametrize("saves", [1, 3, 5])
def test_with_everything_on_killed_and_resumed_ends_with_the_same_bits(
    shelf: Images, smoke: EncoderParams, tmp_path: Path, saves: int
) -> None:
    spec = smoke.model_copy(update={"dim": 8})
    whole = fit(shelf, spec, params=EVERYTHING, judge=weight, history=tmp_path / "whole.jsonl")
    killed = KilledAfter(str(tmp_path), "k")
    killed.saves = saves
    with pytest.raises(Killed):
        fit(shelf, spec, killed, params=EVERYTHING, judge=weight)
    resumed = fit(
        shelf,
        spec,
        Checkpoints(str(tmp_path), "k"),
        params=EVERYTHING,
        judge=weight,
        history=tmp_path / "resumed.jsonl",
    )
    assert same(resumed, whole)
    assert (tmp_path / "resumed.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_training_with_adapters_resumes_to_the_same_bits_and_ends_plain(
    shelf: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skumatch.model.train.build", lambda spec, weights: vit())
    spec, params = (
        EncoderParams(model="smoke", weights="none", height=32, width=32),
        {"tower": TowerParams(lora_rank=2, patch_dropout=0.3, freeze=0.0)},
    )
    whole = fit(shelf, spec, params=params)
    assert whole.state_dict().keys() == vit().state_dict().keys() and not same(whole, vit())
    killed = KilledAfter(str(tmp_path), "k")
    with pytest.raises(Killed):
        fit(shelf, spec, killed, params=params)
    assert same(fit(shelf, spec, Checkpoints(str(tmp_path), "k"), params=params), whole)


def test_the_average_is_what_is_judged_and_returned(
    shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str]
) -> None:
    judged: list[float] = []
    averaged = fit(
        shelf,
        smoke,
        params={"average": AverageParams(ema=0.9)},
        judge=lambda encoder: judged.append(weight(encoder)) or 0.5,
    )
    assert not same(averaged, whole[0])
    assert judged[-1] == weight(averaged)


def test_the_best_share_of_the_way_is_kept_and_said(
    shelf: Images, smoke: EncoderParams, tmp_path: Path
) -> None:
    answers = iter([0.1, 0.2, 0.3, 0.9, 0.4])  # two epochs, then shares 1, 0.6 and 0.3
    torch.manual_seed(3)
    before = build(smoke, None)
    params = {"average": AverageParams(wise=(0.3, 0.6))}
    encoder = fit(shelf, smoke, params=params, judge=lambda _: next(answers), history=tmp_path / "h.jsonl")
    last = json.loads((tmp_path / "h.jsonl").read_text().splitlines()[-1])
    assert (last["top1"], last["wise"], last["wise_top1"]) == (0.2, 0.6, 0.9)
    plain = fit(shelf, smoke).state_dict()
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(
                tensor, torch.lerp(before.state_dict()[name], plain[name], 0.6), atol=1e-6
            ), name


def test_wise_needs_pictures_to_validate_on(shelf: Images, smoke: EncoderParams) -> None:
    with pytest.raises(ParameterError, match=r"train\.average\.wise needs pictures to validate on"):
        fit(shelf, smoke, params={"average": AverageParams(wise=(0.5,))})


def test_frozen_layers_stay_as_they_were(shelf: Images, smoke: EncoderParams) -> None:
    torch.manual_seed(3)
    before = build(smoke, None).state_dict()
    after = fit(shelf, smoke, params={"tower": TowerParams(freeze=0.4)}).state_dict()
    moved = {name for name in before if not before[name].equal(after[name])}
    assert not [name for name in moved if name.startswith("tower.trunk.conv_stem") or ".blocks.0." in name]
    assert [name for name in moved if ".blocks.2." in name]


def test_a_compiled_training_learns_the_same(
    shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_encoders: list[Encoder] = []
    monkeypatch.setattr(
        "skumatch.model.run.compiled",
        lambda encoder: compiled_encoders.append(encoder) or compiled(encoder, "eager"),
    )
    trained = fit(shelf, smoke, params={"tower": TowerParams(compile=True, freeze=0.0)})
    assert len(compiled_encoders) == 1
    assert all(
        torch.allclose(tensor, whole[0].state_dict()[name], atol=1e-4)
        for name, tensor in trained.state_dict().items()
    )


def test_each_epoch_s_pace_is_in_a_file_as_it_ends(
    shelf: Images, smoke: EncoderParams, tmp_path: Path
) -> None:
    live, lines = tmp_path / "log" / "live.jsonl", []

    def judge(_: Encoder) -> float:
        lines.append(len(live.read_text().splitlines()) if live.exists() else 0)
        return 0.5

    fit(shelf, smoke, live=live, judge=judge)
    records = [json.loads(line) for line in live.read_text().splitlines()]
    assert (
        lines == [0, 1]
        and [line["step"] for line in records] == [6, 12]
        and [line["top1"] for line in records] == [0.5, 0.5]
    )
    assert all(line["images_per_second"] > 0 and 0 <= line["waiting_share"] <= 1 for line in records)
    assert records[0]["seconds_left"] >= 0 and records[1]["seconds_left"] == 0


def test_gradients_that_are_no_numbers_never_reach_a_checkpoint(
    shelf: Images, smoke: EncoderParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, steps = Learner.forward, []

    def forward(self: Learner, pixels: Tensor, labels: Tensor) -> Tensor:
        steps.append(1)
        loss = spoil(self, pixels, labels)
        return (
            loss
            if len(steps) != 5
            else loss + (self.encoder.tower.trunk.conv_stem.weight.sum() * 0).sqrt() * 0
        )  # 0 * inf

    monkeypatch.setattr(Learner, "forward", forward)
    with pytest.raises(TrainingDiverged, match="gradients' norm became nan"):
        fit(shelf, smoke, EverySteps(str(tmp_path), "k"))
    saved = Checkpoints(str(tmp_path), "k").latest()
    assert (
        saved is not None
        and saved.step == 3
        and all(tensor.isfinite().all() for tensor in saved.tensors.values())
    )


def test_what_the_tower_cant_do_is_said_before_the_probe(shelf: Images, smoke: EncoderParams) -> None:
    class Unread(Images):
        def pixels(self, index: int) -> Pixels:
            raise AssertionError(index)

    pictures = Unread(shelf.ids, shelf.skus, shelf.names, shelf.extents)
    with pytest.raises(ParameterError, match=r"train\.tower\.lora_rank is for ViTs"):
        fit(
            pictures,
            smoke,
            params={"probe": ProbeParams(epochs=2), "tower": TowerParams(lora_rank=2, freeze=0.0)},
        )
