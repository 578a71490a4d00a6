"""The DAG files as modules, with the fake worker in place of `skumatch worker`."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT

DAGS = ROOT / "dags"


@pytest.fixture(scope="package", autouse=True)
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("SKUMATCH_PROJECT", str(ROOT))
        patch.syspath_prepend(str(DAGS))
        yield


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """dags/stage_process.py, whose subprocess is the fake worker."""
    import container
    import launch
    import stage_process

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "fake_worker.py"} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("SKUMATCH_PYTHON", str(python))
    monkeypatch.setenv("SKUMATCH_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "not for stages")
    for module in (container, launch):
        monkeypatch.setattr(module, "PROJECT", tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    plan(tmp_path)
    return stage_process


def plan(home: Path, **behaviour: Any) -> None:
    """The behaviour of the fake worker in each task."""
    (home / "fake.json").write_text(json.dumps(behaviour))


def hanging(home: Path) -> list[psutil.Process]:
    """The fake worker and its child, once it hangs."""
    for _ in range(1200):
        if (home / "hang.json").exists() and (text := (home / "hang.json").read_text()):
            return [psutil.Process(pid) for pid in json.loads(text)]
        time.sleep(0.05)
    raise AssertionError("the stage never started")


def hanging_still(home: Path) -> list[psutil.Process]:
    """Of these, those that have not ended."""
    return [
        psutil.Process(pid) for pid in json.loads((home / "hang.json").read_text()) if psutil.pid_exists(pid)
    ]
