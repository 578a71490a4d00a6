"""One worker machine of a test: its own home and code, driven task by task as Airflow's tasks do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skumatch.stages.runner import STAGES
from tests.warm import HIDDEN, python

# The tiny encoder, on tiny pictures: plumbing is tested here, not learning.
CANVAS = ("encoder.model=smoke", "encoder.weights=none", "encoder.height=32", "encoder.width=32")
SMOKE = (*CANVAS, "train.epochs=1", "train.batch=8", "gate.floor_top1=0.0")


class TaskFailed(Exception):
    def __init__(self, error: dict[str, Any], code: int, output: str) -> None:
        super().__init__(f"{error} {code}\n{output[-3000:]}")
        self.error, self.code, self.output = error, code, output


@dataclass(frozen=True)
class Home:
    project: Path
    home: Path
    remote: Path
    mlflow: str

    @property
    def environment(self) -> dict[str, str]:
        places = {"PROJECT": self.project, "HOME": self.home, "REMOTE": self.remote, "MLFLOW": self.mlflow}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SKUMATCH_")}
        named = {f"SKUMATCH_{name}": str(value) for name, value in places.items()}
        return kept | named | {"PYTHONPATH": str(HIDDEN)}

    def command(self, *words: str, program: str = "") -> subprocess.CompletedProcess[str]:
        """`skumatch WORDS` in the project's folder."""
        return subprocess.run(
            [program or python(), "-m", "skumatch", *words],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *words: str, program: str = sys.executable) -> subprocess.Popen[str]:
        """Start a task; one that is killed needs a Python of its own."""
        return subprocess.Popen(
            [program, "-m", "skumatch", "worker", *words],
            cwd=self.project,
            env=self.environment | {"SKUMATCH_EVENTS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def task(self, message: dict[str, Any], *words: str) -> dict[str, Any]:
        """Run one task to its end and return its message to the next.

        Raises TaskFailed with its error line.
        """
        process = self.start(*words, program=python())
        output, _ = process.communicate(json.dumps(message))
        if process.returncode:
            raise TaskFailed(
                marker(output, "error") or marker(output, "skip") or {}, process.returncode, output
            )
        return (
            marker(output, "result") | {"output": output}
            if words[0] == "register"
            else marker(output, "result")
        )

    def pull(self, run: str, *overrides: str, **request: Any) -> dict[str, Any]:
        return self.task({"run": run, "overrides": [*SMOKE, *overrides], **request}, "pull")

    def stages(self, message: dict[str, Any], *names: str) -> dict[str, Any]:
        """Run stages in one process; Airflow's tasks have one for each, as tests/e2e shows."""
        return self.task(message, "stage", *(names or STAGES))


def marker(output: str, kind: str) -> dict[str, Any]:
    lines = [line for line in output.splitlines() if line.startswith(f"skumatch-{kind} ")]
    return dict(json.loads(lines[-1].split(" ", 1)[1])) if lines else {}
