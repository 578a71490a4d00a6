"""skumatch doctor in a deployment: all healthy, a queue without a worker, and a broker that is down."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, wait_until
from tests.deployment.runs import Deployment

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


def test_a_deployment_is_looked_over(deployment: Deployment, tmp_path: Path) -> None:
    stack = deployment.stack

    def doctor() -> tuple[int, dict[str, Any]]:
        file = tmp_path / "found.json"
        file.unlink(missing_ok=True)
        words = [
            str(ROOT / "docker/entrypoint"),
            sys.executable,
            "-m",
            "skumatch",
            "doctor",
            "--json",
            str(file),
        ]
        done = subprocess.run(
            words, cwd=deployment.project, env=env, capture_output=True, text=True, check=False
        )
        assert not any(
            stack.secret(name) in done.stdout + done.stderr + file.read_text()
            for name in ("redis", "airflow_service", "mlflow_admin")
        )
        return done.returncode, {entry["name"]: entry for entry in json.loads(file.read_text())}

    with deployment.workers("doctor", {"one": "default"}) as workers:
        env = workers["one"].env  # as `docker compose exec worker entrypoint` has it
        wait_until(lambda: "queue gpu" in doctor()[1]["workers"]["found"], 120)
        workers["two"] = stack.worker("doctor-two", "gpu")
        wait_until(lambda: doctor()[1]["workers"]["verdict"] == "ok", 120)
        code, findings = doctor()
        assert code == 0, findings
        assert {name for name, entry in findings.items() if entry["verdict"] != "ok"} <= {"GPU"}
        assert (
            "triggerer" in findings["Airflow"]["found"]
            and findings["workers"]["found"] == "2 workers, serving default, gpu"
        )
    stack.services["redis"].end(signal.SIGTERM)
    try:
        findings = doctor()[1]
        assert findings["broker"]["verdict"] == "failed" and findings["workers"]["verdict"] == "skipped"
    finally:
        stack.services["redis"].start()


def test_the_health_checks_of_compose_tell_well_from_ill(deployment: Deployment) -> None:
    """Of every server of ours.

    Those of Postgres, Redis and the object store are their own images' programs.
    """
    stack = deployment.stack
    for name in ("api-server", "scheduler", "dag-processor", "triggerer", "mlflow"):
        command = stack.healthy(name)
        assert command.returncode == 0, (name, command.stdout, command.stderr)
    with deployment.workers("health", {"one": "default"}):
        wait_until(lambda: stack.healthy("health-one", of="worker").returncode == 0, 120)
    assert stack.healthy("health-one", of="worker").returncode != 0, "it has ended"
