"""Two workers do more retrains than one, each with a core of its own.

The output of `skumatch bench workers` about it is printed, not judged.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from tests.deployment.runs import Deployment
from tests.proving import PROVING

pytestmark = [pytest.mark.live, pytest.mark.timeout(3000)]
CORES = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []


@pytest.mark.skipif(not PROVING, reason="in `make prove`: eight retrains")
@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_retrains_go_on_together(deployment: Deployment, tmp_path: Path) -> None:
    runs = "4"
    for names in (("one",), ("one", "two")):
        file, against = tmp_path / f"{len(names)}.json", tmp_path / "1.json"
        with deployment.workers(f"throughput-{len(names)}", dict.fromkeys(names, "default,gpu")) as workers:
            for core, worker in zip(CORES, workers.values(), strict=False):
                assert worker.process
                psutil.Process(worker.process.pid).cpu_affinity(
                    [core]
                )  # what it starts later stays there, too
            words = [
                "bench",
                "workers",
                "--runs",
                runs,
                "--json",
                str(file),
                *(["--against", str(against)] if against.is_file() else []),
            ]
            done = deployment.command(*words)
        print(done.stdout)
        assert done.returncode == 0, done.stderr
        assert json.loads(file.read_text())["runs"] == int(runs)
    assert "retrains an hour, against before" in done.stdout
