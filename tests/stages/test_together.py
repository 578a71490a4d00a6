"""`runtime.nproc`: train and embed in two processes look like one stage: one result, one error, one end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from skumatch.config import apply_overrides, load_params
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import images, read_manifest
from skumatch.errors import ParameterError
from skumatch.files import read_json, sha256, write_text
from skumatch.model import encoder as encoders
from skumatch.model.checkpoint import Checkpoints
from skumatch.model.distributed import World
from skumatch.model.weights import fetch_weights
from skumatch.stages import runner, split
from tests.conftest import ROOT, draw, make_project, wait_until
from tests.proving import IN_PROOF

TINY = (
    "encoder.model=smoke",
    "encoder.weights=none",
    "encoder.height=32",
    "encoder.width=32",
    "train.epochs=2",
    "train.batch=8",
)
CPU = ("embed.batch=4", "split.unseen_share=0", "runtime.device=cpu", "runtime.threads=1")
TWO = "runtime.nproc=2"


def set_params(root: Path, *overrides: str) -> None:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    write_text(root / "params.yaml", yaml.safe_dump(apply_overrides(tree, (*TINY, *CPU, *overrides))))


def start(root: Path, stage: str, *overrides: str) -> subprocess.Popen[str]:
    set_params(root, *overrides)
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")
    }
    places = {"SKUMATCH_HOME": str(root / "home"), "SKUMATCH_EVENTS": "1"}
    words = [sys.executable, "-m", "skumatch", "stage", stage]
    return subprocess.Popen(
        words, cwd=root, env=kept | places, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def stage(root: Path, name: str, *overrides: str) -> str:
    code, output = finish(start(root, name, *overrides))
    assert code == 0, output
    return output


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that train and embed read: pictures, split, weights, a champion."""
    root, folder = make_project(tmp_path_factory.mktemp("root")), tmp_path_factory.mktemp("delivery")
    for sku in range(4):
        for number in range(9):
            draw(
                folder / "all" / ("train" if number < 6 else "test") / f"sku {sku}" / f"{number}.png",
                f"{sku} {number}",
            )
    import_data(folder, root / "data")
    set_params(root)
    params = load_params(root / "params.yaml")
    split.run(root, params)
    fetch_weights(params.encoder, root / "inputs/weights")
    torch.manual_seed(5)
    encoders.save(encoders.build(params.encoder, None).eval(), root / "inputs/champion/encoder")
    return root


