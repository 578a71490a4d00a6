"""One pipeline, whoever does it: one machine, two that share only a remote and MLflow, through kills and full disks, or `dvc repro`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from skumatch.config import apply_overrides
from skumatch.errors import StorageError
from skumatch.files import md5
from skumatch.pipeline.leftovers import HOURS, leftovers
from skumatch.stages.runner import STAGES
from tests.conftest import commit, draw, make_project, wait_until
from tests.pipeline.home import SMOKE, Home, marker
from tests.proving import PROVING, count

pytestmark = pytest.mark.live
LONG = ("release.model_name=two-homes", "train.epochs=12", "runtime.checkpoint_seconds=0")  # long enough to be killed half-way
ROUNDS, KILLS = count(1, 8), count(1, 3)  # 8 rounds x 9 stages x 3 kills = 216; twins: 72


@dataclass(frozen=True)
class Undisturbed:
    """How long each stage took where nothing came in between, and what came out."""

    seconds: dict[str, float]
    outs: dict[str, object]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    for sku, (side, number) in product(range(4), [*(("train", n) for n in range(8)), *(("test", n) for n in range(3))]):
        draw(root / "all" / side / f"sku {sku}" / f"{number}.png", f"sku {sku} {side} {number}")
    return root


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> Undisturbed:
    root = tmp_path_factory.mktemp("undisturbed")
    home = machine(root, root / "remote", mlflow_url)
    assert home.command("data", "import", str(source)).returncode == 0
    message, seconds = home.task({"run": "undisturbed"}, "pull"), {}
    for stage in STAGES:
        began = time.monotonic()
        message = home.task(message, "stage", stage)
        seconds[stage] = time.monotonic() - began
    assert not resumed(home.remote)
    return Undisturbed(seconds, hashes(message["lock"]))


def machine(root: Path, remote: Path, mlflow: str) -> Home:
    """A machine whose params.yaml says all that other tests say as overrides; the commit is the same for all."""
    home = Home(make_project(root / "project"), root / "home", remote, mlflow)
    params = home.project / "params.yaml"
    params.write_text(yaml.safe_dump(apply_overrides(yaml.safe_load(params.read_text("utf-8")), [*SMOKE, *LONG])), "utf-8")
    commit(home.project, "Tiny")
    return home


@pytest.fixture
def homes(source: Path, tmp_path: Path, mlflow_url: str) -> list[Home]:
    made = [machine(tmp_path / name, tmp_path / "remote", mlflow_url) for name in ("a", "b")]
    assert made[0].command("data", "import", str(source)).returncode == 0
    return made


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_run_moves_between_homes_through_kills_and_doubles(homes: list[Home], undisturbed: Undisturbed, round_: int) -> None:
    rng = random.Random(round_)  # noqa: S311 no secret
    message = homes[0].task({"run": "disturbed"}, "pull")
    killed, doubled = (STAGES, STAGES) if PROVING else (rng.sample(STAGES, 2), rng.sample(STAGES, 1))
    for number, stage in enumerate(STAGES):
        if stage == "train":
            kill_in_training(homes[1], message)
        for kill in range(KILLS if stage in killed else 0):
            kill_after(rng.uniform(0, undisturbed.seconds[stage]), homes[kill % 2], message, stage)
        message = twins(homes, message, stage) if stage in doubled else homes[number % 2].task(message, "stage", stage)
    assert hashes(message["lock"]) == undisturbed.outs
    assert resumed(homes[0].remote)
    assert not damaged(homes[0].remote) and not [name for home in homes for name in damaged(home.home / "cache")]
    for home in homes:  # what kills left lies where `gc` finds it, later
        assert set(leftovers(home.home, time.time() + (HOURS + 1) * 3600)) == set((home.home / "workspaces").glob("*/*"))
    assert list((homes[1].home / "workspaces").glob("*/train-*"))


@pytest.mark.skipif(not PROVING, reason="in `make prove`: every stage again and again; tests/test_bad_input.py fills a disk every day")
@pytest.mark.timeout(3600)
def test_a_disk_that_fills_at_any_write_is_told_and_leaves_what_was_there(homes: list[Home], undisturbed: Undisturbed) -> None:
    home, rng = homes[1], random.Random(4)  # noqa: S311 no secret
    home.home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", home.home], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        message = homes[0].task({"run": "full-disk"}, "pull")
        for stage in STAGES:
            told = [fills_up(home, message, stage, rng) for _ in range(12)]
            assert any(told), f"{stage} never met a full disk"
            message = home.task(message, "stage", stage)
        assert hashes(message["lock"]) == undisturbed.outs
        assert not damaged(home.remote) and not damaged(home.home / "cache")
    finally:
        subprocess.run(["umount", "-l", home.home], check=True)


def test_by_hand_the_hashes_are_those_of_the_tasks(source: Path, undisturbed: Undisturbed, tmp_path: Path, mlflow_url: str) -> None:
    hand = machine(tmp_path, tmp_path / "remote", mlflow_url)
    assert hand.command("data", "import", str(source)).returncode == 0
    pulled = hand.command("pull")
    assert pulled.returncode == 0, pulled.stderr
    activated = hand.environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["dvc", "repro"], cwd=hand.project, env=activated, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    by_hand = hashes((hand.project / "dvc.lock").read_text("utf-8"))
    assert list(by_hand) == list(STAGES) and by_hand == undisturbed.outs


def fills_up(home: Home, message: dict[str, Any], stage: str, rng: random.Random) -> bool:
    """Do the stage with a few pages of room; whether the disk was full, which is a typed error that may pass."""
    ballast = home.home / "ballast"
    free = os.statvfs(home.home)
    ballast.write_bytes(bytes(max(0, free.f_bavail - rng.randrange(1, 60)) * free.f_frsize))
    process = started(home, message, stage)
    output = process.communicate(timeout=600)[0]
    ballast.unlink()
    error = marker(output, "error")
    assert process.returncode in (0, StorageError.exit_code) and (process.returncode == 0 or error["retry"]), output
    return bool(process.returncode)


def kill_in_training(home: Home, message: dict[str, Any]) -> None:
    """Start the training, wait for a checkpoint in the remote, and kill all of it without a chance to clean up."""
    process = started(home, message, "train")
    wait_until(lambda: list((home.remote / "checkpoints").rglob("*-*.json")) or process.poll() is not None, 120)
    assert process.poll() is None, process.stdout and process.stdout.read()
    kill(process)


def kill_after(seconds: float, home: Home, message: dict[str, Any], stage: str) -> None:
    process = started(home, message, stage)
    time.sleep(seconds)
    kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    if process.stdout:
        process.stdout.close()


def started(home: Home, message: dict[str, Any], stage: str) -> subprocess.Popen[str]:
    process = home.start("stage", stage)
    assert process.stdin
    process.stdin.write(json.dumps(message))
    process.stdin.close()
    process.stdin = None
    return process


def twins(homes: list[Home], message: dict[str, Any], stage: str) -> dict[str, Any]:
    """Both do the stage at once: one result; who didn't come to it says in typed words that the other one did."""
    processes = [started(home, message, stage) for home in homes]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    found = [marker(output, "result") for process, output in zip(processes, outputs, strict=True) if process.returncode == 0]
    errors = [marker(output, "error") for process, output in zip(processes, outputs, strict=True) if process.returncode]
    assert found and all(error["sentence"] for error in errors), outputs
    assert len({json.dumps(hashes(one["lock"])) for one in found}) == 1
    return found[0]


def hashes(lock: str) -> dict[str, object]:
    return {stage: [[out["path"], out["md5"]] for out in entry["outs"]] for stage, entry in yaml.safe_load(lock)["stages"].items()}


def damaged(store: Path) -> list[str]:
    """Objects of a DVC cache or remote whose bytes aren't those of their name."""
    found = [path for path in (store / "files/md5").rglob("*") if path.is_file() and len(path.name.removesuffix(".dir")) == 30]
    assert found, f"{store} holds nothing"
    return [str(path) for path in found if path.parent.name + path.name.removesuffix(".dir") != md5(path)]


def resumed(remote: Path) -> bool:
    """Whether a second attempt claimed the training's checkpoints."""
    (owner,) = (remote / "checkpoints").rglob("owner.json")
    return int(json.loads(owner.read_text())["attempt"]) > 1
