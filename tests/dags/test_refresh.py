"""The second DAG of the pipeline: its tasks, its triggers, and the wait for further imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pendulum
import pytest
import yaml

from skumatch.params import STAGES
from skumatch.pipeline.releases import unused_in_refresh
from tests.conftest import ROOT
from tests.dags.conftest import DAGS, plan
from tests.dags.test_retrain import chain

TASKS = ["pull", "validate", "split", "embed", "evaluate", "bundle", "gate", "report", "register"]
PARAMS = {"data_ref": None, "overrides": [], "dry_run": False}


@pytest.fixture(scope="module")
def retrain() -> ModuleType:
    import retrain

    return retrain


def test_a_refresh_does_every_stage_in_fewer_tasks(retrain: ModuleType) -> None:
    dag = retrain.make_refresh_dag()
    assert chain(dag) == TASKS
    words = [dag.get_task(name).words for name in TASKS]
    assert words[3] == ["stage", "frozen", "train", "embed"]
    assert [stage for task in words if task[0] == "stage" for stage in task[1:]] == list(STAGES)


def test_a_refresh_does_a_new_stage_too(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(
        "stages: {a: {cmd: a}, train: {cmd: b}, c: {cmd: c}, frozen: {cmd: d}, e: {cmd: e}}"
    )
    (tmp_path / "params.yaml").write_text("")
    code = (
        "import retrain, json; "
        "print(json.dumps([t.words for t in retrain.make_refresh_dag().topological_sort()]))"
    )
    env = os.environ | {"SKUMATCH_PROJECT": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=DAGS, env=env, capture_output=True, check=True
    ).stdout
    assert json.loads(out.splitlines()[-1]) == [
        ["pull"],
        ["stage", "a"],
        ["stage", "train", "c"],
        ["stage", "frozen", "e"],
        ["register"],
    ]


def test_a_refresh_is_retried_and_queued_as_a_retrain_is(retrain: ModuleType) -> None:
    dag, other = retrain.make_refresh_dag(), retrain.make_dag()
    assert (dag.max_active_runs, dag.catchup, dag.is_paused_upon_creation) == (
        1,
        False,
        other.is_paused_upon_creation,
    )
    for task in dag.tasks:
        same = other.get_task(task.task_id)
        names = ("queue", "pool", "execution_timeout", "retries", "on_failure_callback", "outlets", "limit")
        assert {name: str(getattr(task, name)) for name in names if name != "on_failure_callback"} == {
            name: str(getattr(same, name)) for name in names if name != "on_failure_callback"
        }
        assert task.on_failure_callback and task.limit == f"runtime.timeout_hours.{task.task_id}"
    assert set(dag.params) == {*PARAMS, "encoder"} and set(other.params) == set(PARAMS)


def test_airflows_form_refuses_what_a_refresh_would_not_heed(retrain: ModuleType) -> None:
    """It refuses the parameters that `skumatch refresh` refuses; a retrain accepts all of them."""
    from airflow.sdk.exceptions import AirflowException

    assert set(retrain.unused()) == unused_in_refresh(ROOT)
    form = retrain.make_refresh_dag().params.get_param("overrides")
    heeded = ["seed=1", "gate.margin=0.1", "runtime.threads=1", "embed.batch=3"]
    assert form.resolve(heeded) == heeded
    for override in ("train.epochs=3", "train={epochs: 3}", "encoder.height=64", "seed", "=3"):
        with pytest.raises((ValueError, AirflowException), match=r"(?i)param|valid"):
            form.resolve([override])
    assert retrain.PARAMS["overrides"].resolve(["train.epochs=3"]) == ["train.epochs=3"]


@pytest.mark.parametrize(
    ("refresh", "on_new_data", "cron", "by_event"),
    [
        ("30 * * * *", True, "30 * * * *", True),
        ("30 * * * *", False, "30 * * * *", False),
        ("none", True, None, True),
        ("none", False, None, False),
        ("@quarterly", False, "0 0 1 */3 *", False),
    ],
)
def test_each_start_is_turned_off_by_one_line(
    retrain: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    refresh: str,
    on_new_data: bool,
    cron: str | None,
    by_event: bool,
) -> None:
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.assets import AssetOrTimeSchedule

    monkeypatch.setattr(
        retrain,
        "SCHEDULE",
        {"refresh": refresh, "on_new_data": on_new_data, "retrain": "none", "debounce_minutes": 5},
    )
    timetable = DagSerialization.deserialize_dag(
        DagSerialization.serialize_dag(retrain.make_refresh_dag())
    ).timetable
    by_time = timetable.timetable if isinstance(timetable, AssetOrTimeSchedule) else None
    assert getattr(by_time, "_expression", None) == cron
    condition = timetable.asset_condition
    names = [asset.name for _, asset in condition.iter_assets()]
    assert sorted(names) == ["skumatch_data"] * by_event + ["skumatch_trained"], (
        "a trained encoder is always judged again"
    )
    assert not DagSerialization.deserialize_dag(
        DagSerialization.serialize_dag(retrain.make_dag())
    ).timetable.can_be_scheduled


def test_a_refresh_is_looked_for_every_hour(retrain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import TimeRestriction

    timetable = DagSerialization.deserialize_dag(
        DagSerialization.serialize_dag(retrain.make_refresh_dag())
    ).timetable
    monkeypatch.setattr("airflow.timetables.trigger.utcnow", lambda: pendulum.parse("2026-11-23T03:30:01"))
    info = timetable.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(None, None, catchup=False)
    )
    assert info is not None and info.run_after == pendulum.parse("2026-11-23T04:30")


def asking(run_type: str, encoder: int | None = None, events: Any = None, **more: Any) -> Any:
    """A context of Airflow's; `events` are those that started the run, by asset."""
    run, params = (
        SimpleNamespace(run_id="r1", run_type=run_type),
        PARAMS | {"overrides": ["seed=3"], "encoder": encoder},
    )
    return {"dag_run": run, "params": params, "triggering_asset_events": events or {}, **more}


