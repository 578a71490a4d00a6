"""The pipeline is written once: `dvc repro` by hand and task by task, on machines that share nothing, end with the same hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from skumatch.config import apply_overrides
from skumatch.stages.runner import STAGES
from tests.conftest import Delivery, commit, make_project
from tests.pipeline.home import SMOKE, Home
from tests.pipeline.test_two_homes import hashes


@pytest.mark.live
def test_by_hand_and_by_tasks_the_hashes_are_the_same(delivery: Delivery, tmp_path: Path, mlflow_url: str) -> None:
    tasks, hand = (home_of(tmp_path / name, delivery(), mlflow_url) for name in ("tasks", "hand"))
    by_tasks = tasks.stages(tasks.task({"run": "by-tasks"}, "pull"))["lock"]
    pulled = hand.command("pull")
    assert pulled.returncode == 0, pulled.stderr
    activated = hand.environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["dvc", "repro"], cwd=hand.project, env=activated, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    by_hand = (hand.project / "dvc.lock").read_text("utf-8")
    assert list(hashes(by_hand)) == list(STAGES) and hashes(by_hand) == hashes(by_tasks)


def home_of(root: Path, photos: Path, mlflow: str) -> Home:
    """A machine with data, whose params.yaml says all that other tests say as overrides."""
    home = Home(make_project(root / "project"), root / "home", root / "remote", mlflow)
    params = home.project / "params.yaml"
    tree = apply_overrides(yaml.safe_load(params.read_text("utf-8")), [*SMOKE, "release.model_name=by-hand"])
    params.write_text(yaml.safe_dump(tree), "utf-8")
    assert home.command("data", "import", str(photos)).returncode == 0
    commit(home.project, "Tiny")
    return home
