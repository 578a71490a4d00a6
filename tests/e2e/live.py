"""A project of its own with live servers: Airflow's scheduler, MLflow, and a worker that can be told to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skumatch.config import Settings
from skumatch.release.registry import Registry
from skumatch.release.tracking import EXPERIMENT, Tracking
from tests.conftest import commit, draw, free_port, make_project
from tests.pipeline.home import SMOKE

BREAKER = Path(__file__).parent / "breaker"
DELAY = "timedelta(seconds=10)"


@dataclass(frozen=True)
class Ended:
    """A command of skumatch that ended."""

    code: int
    out: str
    err: str


class Live:
    """One project's folder, home and ports; `retrain` drives the real command line."""

    def __init__(self, root: Path) -> None:
        self.root, self.plan = root, root / "plan.json"
        self.project = make_project(root / "project")
        self._retry_soon()
        self.settings = Settings(project=self.project, home=root / "home", airflow_port=free_port(), mlflow_port=free_port())
        self.delivery = deliver(root / "delivery")
        self.mend()

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SKUMATCH_", "AIRFLOW_"))}
        ports = {"AIRFLOW_PORT": self.settings.airflow_port, "MLFLOW_PORT": self.settings.mlflow_port}
        ours = {"PROJECT": self.project, "HOME": self.root / "home", "PYTHON": self._python(), **ports}
        return kept | {"COLUMNS": "250"} | {f"SKUMATCH_{name}": str(value) for name, value in ours.items()}

    def command(self, *words: str, **kwargs: Any) -> Ended:
        """`skumatch WORDS` in the project's folder."""
        done = subprocess.run(
            [sys.executable, "-m", "skumatch", *words], cwd=self.project, env=self.environment, capture_output=True, text=True, check=False,
            timeout=400, **kwargs,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def retrain(self, *words: str, start: str = "retrain") -> Ended:
        overrides = [word for override in SMOKE for word in ("--set", override)]
        return self.command(start, *overrides, *words)

    def break_(self, task: str, error: str) -> None:
        self.plan.write_text(json.dumps({"task": task, "error": error}))

    def mend(self) -> None:
        self.plan.write_text("{}")

    @property
    def registry(self) -> Registry:
        return Registry(self.settings.mlflow_url)

    def aliases(self) -> dict[str, int]:
        return {alias: ref.version for ref in self.registry.versions() for alias in ref.aliases}

    def runs(self) -> list[Any]:
        """MLflow's runs, newest first."""
        with Tracking(self.settings.mlflow_url).client() as client:
            return list(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]))

    def artifacts(self, folder: Path) -> Path:
        """All artifacts of the newest run."""
        with Tracking(self.settings.mlflow_url).client() as client:
            return Path(client.download_artifacts(self.runs()[0].info.run_id, "", str(folder)))

    def _retry_soon(self) -> None:
        dag = self.project / "dags/retrain.py"
        text = dag.read_text("utf-8")
        assert text.count(DELAY) == 1
        dag.write_text(text.replace(DELAY, "timedelta(seconds=1)"), "utf-8")
        commit(self.project, "try again sooner")

    def _python(self) -> Path:
        python = self.root / "python"
        python.write_text(f'#!/bin/sh\nexport PYTHONPATH={BREAKER} SKUMATCH_TEST_PLAN={self.plan}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        return python


@contextmanager
def serving(root: Path) -> Iterator[Live]:
    live = Live(root)
    started = live.command("up")
    assert started.code == 0, started.err
    try:
        yield live
    finally:
        assert live.command("down").code == 0


def deliver(folder: Path, skus: int = 8, train: int = 4, test: int = 2) -> Path:
    """Products that differ in their pictures, in RP2K's layout."""
    for sku in range(skus):
        for side, count in (("train", train), ("test", test)):
            for number in range(count):
                draw(folder / "all" / side / f"sku {sku}" / f"{number}.png", f"{sku} {side} {number}")
    return folder
