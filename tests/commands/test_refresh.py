"""`skumatch refresh`: which run it starts, which it joins, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from skumatch.commands import runs
from skumatch.config import Settings
from skumatch.errors import RunFailed
from skumatch.pipeline.releases import unused_in_refresh
from skumatch.servers.airflow_api import Airflow
from skumatch.servers.follow import Watch, active
from tests.conftest import ROOT, record_as_started
from tests.servers.test_follow import SUMMARY

DATA, OTHER = "a" * 32, "b" * 32
CONF: dict[str, Any] = {"overrides": [], "dry_run": False, "data_ref": None}


@pytest.fixture(autouse=True)
def up(tmp_path: Path) -> None:
    record_as_started(Settings(project=tmp_path), "api-server")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[httpx.Request]]:
    """Replace Airflow by a stand-in that has these runs: (id, state, conf, data after pull)."""

    def served(*rows: tuple[str, str, dict[str, Any] | None, str | None]) -> list[httpx.Request]:
        requests: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            requests.append(request)
            path = request.url.path
            if path == "/auth/token":
                return httpx.Response(200, json={"access_token": "x"})
            if path == "/api/v2/dags/skumatch_refresh/dagRuns":
                wanted = request.url.params.get_list("state")
                listed = [
                    {"dag_run_id": run, "state": state, "conf": conf}
                    for run, state, conf, _ in rows
                    if state in wanted
                ]
                return httpx.Response(200, json={"dag_runs": listed})
            data = next(data for run, _, _, data in rows if f"/dagRuns/{run}/taskInstances/pull/" in path)
            if path.endswith("/return_value"):
                return httpx.Response(200, json={"value": {"data": data}})
            return httpx.Response(200, json={"xcom_entries": [{"key": "return_value"}] if data else []})

        def session(url: str, *_: Any, **more: Any) -> httpx.Client:
            return httpx.Client(base_url=url, transport=httpx.MockTransport(answer))

        monkeypatch.setattr("skumatch.servers.airflow_api.network.http_client", session)
        return requests

    return served


@pytest.mark.parametrize(
    ("rows", "joined"),
    [
        ([], None),
        ([("r1", "running", CONF, DATA)], "r1"),
        ([("r1", "running", {}, DATA)], "r1"),
        ([("r1", "running", None, None)], "r1"),
        ([("r1", "running", CONF, OTHER)], None),
        ([("r1", "running", CONF, OTHER), ("r2", "queued", CONF, None)], "r2"),
        ([("r1", "running", CONF | {"dry_run": True}, DATA)], None),
        ([("r1", "running", CONF | {"overrides": ["seed=1"]}, DATA)], None),
        ([("r1", "success", CONF, DATA)], None),
    ],
)
def test_a_run_is_joined_that_does_what_is_wanted(
    serve: Callable[..., Any], tmp_path: Path, rows: Any, joined: str | None
) -> None:
    """A run with the same data and settings; before its first task ends, a run takes the newest data."""
    serve(*rows)
    assert active(Settings(project=tmp_path), {"overrides": []}, DATA, "skumatch_refresh") == joined


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A project with data, whose runs end at once; records the runs triggered and followed."""
    done: list[Any] = []

    def follow(_: Settings, run: str, dag: str) -> dict[str, Any]:
        done.append(("follow", run, dag))
        return (
            {"skipped": True, "reason": "Nothing new."}
            if run == "skips"
            else SUMMARY | {"run": run, "dag": dag}
        )

    (tmp_path / "data.dvc").write_text(f"outs: [{{md5: {DATA}}}]")
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    monkeypatch.setattr(runs, "current_settings", lambda: Settings(project=tmp_path))
    monkeypatch.setattr(runs, "_read_code", lambda _: None)
    monkeypatch.setattr(
        "skumatch.servers.follow.trigger", lambda _, conf, dag: done.append(("trigger", conf, dag)) or "mine"
    )
    monkeypatch.setattr("skumatch.servers.follow.follow", follow)
    return done


def test_a_refresh_is_a_run_of_its_own_dag(
    started: list[Any], serve: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    serve()
    runs.refresh(overrides=["seed=3"], dry_run=True)
    conf = {"overrides": ["seed=3"], "dry_run": True, "data_ref": None, "encoder": None}
    assert started == [("trigger", conf, "skumatch_refresh"), ("follow", "mine", "skumatch_refresh")]
    assert "/dags/skumatch_refresh/runs/mine" in capsys.readouterr().out


def test_the_second_of_two_refreshes_joins_the_first(
    started: list[Any], serve: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(("r1", "running", {}, DATA))
    runs.refresh()
    assert started == [("follow", "r1", "skumatch_refresh")]
    assert "The refresh r1 of the same data is under way; this command follows it." in capsys.readouterr().out


def test_a_joined_run_that_is_skipped_is_not_what_was_wanted(
    started: list[Any], serve: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(("skips", "queued", {}, None))
    runs.refresh()
    assert [step[0] for step in started] == ["follow", "trigger", "follow"]
    assert "The refresh skips was skipped; another one starts." in capsys.readouterr().out


def test_a_joined_run_that_took_other_data_is_not_what_was_wanted(
    started: list[Any],
    serve: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its first task was reading data.dvc when the last import came."""
    serve(("r1", "running", {}, None))
    monkeypatch.setattr("skumatch.servers.follow.data_of", lambda *_: OTHER)
    runs.refresh()
    assert [step[0] for step in started] == ["follow", "trigger", "follow"]
    assert "The refresh r1 took other data; another one starts." in capsys.readouterr().out


def test_a_refresh_that_fails_ends_with_its_code(
    started: list[Any], serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RunFailed("embed: It broke.", 15)

    serve()
    monkeypatch.setattr("skumatch.servers.follow.follow", fails)
    with pytest.raises(RunFailed) as failed:
        runs.refresh()
    assert failed.value.exit_code == 15


def test_ctrl_c_leaves_a_refresh_going(
    started: list[Any],
    serve: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    serve()
    monkeypatch.setattr("skumatch.servers.follow.follow", interrupted)
    monkeypatch.setattr(Airflow, "patch", lambda *_: pytest.fail("it was stopped"))
    with pytest.raises(KeyboardInterrupt):
        runs.refresh()
    output = " ".join(capsys.readouterr().out.split())
    assert "The run mine goes on; see it at" in output and "/dags/skumatch_refresh/runs/mine" in output


def test_a_refresh_is_watched_in_its_own_dag(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {embed: {}}")
    watch = Watch(None, Settings(project=tmp_path), "r1", "skumatch_refresh")  # type: ignore[arg-type]
    assert watch.path == "/dags/skumatch_refresh/dagRuns/r1"


def test_what_only_the_training_reads_is_unused() -> None:
    assert unused_in_refresh(ROOT) == {"train", "encoder"}


def test_a_parameter_of_another_stage_is_used(tmp_path: Path) -> None:
    train = "train: {params: [seed, train, split.val_share]}"
    (tmp_path / "dvc.yaml").write_text(
        f"stages: {{{train}, frozen: {{}}, embed: {{params: [seed]}}, report: {{params: [train]}}}}"
    )
    assert unused_in_refresh(tmp_path) == {"train", "split.val_share"}