@pytest.mark.parametrize(
    ("run_type", "scheduled"), [("scheduled", True), ("asset_triggered", True), ("manual", False)]
)
def test_the_first_task_is_told_the_kind_and_who_started_it(
    retrain: ModuleType, monkeypatch: pytest.MonkeyPatch, run_type: str, scheduled: bool
) -> None:
    import new_data

    monkeypatch.setattr(new_data, "wait_for_pause", lambda _: None)
    wanted = PARAMS | {"overrides": ["seed=3"], "run": "r1", "scheduled": scheduled}
    for dag, kind in ((retrain.make_dag(), "retrain"), (retrain.make_refresh_dag(), "refresh")):
        assert dag.get_task("pull").message(asking(run_type)) == wanted | {"kind": kind}


def test_what_the_first_task_is_told_is_what_pull_reads() -> None:
    from new_data import request

    from skumatch.pipeline.pull import RunRequest

    read = RunRequest.model_validate(request(asking("asset_triggered"), kind="refresh"))
    assert (read.kind, read.scheduled, read.overrides) == ("refresh", True, ("seed=3",))


def trained(version: int, second: int) -> Any:
    moment = datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)
    return SimpleNamespace(timestamp=moment, extra={"version": version})


def test_a_run_that_judges_an_encoder_again_waits_for_no_imports(slept: list[float]) -> None:
    """Which encoder that is stands in MLflow: not every event reaches a run."""
    import new_data

    from skumatch.pipeline.pull import RunRequest

    events = {new_data.TRAINED: [trained(3, 1), trained(5, 9)], new_data.DATA: [trained(9, 30)]}
    read = RunRequest.model_validate(new_data.refresh_request(asking("asset_triggered", events=events)))
    assert (read.encoder, read.scheduled, slept) == (None, True, [])


def test_the_first_task_tells_of_further_encoders(retrain: ModuleType) -> None:
    assert retrain.make_refresh_dag().get_task("pull").events


def test_an_encoder_is_judged_again_by_hand(slept: list[float]) -> None:
    import new_data

    request = new_data.refresh_request(asking("manual", encoder=4))
    assert (request["encoder"], request["scheduled"]) == (4, False)


class Events:
    """Stand-in for Airflow's accessor to an asset's events; it answers with the newest event's age in s."""

    def __init__(self, *ages: float) -> None:
        self.ages, self.order = list(ages), list[Any]()

    def __getitem__(self, asset: Any) -> Any:
        assert asset.name == "skumatch_data"
        return self

    def ascending(self, order: bool) -> Any:
        assert order is False
        return self

    def limit(self, count: int) -> Any:
        assert count == 1
        age = self.ages.pop(0)
        return [SimpleNamespace(timestamp=datetime.now(UTC) - timedelta(seconds=age))] if age >= 0 else []


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a task slept each time, by a clock that stands still otherwise."""
    import new_data

    naps: list[float] = []
    monkeypatch.setattr(new_data.time, "sleep", naps.append)
    monkeypatch.setattr(new_data.time, "monotonic", lambda: sum(naps))
    return naps


def test_a_run_that_an_event_started_waits_for_further_imports(slept: list[float]) -> None:
    """Five minutes after the last of several imports it begins, whichever import started it."""
    from new_data import refresh_request

    events = Events(1, 280, 2, 298, 301)
    assert refresh_request(asking("asset_triggered", inlet_events=events))["kind"] == "refresh"
    assert [round(nap) for nap in slept] == [5, 5, 5, 2] and not events.ages


@pytest.mark.parametrize("run_type", ["manual", "scheduled"])
def test_a_run_that_no_event_started_waits_for_nothing(slept: list[float], run_type: str) -> None:
    from new_data import refresh_request

    refresh_request(asking(run_type, inlet_events=Events()))
    assert slept == []


def test_an_event_that_is_gone_is_not_waited_for(slept: list[float]) -> None:
    from new_data import refresh_request

    refresh_request(asking("asset_triggered", inlet_events=Events(-1)))
    assert slept == []


def test_imports_without_an_end_are_waited_for_an_hour(slept: list[float]) -> None:
    from new_data import refresh_request

    refresh_request(asking("asset_triggered", inlet_events=Events(*[1] * 2000)))
    assert sum(slept) == 3600


def test_without_a_debounce_a_refresh_begins_at_once(
    slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    import new_data

    monkeypatch.setitem(new_data.SCHEDULE, "debounce_minutes", 0)
    new_data.refresh_request(asking("asset_triggered", inlet_events=Events(1)))
    assert slept == []


def test_a_task_of_several_stages_hands_all_their_seconds_on(stage: ModuleType, tmp_path: Path) -> None:
    plan(tmp_path)
    words = ["stage", "frozen", "train", "embed"]
    result = stage.StageOperator(task_id="embed", words=words)._run({"run": "r1", "seconds": {"split": 1.0}})
    assert result["seconds"] == {"split": 1.0, "frozen": 0.1, "train": 0.1, "embed": 0.1}


def test_the_stages_that_nothing_is_trained_in_are_of_the_pipeline(retrain: ModuleType) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(retrain.UNTRAINED) < set(stages) and list(stages)[-1] not in retrain.UNTRAINED
