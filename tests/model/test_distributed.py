from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from skumatch.config import cores
from skumatch.data.images import Images
from skumatch.errors import ParameterError
from skumatch.model import distributed
from skumatch.model.checkpoint import Checkpoints
from skumatch.model.distributed import World, joined
from skumatch.model.encoder import Encoder, load
from tests.conftest import ROOT
from tests.model.ddp_worker import CPU, STEPS, fit, read
from tests.model.towers import pixels


@pytest.fixture(scope="module")
def together(shelf: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of two processes under torchrun.

    There are three trainings, one that got SIGTERM in process 1, the same one resumed, and one that failed.
    """
    out = tmp_path_factory.mktemp("together")
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "tests.model.ddp_worker",
    ]
    words += [
        str(Path(shelf.extents[0].path).parent),
        str(out),
        "arcface",
        "supcon",
        "all",
        "terminated",
        "resumed",
        "failing",
    ]
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        words, env=os.environ | quiet, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode != 0 and (out / "0.txt").is_file(), ended.stderr
    return out


def embeddings(encoder: Encoder) -> torch.Tensor:
    with torch.no_grad():
        vectors: torch.Tensor = encoder(pixels(encoder, 32))
    return vectors


@pytest.mark.parametrize("what", ["arcface", "supcon", "all"])
def test_two_processes_learn_what_one_does_at_the_same_global_batch(
    shelf: Images, together: Path, tmp_path: Path, what: str
) -> None:
    fit(World(), read(Path(shelf.extents[0].path).parent), tmp_path, what)
    alone, first, second = (
        load(tmp_path / f"{what}-0"),
        load(together / f"{what}-0"),
        load(together / f"{what}-1"),
    )
    assert all(tensor.equal(second.state_dict()[name]) for name, tensor in first.state_dict().items()), (
        "both have the same bits"
    )
    assert functional.cosine_similarity(embeddings(alone), embeddings(first)).min() >= 0.9999
    assert alone.state_dict().keys() == first.state_dict().keys()
    single, both = (Checkpoints(str(out), what).latest() for out in (tmp_path, together))
    assert (
        single is not None
        and both is not None
        and single.step == both.step == STEPS
        and single.tensors.keys() == both.tensors.keys()
    )
    alone_history, both_history = (
        [json.loads(line) for line in (out / f"{what}.jsonl").read_text().splitlines()]
        for out in (tmp_path, together)
    )
    assert alone_history == [pytest.approx(line, rel=1e-3) for line in both_history], (
        "the mean loss of all, and the first one's verdict"
    )


def test_only_the_first_process_writes_checkpoints(together: Path) -> None:
    for training in ("arcface", "supcon", "all"):
        names = {path.name for path in (together / "checkpoints" / training).iterdir()}
        assert names == {"00000012-0001.json", "00000012-0001.safetensors", "owner.json"}, (
            "one claimed the folder, once"
        )


def test_a_signal_to_one_process_stops_all_at_one_step_with_a_checkpoint(together: Path) -> None:
    assert [(together / f"{rank}.txt").read_text().split(", ")[0] for rank in (0, 1)] == [
        "terminated 143"
    ] * 2
    names = sorted(path.name for path in (together / "checkpoints/terminated").glob("*.json"))
    assert names == ["00000002-0001.json", "00000012-0002.json", "owner.json"], (
        "at step 2, and then the second attempt's"
    )


def test_two_processes_go_on_where_two_were_stopped(together: Path) -> None:
    assert (together / "resumed-reads.txt").read_text() == str((STEPS - 2) * 4), (
        "each process reads half of a batch of 8"
    )
    straight, first, second = (load(together / name) for name in ("arcface-0", "resumed-0", "resumed-1"))
    assert all(tensor.equal(second.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert functional.cosine_similarity(embeddings(straight), embeddings(first)).min() >= 0.9999
    resumed, unbroken = (
        [json.loads(line) for line in (together / f"{training}.jsonl").read_text().splitlines()]
        for training in ("resumed", "arcface")
    )
    assert resumed == [pytest.approx(line, rel=1e-5) for line in unbroken]


def test_an_error_in_one_process_ends_all_with_its_sentence(together: Path) -> None:
    sentence = "DataError 11 The pictures of process 1 are gone; restore them."
    assert [(together / f"{rank}.txt").read_text().split(", ")[1] for rank in (0, 1)] == [sentence] * 2


def test_without_torchrun_there_is_one_process_and_nothing_to_agree_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(CPU) as world:
        assert world == World(0, 1) and world.first
        model, batch = torch.nn.BatchNorm1d(2), torch.randn(4, 2)
        assert world.parallel(model, torch.device("cpu")) is model
        world.share_norms(model, torch.device("cpu"))
        assert "forward" not in vars(model)
        assert world.agreed(0.5, True) == (0.5, True) and world.told(lambda: 0.25) == 0.25
        assert world.checkpoint(None) is None and world.gathered(batch, batch)[0] is batch
    assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ParameterError, match=r"fewer GPUs .1. than processes .2."),
        joined(CPU.model_copy(update={"device": "cuda"})),
    ):
        pass
    assert distributed.check_gpus(CPU, 2) is False


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    there = cores()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cores() == max(1, there // 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 * there))
    assert cores() == 1
