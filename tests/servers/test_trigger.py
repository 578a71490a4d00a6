"""A run is triggered only where Airflow's scheduler works, or it would wait for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from skumatch.config import Settings
from skumatch.errors import ServiceError
from skumatch.files import read_json, write_json
from skumatch.servers.follow import trigger
from tests.conftest import record_as_started


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for Airflow: its scheduler's `status`, and what was `posted`."""
    state: dict[str, Any] = {"status": "healthy", "posted": []}

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v2")
        if path == "/monitor/health":
            return httpx.Response(200, json={"scheduler": {"status": state["status"]}})
        if request.method == "POST" and path != "/auth/token":
            state["posted"].append(path)
        return httpx.Response(200, json={"access_token": "x", "is_paused": False, "dag_run_id": "r1"})

    def client(url: str, *_: Any, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=url, transport=httpx.MockTransport(answer))

    monkeypatch.setattr("skumatch.servers.airflow_api.network.http_client", client)
    return state


@pytest.mark.parametrize("airflow", [None, "http://ann:secret@airflow.example"])
def test_a_run_starts_where_the_scheduler_works(
    requests: dict[str, Any], tmp_path: Path, airflow: str | None
) -> None:
    settings = Settings(project=tmp_path, airflow=airflow)
    record_as_started(settings, "api-server", "scheduler")
    assert trigger(settings, {}) == "r1" and len(requests["posted"]) == 1
    requests["status"] = "unhealthy"
    with pytest.raises(ServiceError, match="scheduler doesn't work") as refused:
        trigger(settings, {})
    assert len(requests["posted"]) == 1 and ("skumatch up" in str(refused.value)) == (airflow is None)


def test_a_scheduler_that_died_a_moment_ago_is_noticed(requests: dict[str, Any], tmp_path: Path) -> None:
    """Airflow itself still calls it healthy then."""
    settings = Settings(project=tmp_path)
    record_as_started(settings, "api-server", "scheduler")
    alive, died = read_json(settings.servers_file)
    write_json(settings.servers_file, [alive, died | {"created": died["created"] - 99}])
    with pytest.raises(ServiceError, match=r"scheduler doesn't work.*scheduler\.log, then `skumatch up`"):
        trigger(settings, {})
    assert requests["posted"] == []
