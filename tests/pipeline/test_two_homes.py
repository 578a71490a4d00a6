"""Two machines that share nothing but a DVC remote and MLflow do one run between them, through a SIGKILL in training."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from skumatch.stages.runner import STAGES
from tests.conftest import Delivery, make_project, wait_until
from tests.pipeline.home import Home

LONG = ("train.epochs=12", "runtime.checkpoint_seconds=0")  # long enough to be killed half-way


@pytest.mark.live
def test_a_run_moves_between_homes_and_survives_sigkill(delivery: Delivery, tmp_path: Path, mlflow_url: str) -> None:
    source, model = delivery(skus=4, train=8, test=3), "release.model_name=two-homes"
    reference = Home(make_project(tmp_path / "one"), tmp_path / "home-one", tmp_path / "remote-one", mlflow_url)
    homes = [Home(make_project(tmp_path / name), tmp_path / f"home-{name}", tmp_path / "remote", mlflow_url) for name in ("a", "b")]
    assert reference.command("data", "import", str(source)).returncode == 0
    assert homes[0].command("data", "import", str(source)).returncode == 0

    undisturbed = reference.stages(reference.pull("undisturbed", model, *LONG))

    message = homes[0].pull("disturbed", model, *LONG)
    for number, stage in enumerate(STAGES):
        if stage == "train":
            kill_in_training(homes[1], message)
        message = homes[number % 2].task(message, "stage", stage)

    assert hashes(message["lock"]) == hashes(undisturbed["lock"])
    assert resumed(homes[0].remote) and not resumed(reference.remote)
    assert sorted(p.name for p in (homes[1].home / "workspaces").rglob("*") if p.is_dir() and p.name.startswith("split-")) == []


def kill_in_training(home: Home, message: dict[str, object]) -> None:
    """Start the training, wait for a checkpoint in the remote, and kill all of it without a chance to clean up."""
    process = home.start("stage", "train")
    assert process.stdin
    process.stdin.write(json.dumps(message))
    process.stdin.close()
    wait_until(lambda: list((home.remote / "checkpoints").rglob("*-*.json")) or process.poll() is not None, 120)
    assert process.poll() is None, process.stdout and process.stdout.read()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    if process.stdout:
        process.stdout.close()


def hashes(lock: str) -> dict[str, object]:
    return {stage: [(out["path"], out["md5"]) for out in entry["outs"]] for stage, entry in yaml.safe_load(lock)["stages"].items()}


def resumed(remote: Path) -> bool:
    """Whether a second attempt claimed the training's checkpoints."""
    (owner,) = (remote / "checkpoints").rglob("owner.json")
    return int(json.loads(owner.read_text())["attempt"]) > 1
