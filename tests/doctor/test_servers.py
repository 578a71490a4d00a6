"""Answers of Airflow and MLflow: healthy, another version, an unhealthy part, another program, none."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skumatch import network
from skumatch.config import Settings
from skumatch.doctor import servers
from skumatch.params import Params
from skumatch.registry.champion_state import ChampionState
from skumatch.registry.registry import ModelRef, Registry
from tests.conftest import free_port, record_as_started
from tests.doctor.asking import CURE, Stand, ask

Served = tuple[type[Stand], Settings]
HEALTH, TASKS = "/api/v2/monitor/health", "/api/v2/dags/skumatch_retrain/tasks"
ALL_WELL = {name: {"status": "healthy"} for name in ("metadatabase", "scheduler", "dag_processor")}
LONG_AGO = (datetime.now(UTC) - timedelta(hours=2000)).isoformat()
BROKEN = {"filename": "retrain.py", "stack_trace": "x\nSyntaxError: no"}
PAUSED = [
    {"dag_id": "skumatch_retrain", "is_paused": False},
    {"dag_id": "skumatch_refresh", "is_paused": True},
]
NO_TRIGGERER: dict[str, Any] = {"triggerer": {"status": None, "latest_triggerer_heartbeat": None}}


def test_airflow_is_well(stand: Served) -> None:
    own, settings = stand
    assert ask(servers.airflow, settings).found.endswith("healthy: metadatabase, scheduler, dag processor")
    own.answers[HEALTH] = ALL_WELL | NO_TRIGGERER
    assert ask(servers.airflow, settings).found.endswith("healthy: metadatabase, scheduler, dag processor")


@pytest.mark.parametrize(("part", "said", "log"), [
    ({"metadatabase": {"status": "unhealthy"}}, "can't reach its metadata database", "api-server.log"),
    ({"scheduler": {"status": "unhealthy", "latest_scheduler_heartbeat": LONG_AGO}},
     "its scheduler 120,0", "scheduler.log"),
    ({"dag_processor": {"status": None, "latest_dag_processor_heartbeat": None}},
     "never heard of a dag processor", "dag-processor.log"),
    ({"triggerer": {"status": "unhealthy", "latest_triggerer_heartbeat": LONG_AGO}},
     "its triggerer 120,0", "triggerer.log"),
])  # fmt: skip
def test_a_part_of_airflow_that_is_ill_is_named(
    stand: Served, part: dict[str, Any], said: str, log: str
) -> None:
    own, settings = stand
    own.answers[HEALTH] = ALL_WELL | part
    finding = ask(servers.airflow, settings)
    assert finding.verdict == ("warning" if "triggerer" in part else "failed")
    assert said in finding.found and "skumatch up" in finding.fix and log in finding.fix
    elsewhere = settings.model_copy(update={"airflow": settings.airflow_url})
    assert "where it runs" in ask(servers.airflow, elsewhere).fix


def test_an_airflow_of_another_version_is_told(stand: Served) -> None:
    own, settings = stand
    own.answers["/api/v2/version"] = {"version": "2.0.0"}
    finding = ask(servers.airflow, settings)
    assert finding.verdict == "warning" and "2.0.0 there" in finding.found


@pytest.mark.parametrize(("token", "said", "fix"), [
    (401, "refuses the user ann", "Check SKUMATCH_AIRFLOW"),
    (404, "is not Airflow", "SKUMATCH_AIRFLOW_PORT"),
    ("<html>Something else</html>", "is not Airflow", "SKUMATCH_AIRFLOW_PORT"),
    (500, "does not answer", "SKUMATCH_AIRFLOW"),
])  # fmt: skip
def test_an_airflow_that_lets_nobody_in_is_told_without_the_password(
    stand: Served, token: Any, said: str, fix: str
) -> None:
    own, settings = stand
    own.answers["/auth/token"] = token
    port = settings.airflow_port
    finding = ask(
        servers.airflow, settings.model_copy(update={"airflow": f"http://ann:s3cr3t@127.0.0.1:{port}"})
    )
    assert (
        finding.verdict == "failed"
        and said in finding.found
        and fix in finding.fix
        and "s3cr3t" not in str(finding)
    )


def test_an_airflow_that_wants_a_name_is_told(stand: Served) -> None:
    own, settings = stand
    own.answers["/auth/token"] = 401
    finding = ask(servers.airflow, settings)
    assert "wants a user and password" in finding.found and "SKUMATCH_AIRFLOW_USERS" in finding.fix
    finding = ask(servers.airflow, settings.model_copy(update={"airflow_users": "ann:admin"}))
    assert "airflow-passwords.json" in finding.found and finding.fix == CURE
    settings.home_dir.mkdir(parents=True, exist_ok=True)
    settings.passwords_file.write_text(json.dumps({"skumatch": "s3cr3t"}))
    finding = ask(servers.airflow, settings.model_copy(update={"airflow_users": "ann:admin"}))
    assert "refuses the user skumatch" in finding.found and "s3cr3t" not in str(finding)


@pytest.mark.parametrize(("path", "answer", "verdict", "said"), [
    ("/api/v2/importErrors", {"import_errors": [BROKEN]}, "failed",
     "can't import retrain.py: SyntaxError: no"),
    ("/api/v2/dags", {"dags": []}, "failed", "no DAG skumatch_retrain"),
    ("/api/v2/dags", {"dags": [{"dag_id": "skumatch_retrain", "is_paused": False}]}, "failed",
     "no DAG skumatch_refresh"),
    ("/api/v2/dags", {"dags": PAUSED}, "warning", "the DAG skumatch_refresh is paused"),
    ("/api/v2/pools", {"pools": [{"name": "default_pool"}]}, "failed", "no pool gpu"),
    (TASKS, {"tasks": [{"task_id": "pull", "queue": "default", "pool": "gpu"}]}, "warning",
     "of another checkout"),
])  # fmt: skip
def test_dags_that_would_not_run(stand: Served, path: str, answer: Any, verdict: str, said: str) -> None:
    own, settings = stand
    assert ask(servers.dags, settings).found == "2 imported, none with an error; pools: gpu"
    own.answers[path] = answer
    finding = ask(servers.dags, settings)
    assert finding.verdict == verdict and said in finding.found


def test_stages_that_go_elsewhere_than_params_say_are_told(stand: Served) -> None:
    own, settings = stand
    tasks = own.answers[TASKS]["tasks"]
    own.answers[TASKS] = {
        "tasks": [task | ({"queue": "cpu"} if task["task_id"] == "train" else {}) for task in tasks]
    }
    finding = ask(servers.dags, settings)
    assert (
        finding.verdict == "warning"
        and "train goes to the queue cpu in Airflow, to gpu by params.yaml" in finding.found
    )


def test_mlflow_is_of_our_version_or_not(stand: Served) -> None:
    own, settings = stand
    assert ask(servers.mlflow, settings).verdict == "ok"
    own.answers["/version"] = "1.0.0"
    finding = ask(servers.mlflow, settings)
    assert finding.verdict == "warning" and "1.0.0 there" in finding.found
    own.answers["/version"] = "<html>Something else</html>"
    assert "is not MLflow" in ask(servers.mlflow, settings).found
    own.answers["/version"] = 401
    finding = ask(
        servers.mlflow,
        settings.model_copy(update={"mlflow": f"http://ann:s3cr3t@127.0.0.1:{settings.airflow_port}"}),
    )
    assert "MLFLOW_TRACKING_PASSWORD" in finding.fix and "s3cr3t" not in str(finding)


def test_a_champion_is_what_was_registered_or_not(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ModelRef(3, "ab" * 32, "run", datetime.now(UTC))
    serves = ChampionState("serves", "skumatch", 3, 3, None)
    record_as_started(here, "mlflow")
    monkeypatch.setattr(Registry, "champion", lambda _: ref)
    monkeypatch.setattr(Registry, "champion_state", lambda _: serves)
    monkeypatch.setattr(servers, "manifest_hash", lambda *_: ref.bundle)
    assert ask(servers.champion, here).found == "skumatch, version 3, bundle abababababab"
    monkeypatch.setattr(servers, "manifest_hash", lambda *_: "cd" * 32)
    assert "not what was registered" in ask(servers.champion, here).found


@pytest.mark.parametrize(
    ("state", "verdict", "sentence", "fix"),
    [
        (("never", None, None, None), "ok", "skumatch has no champion yet", ""),
        (
            ("removed", None, 3, 3),
            "failed",
            "the alias of version 3 was removed",
            "rollback` makes version 3",
        ),
        (("deleted", None, 3, 2), "failed", "its version 3 was deleted", "rollback` makes version 2"),
        (("deleted", None, 3, None), "failed", "its version 3 was deleted", "retrain` makes a new one"),
        (
            ("moved", 4, 3, None),
            "warning",
            "by hand, from version 3 to version 4",
            "rollback 3` moves it back",
        ),
    ],
)
def test_a_champion_that_is_missing_or_was_moved_is_told_apart(
    here: Settings,
    monkeypatch: pytest.MonkeyPatch,
    state: Any,
    verdict: str,
    sentence: str,
    fix: str,
) -> None:
    kind, version, last, following = state
    champion_state = ChampionState(kind, "skumatch", version, last, following)
    ref = ModelRef(version, "ab" * 32, "run", datetime.now(UTC)) if version else None
    record_as_started(here, "mlflow")
    monkeypatch.setattr(Registry, "champion", lambda _: ref)
    monkeypatch.setattr(Registry, "champion_state", lambda _: champion_state)
    monkeypatch.setattr(servers, "manifest_hash", lambda *_: "ab" * 32)
    answer = ask(servers.champion, here)
    assert answer.verdict == verdict and sentence in answer.found and fix in answer.fix


def test_what_needs_parameters_is_not_asked_without_them(here: Settings) -> None:
    (here.project / "params.yaml").write_text("train: {epochs: none}\n")
    finding = ask(servers.champion, here, None)
    assert finding.verdict == "skipped" and "params.yaml" in finding.fix
    assert ask(servers.champion, here, Params()).verdict == "failed"


def test_clocks_are_compared(stand: Served) -> None:
    own, settings = stand
    assert ask(servers.clocks, settings).found.startswith("MLflow and Airflow have ours, within ")
    own.date = "Sat, 01 Jan 2000 00:00:00 GMT"
    finding = ask(servers.clocks, settings)
    assert finding.verdict == "warning" and "from MLflow's and" in finding.found and "NTP" in finding.fix


def test_servers_that_are_away(here: Settings) -> None:
    away = here.model_copy(update={"mlflow": f"http://127.0.0.1:{free_port()}", "airflow_port": free_port()})
    assert ask(servers.clocks, away).verdict == "skipped"
    for check in (servers.mlflow, servers.artifacts, servers.champion, servers.airflow, servers.dags):
        finding = ask(check, away)
        assert finding.verdict == "failed" and "skumatch up" in finding.fix, finding


def test_a_proxy_setting_is_shown_with_its_flaws(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network, "LEFT_OUT", [])
    assert ask(servers.proxy, here).found == "none is set"
    monkeypatch.setenv("https_proxy", "http://ann:s3cr3t@proxy.example.org:3128")
    finding = ask(servers.proxy, here)
    assert finding.verdict == "ok"
    assert finding.found.startswith("https through proxy.example.org:3128; directly: ")
    network.LEFT_OUT.append("ALL_PROXY is not used: it is no URL.")
    finding = ask(servers.proxy, here)
    assert finding.verdict == "warning" and "ALL_PROXY" in finding.found
