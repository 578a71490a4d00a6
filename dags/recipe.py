"""What Airflow has to know of the project when it reads the DAGs: the stages, and the knobs that are read before a run begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(os.environ.get("SKUMATCH_PROJECT") or Path(__file__).resolve().parents[1])
STAGES = list(yaml.safe_load((PROJECT / "dvc.yaml").read_text("utf-8"))["stages"])
PARAMS: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text("utf-8"))
GPU = "gpu"  # who works in this queue waits for a slot of the pool of this name, so two runs never share a card
EXECUTIONS = ("subprocess", "docker")
# As skumatch/params.py has them; a test compares.
LEFT_OUT = {"queues": dict.fromkeys(("frozen", "train", "embed"), GPU), "execution": "subprocess", "parallel_runs": 1}
RUNTIME: dict[str, Any] = LEFT_OUT | PARAMS.get("runtime", {})
if RUNTIME["execution"] not in EXECUTIONS:
    raise ValueError(f"Parameter runtime.execution is '{RUNTIME['execution']}' in params.yaml; make it {' or '.join(EXECUTIONS)}.")
