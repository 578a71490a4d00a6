"""A project of its own, and a stand-in for its servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import pytest

from skumatch.config import Settings
from skumatch.params import STAGES
from tests.conftest import record_as_started
from tests.doctor.asking import Stand


@pytest.fixture
def here(project: Path, tmp_path: Path) -> Settings:
    return Settings(project=project, home=tmp_path / "home")


@pytest.fixture
def stand(here: Settings) -> Iterator[tuple[type[Stand], Settings]]:
    """Airflow and MLflow where all is well, and the settings that lead there."""
    queues = dict.fromkeys(("frozen", "train", "embed"), "gpu")
    tasks = [
        {"task_id": name, "queue": queues.get(name, "default"), "pool": "gpu"}
        for name in ("pull", *STAGES, "register")
    ]

    class Own(Stand):
        answers: ClassVar[dict[str, Any]] = {
            "/auth/token": {"access_token": "t"},
            "/api/v2/version": {"version": version("apache-airflow-core")},
            "/api/v2/monitor/health": {
                name: {"status": "healthy"} for name in ("metadatabase", "scheduler", "dag_processor")
            },
            "/api/v2/importErrors": {"import_errors": []},
            "/api/v2/dags": {
                "dags": [
                    {"dag_id": f"skumatch_{kind}", "is_paused": False} for kind in ("retrain", "refresh")
                ]
            },
            "/api/v2/dags/skumatch_retrain/tasks": {"tasks": tasks},
            "/api/v2/pools": {"pools": [{"name": "gpu"}]},
            "/health": "OK",
            "/version": version("mlflow"),
        }

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    record_as_started(here, "api-server")
    yield Own, here.model_copy(update={"airflow_port": port, "mlflow": f"http://127.0.0.1:{port}"})
    server.shutdown()
    server.server_close()
