"""A run seen from outside: a live scheduler with a fake worker, and the output about the run."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from rich.console import Console

from skumatch.commands import runs
from skumatch.config import Settings
from skumatch.errors import ParameterError, Refused, RunFailed, ServiceError
from skumatch.params import ScheduleParams
from skumatch.servers import processes, services
from skumatch.servers.airflow_api import REFRESH, Airflow
from skumatch.servers.follow import Watch, active, cancel, follow, seconds, trigger
from skumatch.servers.new_data import announce
from skumatch.servers.summary import Task, links, render_summary, view
from skumatch.started import recorded
from tests.conftest import free_port, make_project, wait_until

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["validate", "split", "frozen", "train", "embed", "evaluate", "bundle", "gate", "report"]
SCORE = {"top1": 0.912, "top3": 0.97, "top5": 0.99, "interval": [0.88, 0.94], "n": 1484}
ANSWERS = {
    "served": {
        "all": {"n": 1484, "right": 0.7012, "wrong": 0.2, "unknown": 0.0988},
        "new": {"n": 55, "right": 0.0},
    },
    "refreshed": {
        "all": {"n": 1484, "right": 0.8634, "wrong": 0.1, "unknown": 0.0366},
        "new": {"n": 55, "right": 0.8182},
    },
}
SUMMARY: dict[str, Any] = {
    "decision": "promote",
    "sentence": "Better on the same queries.",
    "reasons": ["+3.1 points, at least +0.4"],
    "challenger": SCORE,
    "refreshed": SCORE | {"top1": 0.881},
    "answers": ANSWERS,
    "products": {"new": 5, "retired": 2, "held": {}},
    "kind": "retrain",
    "version": 4,
    "aliases": {"champion": 4},
    "report": "out/report/report.html",
    "mlflow_run": "http://127.0.0.1:5000/#/runs/1?workflowType=machine_learning",
    "seconds": dict.fromkeys(STAGES, 2.0),
    "cached": ["validate", "split"],
    "vectors": {
        "challenger": {"computed": 310, "known": 0, "loose": 0},
        "champion": {"computed": 5, "known": 5120, "loose": 0},
    },
    "dry_run": False,
    "run": "r1",
    "tasks": dict.fromkeys(["pull", *STAGES, "register"], 3.0),
    "wall": 36.0,
    "waited": 0.5,
}


def printed(what: Any) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(what)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_summary_says_who_won_why_and_where_to_look() -> None:
    text = printed(render_summary(SUMMARY)) + links(SUMMARY, Settings(airflow_port=8081))
    for words in (
        "Promoted",
        "+3.1 points",
        "91.2 %",
        "88.1 %",
        "88.0 to 94.0 %",
        "1,484",
        "70.1 %",
        "81.8 %",
        "5 new in today's gallery, 2 retired",
        "champion = 4",
        "out/report/report.html",
        "127.0.0.1:8081",
    ):
        assert words in text
    assert "validate, split" in text
    elsewhere = links(SUMMARY, Settings(airflow="http://airflow:8080"))
    view = "?workflowType=machine_learning"
    assert f"http://127.0.0.1:5000/#/runs/1/artifacts/report/report.html{view}\n" in elsewhere
    dry = links(SUMMARY | {"mlflow_run": None}, Settings(mlflow="http://127.0.0.1:5000"))
    assert "MLflow   http://127.0.0.1:5000/#/models\n" in dry
    assert (
        "of it orchestration 21.5 s (2.4 s a stage)" in text
    )  # 36 s, of it 7 stages of 2 s and a start of 0.5 s


def test_the_summary_shows_guards_that_were_not_asked_but_nothing_of_a_champion_before_there_is_one() -> None:
    reasons = [
        "gain: not applicable (there is no champion yet)",
        "tail: not applicable (products with few gallery images: 12 SKUs)",
    ]
    text = printed(render_summary(SUMMARY | {"reasons": reasons}))
    assert "gain" not in text and "12 SKUs" in text


def test_waiting_for_an_earlier_run_is_no_orchestration() -> None:
    text = printed(render_summary(SUMMARY | {"wall": 136.0, "waited": 100.0}))
    assert "136.0 s, of it 100.0 s of waiting for an earlier run, orchestration 22.0 s" in text


def test_the_summary_counts_vectors_where_a_stage_embedded() -> None:
    assert re.search(r"Vectors +315 computed, 5,120 known", printed(render_summary(SUMMARY)))
    assert "Vectors" not in printed(render_summary(SUMMARY | {"vectors": {}}))


def test_a_first_model_a_dry_run_and_a_cached_run_say_so() -> None:
    text = printed(
        render_summary(
            SUMMARY | {"refreshed": None, "answers": {}, "version": None, "dry_run": True, "cached": STAGES}
        )
    )
    for words in ("dry run", "none registered", "cached throughout"):
        assert words in text
    assert "refreshed" not in text and "what serves" not in text


def test_a_model_whose_encoder_is_judged_again_is_not_called_promoted() -> None:
    text = printed(render_summary(SUMMARY | {"judge_again": 4}))
    assert "judges its encoder again" in text and "Promoted" not in text


def test_a_skipped_run_is_told_in_one_line() -> None:
    assert "Nothing new" in printed(render_summary({"skipped": True, "reason": "Nothing new."}))


def test_without_a_terminal_each_try_is_told_once() -> None:
    console = Console(file=io.StringIO(), width=80)
    running = [Task("pull", "success", 1, 2.0), Task("train", "running", 1, 1.0)]
    retried = [running[0], Task("train", "up_for_retry", 1, 4.0)]
    with view(console, "r1") as show:
        for tasks in (running, running, retried, retried, [running[0], Task("train", "success", 2, 5.0)]):
            show(tasks, {}, "running")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split()[0] for line in lines] == ["pull", "train", "train"]
    assert "tries again" in lines[1]


def test_without_a_terminal_a_long_wait_and_a_long_task_are_heard_of_each_minute() -> None:
    console, moments = Console(file=io.StringIO(), width=80), iter([100.0, 102.0, 161.0, 170.0])
    with view(console, "r1", lambda: next(moments)) as show:
        for _ in range(3):
            show([Task("train", "waiting", 1, 0.0)], {}, "queued")
        for seconds_run, done in ((59, 900), (60, 1200), (119, 1900), (121, 2000)):
            progress = {"done": done, "total": 2400, "unit": "images", "text": "[loss]"}
            show([Task("train", "running", 1, float(seconds_run))], progress, "running")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [" ".join(line.split()) for line in lines] == [
        "queued waits for its turn 61.0 s",
        "train runs 60.0 s 1,200/2,400 images [loss]",
        "train runs 121.0 s 2,000/2,400 images [loss]",
    ]


def test_on_a_terminal_the_running_stage_shows_its_progress() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with view(console, "r1") as show:
        show(
            [Task("train", "running", 1, 61.0), Task("embed", "waiting", 0, 0.0)],
            {"done": 1200, "total": 2400, "unit": "images", "text": "loss 2.1"},
            "running",
        )
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1,200/2,400 images loss 2.1" in text
    assert "61.0 s" in text


def test_seconds_of_a_task_that_waits_ended_or_runs() -> None:
    assert seconds(None, None) == 0
    assert seconds("2026-01-01T00:00:00Z", "2026-01-01T00:01:00.5+00:00") == 60.5
    assert seconds("2026-01-01T00:00:00Z", None) > 60


def test_an_airflow_that_is_away_is_one_sentence() -> None:
    with pytest.raises(ServiceError, match="does not answer"):
        trigger(Settings(airflow=f"http://127.0.0.1:{free_port()}"), {})


@pytest.mark.parametrize("ours", [True, False])
def test_ctrl_c_stops_a_run_on_servers_that_stop_too_and_leaves_others_going(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ours: bool
) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    requests: list[Any] = []
    monkeypatch.setattr(Watch, "until_end", interrupted)
    monkeypatch.setattr("skumatch.servers.follow.trigger", lambda *_: "r+1")
    monkeypatch.setattr(Airflow, "patch", lambda _, path, body: requests.append((path, body)))
    with pytest.raises(KeyboardInterrupt):
        runs._retrain(Settings(project=ROOT), {}, ours)
    output = capsys.readouterr().out
    assert ("was stopped" in output) == ours and ("/dags/skumatch_retrain/runs/r%2B1" in output) == (not ours)
    assert requests == ([("/dags/skumatch_retrain/dagRuns/r%2B1", {"state": "failed"})] if ours else [])


def test_sigterm_leaves_no_server_behind_though_it_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` and a service manager send it to make and to all that make started."""
    ended: list[str] = []

    def down(_: Settings) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        ended.append("servers")

    monkeypatch.setattr(services, "up", lambda _: True)
    monkeypatch.setattr(services, "down", down)
    monkeypatch.setattr(runs, "prepare_data", lambda *_: None)
    monkeypatch.setattr(runs, "_retrain", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            runs.run()
        assert ended == ["servers"] and signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_refused_model_shows_its_summary_and_ends_with_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("skumatch.servers.follow.trigger", lambda *_: "r1")
    monkeypatch.setattr(
        "skumatch.servers.follow.follow", lambda *_, **__: SUMMARY | {"decision": "refuse", "version": None}
    )
    with pytest.raises(Refused) as refused:
        runs._retrain(Settings(project=ROOT), {})
    output = capsys.readouterr().out
    assert refused.value.exit_code == 40
    assert "Refused" in output and "+3.1 points" in output and "none registered" in output


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The servers, with the fake worker; afterwards no process of theirs is left."""
    home = tmp_path_factory.mktemp("home")
    python = home / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "fake_worker.py"} "$@"\n')
    python.chmod(0o755)
    project = make_project(home / "project")
    turn_off(project, "retrain: 0 3 * * 1", "retrain: none")
    turn_off(project, "refresh: 30 * * * *", "refresh: none")
    turn_off(project, "debounce_minutes: 5", "debounce_minutes: 0")
    settings = Settings(project=project, home=home, airflow_port=free_port(), mlflow_port=free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKUMATCH_PYTHON", str(python))
        services.up(settings)
    family = processes._family(recorded(home / "services.json"))
    assert len(family) > 4
    yield settings
    services.down(settings)
    assert not [
        process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert not [process for process in psutil.process_iter() if str(home) in " ".join(cmdline(process))]


def turn_off(project: Path, line: str, other: str) -> None:
    """Change params.yaml, so that no run starts by itself while these tests count tasks."""
    text = (project / "params.yaml").read_text("utf-8")
    assert text.count(line) == 1
    (project / "params.yaml").write_text(text.replace(line, other), "utf-8")


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def plan(settings: Settings, **behaviour: Any) -> Path:
    """Set the behaviour of the fake worker, and return the file that lists its tasks."""
    (settings.home_dir / "fake.json").write_text(json.dumps(behaviour))
    worked = settings.home_dir / "worked.txt"
    worked.unlink(missing_ok=True)
    return worked


def events(settings: Settings) -> int:
    with Airflow(settings) as airflow:
        return len(
            [
                event
                for event in airflow.get("/assets/events")["asset_events"]
                if event["name"] == "skumatch_champion"
            ]
        )


@pytest.mark.live
def test_a_run_goes_through_every_stage_and_ends_with_registers_summary(live: Settings) -> None:
    worked, before = plan(live), events(live)
    console = Console(file=io.StringIO(), width=100)
    assert services.up(live) is False  # all is up already
    summary = follow(live, trigger(live, {"overrides": ["train.epochs=3"]}), console)
    assert worked.read_text().split() == ["pull", *STAGES, "register"]
    assert list(summary["tasks"]) == ["pull", *STAGES, "register"]
    assert summary["challenger"]["top1"] == 0.91
    assert summary["seconds"] == dict.fromkeys(STAGES, 0.1)
    assert summary["wall"] >= sum(summary["tasks"].values()) > 0
    assert [line.split()[0] for line in console.file.getvalue().splitlines()] == ["pull", *STAGES, "register"]  # type: ignore[attr-defined]
    assert events(live) == before + 1
    assert "cached throughout" in printed(render_summary(summary))


@pytest.mark.live
def test_a_failing_stage_stops_the_run_in_its_own_words(live: Settings) -> None:
    worked, before = plan(live, train="error"), events(live)
    with pytest.raises(RunFailed, match=r"^train: The loss is no number; .*attempt=1\.log") as caught:
        follow(live, trigger(live, {}))
    assert caught.value.exit_code == 15
    assert worked.read_text().split() == ["pull", "validate", "split", "frozen", "train"]  # once: not retried
    log = str(caught.value).partition("its log: ")[2].rstrip(")")
    assert "working on train" in Path(log).read_text()
    assert "train: failed. The loss" in Path(log).read_text()
    assert events(live) == before


@pytest.mark.live
def test_a_crash_is_tried_again_and_the_run_goes_on(live: Settings) -> None:
    worked = plan(live, validate="crash")
    console = Console(file=io.StringIO(), width=100)
    summary = follow(live, trigger(live, {"dry_run": True}), console)
    assert worked.read_text().split() == ["pull", "validate", "validate", *STAGES[1:], "register"]
    assert "tries again" in console.file.getvalue()  # type: ignore[attr-defined]
    assert summary["dry_run"] is True


REFRESHED = ["pull", "validate", "split", "embed", "evaluate", "bundle", "gate", "report", "register"]


@pytest.mark.live
def test_a_refresh_is_a_run_of_fewer_tasks(live: Settings) -> None:
    worked, before = plan(live, decision="refresh"), events(live)
    summary = follow(live, trigger(live, {}, REFRESH), Console(file=io.StringIO(), width=100), dag=REFRESH)
    assert worked.read_text().split() == list(summary["tasks"]) == REFRESHED
    assert set(summary["seconds"]) == set(STAGES) and summary["dag"] == REFRESH
    assert "Gallery refreshed" in printed(render_summary(summary))
    assert f"/dags/{REFRESH}/runs/{summary['run']}" in links(summary, live)
    assert events(live) == before + 1, "the champion's gallery is another"


@pytest.mark.live
def test_a_new_data_version_starts_a_refresh_by_itself(live: Settings) -> None:
    worked = plan(live, embed="hang")
    (live.home_dir / "hang.json").unlink(missing_ok=True)
    assert (
        announce(live, ScheduleParams(debounce_minutes=0), "a" * 32) == "Airflow was told; a refresh starts."
    )
    with Airflow(live) as airflow:
        path = f"/dags/{REFRESH}/dagRuns"
        wait_until(lambda: airflow.get(path, state=["running"])["dag_runs"], 120)
        (row,) = airflow.get(path, state=["running"])["dag_runs"]
    assert row["run_type"] == "asset_triggered"
    wait_until(lambda: (live.home_dir / "hang.json").exists(), 120)
    assert active(live, {}, "a" * 32, REFRESH) is None, "the fake worker's pull names no data"
    cancel(live, row["dag_run_id"], REFRESH)
    with pytest.raises(RunFailed):
        follow(live, row["dag_run_id"], Console(file=io.StringIO()), dag=REFRESH)
    assert worked.read_text().split() == ["pull", "validate", "split", "embed"]
    (live.home_dir / "hang.json").unlink()


@pytest.mark.live
def test_a_run_that_waits_can_be_joined(live: Settings) -> None:
    plan(live, pull="hang")
    run = trigger(live, {"overrides": ["seed=3"]}, REFRESH)
    assert active(live, {"overrides": ["seed=3"]}, "a" * 32, REFRESH) == run
    assert active(live, {}, "a" * 32, REFRESH) is None
    wait_until(lambda: (live.home_dir / "hang.json").exists(), 120)
    assert active(live, {"overrides": ["seed=3"]}, "a" * 32, REFRESH) == run
    cancel(live, run, REFRESH)
    (live.home_dir / "hang.json").unlink()


@pytest.mark.live
def test_nothing_new_skips_the_whole_run(live: Settings) -> None:
    worked = plan(live, pull="skip")
    summary = follow(live, trigger(live, {}))
    assert (summary["skipped"], summary["reason"]) == (True, "The data is the last run's.")
    assert worked.read_text().split() == ["pull"]


@pytest.mark.live
@pytest.mark.parametrize("conf", [{"overrides": ["train.epochs 3"]}, {"dry_run": "perhaps"}, {"data_ref": 7}])
def test_a_param_of_another_form_is_refused_before_anything_runs(
    live: Settings, conf: dict[str, Any]
) -> None:
    with pytest.raises(ParameterError, match=next(iter(conf))):
        trigger(live, conf)


@pytest.mark.live
def test_the_web_pages_answer_and_the_gpu_pool_has_one_slot(live: Settings) -> None:
    assert httpx.get(live.mlflow_url, trust_env=False).is_success
    assert httpx.get(live.airflow_url, trust_env=False, follow_redirects=True).is_success
    with Airflow(live) as airflow:
        assert airflow.get("/pools/gpu")["slots"] == 1


@pytest.mark.live
def test_a_scheduler_that_dies_is_told_and_up_lets_the_run_go_on(live: Settings) -> None:
    worked, hung = plan(live, split="hang"), live.home_dir / "hang.json"
    run = trigger(live, {})
    wait_until(lambda: hung.exists() and hung.read_text(), 60)
    next(server for server in recorded(live.servers_file) if server.name == "scheduler").process().kill()  # type: ignore[union-attr]
    with pytest.raises(ServiceError, match=r"The scheduler ended during the run .*scheduler\.log"):
        follow(live, run)
    hung.unlink()
    plan(live)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKUMATCH_PYTHON", str(live.home_dir / "python"))
        assert services.up(live) is True
    assert follow(live, run)["decision"]
    assert worked.read_text().split() == ["split", *STAGES[2:], "register"]


@pytest.mark.live
def test_stopping_the_servers_stops_the_stage_that_runs_and_its_children(live: Settings) -> None:
    """The last of this file: the servers are down after it."""
    plan(live, split="hang")
    trigger(live, {})
    hung = live.home_dir / "hang.json"
    wait_until(lambda: hung.exists() and hung.read_text(), 60)
    family = [psutil.Process(pid) for pid in json.loads(hung.read_text())]
    services.down(live)
    assert not [
        process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    services.down(live)