@pytest.fixture(scope="module")
def alone(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outs of both stages in one process."""
    root = shutil.copytree(workspace, tmp_path_factory.mktemp("alone") / "root")
    stage(root, "train")
    stage(root, "embed")
    return root


@pytest.fixture
def root(workspace: Path, tmp_path: Path) -> Path:
    return shutil.copytree(workspace, tmp_path / "root")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@IN_PROOF
def test_two_processes_train_what_one_does_and_leave_the_same_outs(alone: Path, root: Path) -> None:
    output = stage(root, "train", TWO)
    assert names(root / "out/train") == names(alone / "out/train")
    assert sha256(root / "out/train/training.json") == sha256(alone / "out/train/training.json")
    single, both = (load_file(place / "out/train/encoder/encoder.safetensors") for place in (alone, root))
    assert all(np.allclose(single[name], both[name], atol=1e-3) for name in single)
    lines = [
        [json.loads(line) for line in (place / "out/train/history.jsonl").read_text().splitlines()]
        for place in (alone, root)
    ]
    assert lines[0] == [pytest.approx(line, rel=1e-2, abs=0.2) for line in lines[1]]
    assert read_json(root / "log/train.json")["seconds"] > 0 and (root / runner.LIVE).is_file()
    progress = [
        json.loads(line.partition(" ")[2])
        for line in output.splitlines()
        if line.startswith("skumatch-progress")
    ]
    assert [line["done"] for line in progress].count(progress[-1]["total"]) == 1, (
        "one process shows the progress"
    )


@IN_PROOF
def test_two_processes_embed_the_same_bits(alone: Path, root: Path) -> None:
    shutil.copytree(alone / "out/train", root / "out/train", dirs_exist_ok=True)
    stage(root, "embed", TWO)
    digests = {name: sha256(root / "out/embed" / name) for name in names(root / "out/embed")}
    assert digests == {name: sha256(alone / "out/embed" / name) for name in names(alone / "out/embed")}
    assert {"challenger.safetensors", "champion.safetensors", "items.parquet", "embed.json"} == set(digests)


def failed(root: Path, name: str, *overrides: str) -> dict[str, Any]:
    """The error of a stage that fails, from the last line of its output."""
    code, output = finish(start(root, name, *overrides))
    error: dict[str, Any] = read_json(root / runner.ERROR)
    assert code == error["exit_code"] and output.splitlines()[-1] == f"✗ {error['sentence']}", output
    assert not (root / "out" / name).exists() and not (root / f"log/{name}.json").exists()
    return error


@IN_PROOF
def test_an_error_of_all_processes_is_the_stages(root: Path) -> None:
    error = failed(root, "train", TWO, "train.batch=7")
    assert (error["kind"], error["exit_code"]) == ("ParameterError", 10)
    assert error["sentence"] == "2 processes can't share 7 images a step; set train.batch to a multiple of 2."


@IN_PROOF
def test_an_error_of_one_process_is_the_stages(root: Path) -> None:
    shutil.copytree(root / "inputs/champion/encoder", root / "out/train/encoder")
    rows = read_manifest(root / "data").sort_values("id")
    last = images(root / "data", rows).extents[-1]
    with Path(last.path).open("r+b") as shard:
        shard.seek(last.offset)
        shard.write(b"\0" * 40)
    error = failed(root, "embed", TWO)
    assert (error["kind"], error["exit_code"]) == ("DataError", 11)
    assert error["sentence"].startswith(f"{rows['id'].iloc[-1]} can't be embedded")


def training(root: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A training for ever, in its second epoch at least, and all it started."""
    process = start(root, "train", TWO, "train.epochs=1000", "runtime.checkpoint_seconds=3600")
    live = root / runner.LIVE
    wait_until(lambda: live.is_file() or process.poll() is not None, 120)
    assert process.poll() is None, finish(process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3, "torchrun and two processes"
    return process, family


def test_sigterm_leaves_a_checkpoint_and_no_process(root: Path) -> None:
    process, family = training(root)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as a process may get it from its group and from its parent
    code, output = finish(process)
    assert code == 128 + signal.SIGTERM, output
    assert not psutil.wait_procs(family, timeout=0)[1], "all had ended before it did"
    assert not (root / "out/train").exists() and not (root / runner.ERROR).exists()
    (key,) = (root / "home/remote/checkpoints").iterdir()
    checkpoint = Checkpoints(str(root / "home/remote"), key.name).latest()
    assert checkpoint is not None and checkpoint.step >= 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
@pytest.mark.parametrize("victim", ["stage", pytest.param("torchrun", marks=IN_PROOF)])
def test_no_process_outlives_a_stage_or_torchrun_that_is_killed(root: Path, victim: str) -> None:
    process, family = training(root)
    launcher = next(member for member in family if "torch.distributed.run" in member.cmdline())
    os.kill(process.pid if victim == "stage" else launcher.pid, signal.SIGKILL)
    code, output = finish(process)
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert code == (-signal.SIGKILL if victim == "stage" else 32), output


def test_fewer_gpus_than_processes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    set_params(root, TWO, "runtime.device=auto")
    with pytest.raises(
        ParameterError, match=r"fewer GPUs \(1\) than processes \(2\); set runtime.nproc to 1"
    ):
        runner.run("train", root)
    assert read_json(root / runner.ERROR)["kind"] == "ParameterError"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 4, 5, 23, 24])
def test_parts_are_all_pictures_once_in_the_batches_of_one_process(count: int, size: int) -> None:
    parts = World(0, size).parts(count, 4)
    assert len(parts) == size and [i for part in parts for i in part] == list(range(count))
    assert all(part.start % 4 == 0 for part in parts if part)
    assert max(map(len, parts)) <= 4 * -(-count // (4 * size)), (
        "no process has more than a batch over its share"
    )
