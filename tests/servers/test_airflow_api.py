"""Behaviour of the commands when Airflow's server fails for a moment, or for good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from skumatch.config import Settings
from skumatch.errors import ServiceError
from skumatch.servers import airflow_api
from skumatch.servers.airflow_api import Airflow, patiently
from tests.conftest import record_as_started


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], tuple[Airflow, list[str]]]:
    """An Airflow whose first answers are failures, and the list of its requests."""

    def made(failures: int) -> tuple[Airflow, list[str]]:
        requests: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/auth/token":
                return httpx.Response(200, json={"access_token": "x"})
            requests.append(request.method)
            failed = len(requests) <= failures
            return httpx.Response(
                500 if failed else 200, json={"detail": "database is locked"} if failed else {"well": True}
            )

        settings = Settings(project=tmp_path)
        record_as_started(settings, "api-server")
        airflow = Airflow(settings)
        airflow._client = httpx.Client(base_url=airflow.url, transport=httpx.MockTransport(answer))
        return airflow, requests

    monkeypatch.setattr(airflow_api, "POLL_SECONDS", 0.0)
    return made


@pytest.mark.parametrize("method", ["get", "patch"])
def test_a_moment_s_failure_is_waited_out(
    flaky: Callable[[int], tuple[Airflow, list[str]]], method: str
) -> None:
    airflow, requests = flaky(2)
    with airflow:
        assert patiently(
            lambda: airflow.get("/dags") if method == "get" else airflow.patch("/dags/x", {})
        ) == {"well": True}
    assert len(requests) == 3


def test_a_lasting_failure_is_told_in_the_server_s_words(
    flaky: Callable[[int], tuple[Airflow, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow_api, "PATIENCE_SECONDS", 0.05)
    airflow, requests = flaky(10**9)
    with airflow, pytest.raises(ServiceError, match=r"Airflow answers 500 to GET /dags: database is locked"):
        patiently(lambda: airflow.get("/dags"))
    assert len(requests) > 1


def test_without_patience_each_call_is_made_once(flaky: Callable[[int], tuple[Airflow, list[str]]]) -> None:
    airflow, requests = flaky(1)
    with airflow, pytest.raises(ServiceError):
        airflow.post("/dags/x/dagRuns", {})
    assert requests == ["POST"]
