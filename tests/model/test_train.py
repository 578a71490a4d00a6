from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from skumatch.config import AugmentParams, EncoderParams, LossParams, OptimizerParams, RuntimeParams, TrainParams
from skumatch.data.images import Images
from skumatch.errors import Fenced, ParameterError, TrainingDiverged
from skumatch.model.checkpoint import Checkpoints
from skumatch.model.encoder import Encoder, build
from skumatch.model.train import train

PARAMS = TrainParams(
    epochs=2, batch=4, checkpoint_every=3, optimizer=OptimizerParams(lr_tower=3e-3, lr_head=1e-2), augment=AugmentParams(cutout=16)
)  # 12 steps
CPU = RuntimeParams(device="cpu", threads=1)
CLASSES = ["cola", "milk", "mint"]


def fit(shelf: Images, spec: EncoderParams, checkpoints: Checkpoints | None = None, **changes: Any) -> Encoder:
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


class KilledAfter(Checkpoints):
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
    return fit(shelf, EncoderParams(model="smoke", weights="none", height=32, width=32), history=path), path.read_text()


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


def test_another_seed_gives_other_bits(shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str]) -> None:
    assert not same(fit(shelf, smoke, seed=4), whole[0])


def test_history_has_one_deterministic_line_an_epoch(whole: tuple[Encoder, str]) -> None:
    lines = [json.loads(line) for line in whole[1].splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(line.keys() == {"epoch", "loss", "lr"} for line in lines)
    assert lines[1]["lr"] < lines[0]["lr"]


def test_the_loss_falls(shelf: Images, smoke: EncoderParams, tmp_path: Path) -> None:
    fit(shelf, smoke, params={"loss": LossParams(margin=0.0)}, history=tmp_path / "history.jsonl")
    first, second = (json.loads(line)["loss"] for line in (tmp_path / "history.jsonl").read_text().splitlines())
    assert second < first


def test_training_brings_pictures_of_one_sku_together(shelf: Images, whole: tuple[Encoder, str]) -> None:
    encoder = whole[0]
    with torch.no_grad():
        embeddings = encoder(encoder.preprocess.normalise(torch.stack([encoder.preprocess(shelf[i]) for i in range(len(shelf))])))
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
        fit(shelf, smoke, checkpoints, params={"scale": 1e39})
    assert checkpoints.latest() is None


def test_sigterm_saves_a_checkpoint_and_exits(shelf: Images, smoke: EncoderParams, whole: tuple[Encoder, str], tmp_path: Path) -> None:
    class Terminated(Images):
        """Gets SIGTERM while the 7th picture, of step 2, is read."""

        reads = 0

        def __getitem__(self, index: int) -> Image.Image:  # type: ignore[override]
            self.reads += 1
            if self.reads == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(index)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        fit(Terminated(shelf.ids, shelf.skus, shelf.names, shelf.extents), smoke, Checkpoints(str(tmp_path), "k"))
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    resumed = Checkpoints(str(tmp_path), "k")
    found = resumed.latest()
    assert found is not None and found.step == 2
    assert same(fit(shelf, smoke, resumed), whole[0])


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
    assert last["text"].startswith("loss ") and last["text"].endswith("images/s")
