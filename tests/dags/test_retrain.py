"""The DAG mirrors dvc.yaml, stays light, and a stage's subprocess ends as Airflow must know it."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pendulum
import psutil
import pytest
import yaml

from skumatch.params import STAGES
from tests.conftest import ROOT
from tests.dags.conftest import DAGS, hanging, hanging_still, plan

HEAVY = ("torch", "mlflow", "dvc", "great_expectations", "skumatch", "pandas", "numpy")


def run(stage: ModuleType, *words: str, **message: Any) -> dict[str, Any]:
    operator = stage.StageOperator(task_id=words[-1], words=words)
    return dict(operator._run(message))


def chain(dag: Any) -> list[str]:
    (name,) = (task.task_id for task in dag.tasks if not task.upstream_task_ids)
    names = [name]
    while following := dag.get_task(names[-1]).downstream_task_ids:
        (name,) = following
        names.append(name)
    return names


def test_tasks_are_the_stages_of_dvc_yaml_in_one_line() -> None:
    import retrain

    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    dag = retrain.make_dag()
    assert chain(dag) == ["pull", *stages, "register"]
    assert len(dag.tasks) == len(stages) + 2
    for name, fields in stages.items():
        assert fields["cmd"].split()[-2:] == dag.get_task(name).words == ["stage", name]


@pytest.mark.parametrize(
    ("now", "first"),
    [("2026-11-23T03:00:01", "2026-11-30"), ("2026-11-23T19:00", "2026-11-30"), ("2026-11-25", "2026-11-30")],
)
def test_a_new_installation_waits_for_the_next_monday(
    monkeypatch: pytest.MonkeyPatch, now: str, first: str
) -> None:
    import retrain
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import TimeRestriction

    timetable = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(retrain.make_dag())).timetable
    monkeypatch.setattr("airflow.timetables.trigger.utcnow", lambda: pendulum.parse(now))
    info = timetable.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(None, None, catchup=False)
    )
    assert info is not None
    assert info.run_after == pendulum.parse(f"{first}T03:00")


def test_a_new_stage_becomes_a_task_in_its_place(tmp_path: Path) -> None:
    tasks = read_by_airflow(tmp_path, stages="{first: {cmd: a}, train: {cmd: b}, last: {cmd: c}}")
    assert [task[0] for task in tasks] == ["pull", "first", "train", "last", "register"]


def read_by_airflow(
    project: Path, stages: str = "{split: {cmd: a}, train: {cmd: b}}", runtime: str = "{}"
) -> list[list[str]]:
    """Name, queue and pool of each task of a project with these stages and this `runtime`, in order."""
    (project / "dvc.yaml").write_text(f"stages: {stages}")
    (project / "params.yaml").write_text(f"runtime: {runtime}")
    code = (
        "import retrain, json; "
        "print(json.dumps([[t.task_id, t.queue, t.pool] for t in retrain.make_dag().topological_sort()]))"
    )
    env = os.environ | {"SKUMATCH_PROJECT": str(project)}
    out = subprocess.run([sys.executable, "-c", code], cwd=DAGS, env=env, capture_output=True, check=True)
    tree: list[list[str]] = json.loads(out.stdout.splitlines()[-1])
    return tree


def test_tasks_work_in_the_queues_of_params_yaml() -> None:
    import retrain

    queues = {task.task_id: task.queue for task in retrain.make_dag().tasks}
    queue_params = yaml.safe_load((ROOT / "params.yaml").read_text())["runtime"]["queues"]
    assert queues == dict.fromkeys(["pull", *STAGES, "register"], "default") | queue_params


def test_a_stage_waits_for_the_gpu_where_its_queue_is_that_of_the_gpu(tmp_path: Path) -> None:
    tasks = read_by_airflow(tmp_path, runtime="{queues: {train: a100, split: gpu}}")
    assert tasks[1:3] == [["split", "gpu", "gpu"], ["train", "a100", "default_pool"]]
    assert read_by_airflow(tmp_path)[1:3] == [["split", "default", "default_pool"], ["train", "gpu", "gpu"]]


def test_the_executor_of_one_machine_takes_tasks_of_any_queue() -> None:
    from airflow.executors import base_executor, local_executor

    for module in (base_executor, local_executor):  # such as CeleryExecutor hands `ti.queue` on
        assert not re.search(r"\.queue\b", inspect.getsource(module))


def test_only_training_and_embedding_wait_for_the_gpu_and_nothing_runs_for_ever() -> None:
    import retrain

    dag = retrain.make_dag()
    assert {task.task_id for task in dag.tasks if task.pool == "gpu"} == {"frozen", "train", "embed"}
    hours = {task.task_id: task.execution_timeout.total_seconds() / 3600 for task in dag.tasks}
    assert hours == dict.fromkeys(["pull", *STAGES, "register"], 2) | {"frozen": 12, "train": 24, "embed": 12}
    assert all(task.retries == 2 for task in dag.tasks)
    assert (dag.max_active_runs, dag.catchup) == (1, False)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.epochs 3"],
        ["=3"],
        ["seed="],
        ["seed= "],
        ["seed =3"],
        ["Seed=3"],
        ["seed=1\nseed=2"],
        "train.epochs=3",
        [3],
    ],
)
def test_overrides_of_another_form_are_refused(overrides: Any) -> None:
    import retrain
    from airflow.sdk.exceptions import AirflowException

    with pytest.raises((ValueError, AirflowException), match=r"(?i)param|valid"):
        retrain.PARAMS["overrides"].resolve(overrides)
    assert retrain.PARAMS["overrides"].resolve(["train.epochs=3", "seed=1"]) == ["train.epochs=3", "seed=1"]


@pytest.mark.parametrize("name", ["retrain", "release"])
def test_parsing_the_dag_imports_nothing_heavy(name: str) -> None:
    code = (
        "import sys, airflow.sdk; before = set(sys.modules); "
        f"import {name}; print(*(set(sys.modules) - before))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=DAGS, capture_output=True, text=True, check=True)
    tops = {name.partition(".")[0] for name in out.stdout.split()}
    assert name in tops
    assert not tops & set(HEAVY)


def test_a_result_is_the_message_and_stays_out_of_the_log(
    stage: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    message = run(stage, "stage", "split", run="r1", seconds={"validate": 1.0})
    assert message["run"] == "r1"
    assert message["seconds"] == {"validate": 1.0, "split": 0.1}
    log = capfd.readouterr().out
    assert "working on split – 50 %" in log
    assert "skumatch-progress" in log
    assert message["lock"] not in log


@pytest.mark.parametrize(
    ("behaviour", "error", "words"),
    [
        ("error", "AirflowFailException", "lower train.optimizer.lr_tower"),
        ("away", "AirflowException", "The remote is away"),
        ("crash", "AirflowException", "signal SIGKILL and no result"),
        ("skip", "AirflowSkipException", "The data is the last run's"),
    ],
)
def test_each_end_is_told_to_airflow_in_its_own_way(
    stage: ModuleType, tmp_path: Path, behaviour: str, error: str, words: str
) -> None:
    plan(tmp_path, train=behaviour)
    with pytest.raises(Exception, match=words) as caught:
        run(stage, "stage", "train", run="r1")
    assert type(caught.value).__name__ == error


def test_a_stages_lines_are_whole_whatever_the_terminal_is(
    stage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(tmp_path)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    run(stage, "stage", "train", run="r1")
    assert "working on train – 50 %" in capsys.readouterr().out


def test_a_green_exit_without_a_result_is_no_success(stage: ModuleType) -> None:
    with pytest.raises(stage.AirflowException, match="exit code 0 and no result"):
        stage.judge("", {}, 0)
    with pytest.raises(stage.AirflowException, match="exit code 1"):
        stage.judge("skumatch-result", {"run": "r1"}, 1)


def test_killing_a_task_ends_the_stage_and_its_children(stage: ModuleType, tmp_path: Path) -> None:
    plan(tmp_path, train="hang")
    operator = stage.StageOperator(task_id="train", words=["stage", "train"])
    with stage.start(operator.words) as operator._process:
        operator._process.stdin.write("{}")
        operator._process.stdin.close()
        family = hanging(tmp_path)
        operator.on_kill()
    assert not psutil.wait_procs(family, timeout=60)[1]


def test_a_limit_that_strikes_names_its_parameter(
    stage: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Airflow's own words are `Timeout, PID: 8613`.

    The task is tried again, as after a crash, so not for ever.
    """
    from airflow.sdk.execution_time.timeout import timeout

    plan(tmp_path, embed="hang")
    words = {"limit": "runtime.timeout_hours.embed", "execution_timeout": timedelta(hours=12)}
    operator = stage.StageOperator(task_id="embed", words=["stage", "embed"], after="split", **words)
    with timeout(5), pytest.raises(stage.AirflowException) as caught:
        operator.execute(context("embed", {"run": "r1"}))
    assert type(caught.value) is stage.AirflowException, "which is retried"
    assert not psutil.wait_procs(hanging_still(tmp_path), timeout=60)[1]
    sentence = str(caught.value)
    assert sentence.startswith(
        "embed was stopped at its limit of 12 hours; raise runtime.timeout_hours.embed in params.yaml. "
    )
    assert "are kept, and the next try goes on from them." in sentence
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("skumatch-error ")]
    assert json.loads(line.partition(" ")[2]) == {
        "sentence": sentence,
        "exit_code": 32,
        "kind": "StageFailed",
        "retry": True,
    }


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_stage_does_not_outlive_a_task_that_was_killed(stage: ModuleType, tmp_path: Path) -> None:
    plan(tmp_path, train="hang")
    code = "import stage_process as s; s.finish(s.start(['stage', 'train']), {})"
    env = os.environ | {"SKUMATCH_PROJECT": str(tmp_path)}
    task = subprocess.Popen([sys.executable, "-c", code], cwd=DAGS, env=env, stdout=subprocess.DEVNULL)
    worker, child = hanging(tmp_path)
    task.send_signal(signal.SIGKILL)
    task.wait()
    ended, _ = psutil.wait_procs([worker], timeout=60)
    child.kill()  # the real worker takes its own children along
    assert ended


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages that the hook got."""
    (tmp_path / "chat.py").write_text("told = []\n\ndef post(facts):\n    told.append(facts)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SKUMATCH_NOTIFY", "chat:post")
    monkeypatch.delitem(sys.modules, "chat", raising=False)
    import chat  # type: ignore[import-not-found]

    messages: list[Any] = chat.told
    return messages


def context(name: str, result: Any = None, **more: Any) -> Any:
    ti = SimpleNamespace(dag_id="d", run_id="r1", task_id=name, xcom_pull=lambda task_ids: result)
    return {"ti": ti, **more}


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_hook_is_none(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    """No module of that name is imported, which would raise."""
    from events import Notice

    monkeypatch.setenv("SKUMATCH_NOTIFY", blank)
    Notice("failed").notify(context("train", exception=RuntimeError("It broke.")))


def test_a_failure_is_logged_and_handed_to_the_hook(
    told: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    from events import Notice

    Notice("failed").notify(context("train", exception=RuntimeError("It broke.")))
    assert told == [{"event": "failed", "dag": "d", "run": "r1", "stage": "train", "sentence": "It broke."}]
    assert "Run r1, train: failed. It broke." in caplog.text


@pytest.mark.parametrize("dag", ["skumatch_retrain", "skumatch_refresh"])
def test_a_run_that_failed_is_told_to_have_changed_nothing(told: list[Any], dag: str) -> None:
    from events import Notice

    failed = context("validate", exception=RuntimeError("The data was refused."))
    failed["ti"].dag_id = dag
    Notice("failed").notify(failed)
    assert told[0]["sentence"] == "The data was refused. What serves stays."


@pytest.mark.parametrize(
    ("result", "event"),
    [
        ({"decision": "first"}, "promoted"),
        ({"decision": "promote", "waits": False}, "promoted"),
        ({"decision": "promote", "waits": True}, None),
        ({"decision": "promote", "dry_run": True}, None),
        ({"decision": "refuse"}, "refused"),
        ({"decision": "keep"}, None),
        ({"decision": "rollback", "version": 3}, "rolled back"),
        ({"decision": "refresh", "version": 4}, "refreshed"),
        ({"decision": "refresh", "waits": True}, None),
        ({"decision": "refresh", "dry_run": True}, None),
        ({"decision": "keep", "unfit": True}, "unfit"),
        ({"decision": "keep", "unfit": True, "dry_run": True}, None),
        ({"decision": "keep", "unfit": False}, None),
        ({"decision": "promote", "unfit": True}, "promoted"),
    ],
)
def test_people_are_told_of_what_changed_or_was_refused(
    told: list[Any], result: dict[str, Any], event: str | None
) -> None:
    from events import Notice

    Notice("ended").notify(context("register", result | {"sentence": "So it is."}))
    assert [facts["event"] for facts in told] == ([event] if event else [])
    Notice("approval").notify(
        context("approve", task=SimpleNamespace(subject="Make version 3 the champion?"))
    )
    assert told[-1]["event"] == "approval" and "version 3" in told[-1]["sentence"]


@pytest.mark.parametrize(
    ("result", "asset"),
    [
        ({"decision": "first"}, "skumatch_champion"),
        ({"decision": "promote", "dry_run": True}, None),
        ({"decision": "promote", "waits": True, "version": 4}, "skumatch_challenger"),
        ({"decision": "rollback", "version": 2}, "skumatch_champion"),
        ({"decision": "refresh", "version": 5}, "skumatch_champion"),
        ({"decision": "refresh", "waits": True, "version": 6}, "skumatch_challenger"),
        ({"decision": "refresh", "dry_run": True}, None),
        ({"decision": "keep", "unfit": True}, None),
        ({"decision": "keep"}, None),
        ({"decision": "refuse"}, None),
        ({"version": 4, "others_wait_for": "approval"}, "skumatch_challenger"),
        ({"encoder": 4, "others_wait_for": "judgement"}, "skumatch_trained"),
        ({"encoder": 4, "others_wait_for": ""}, None),
    ],
)
def test_other_dags_are_told_when_the_champion_changed_or_a_challenger_waits(
    result: dict[str, Any], asset: str | None
) -> None:
    from events import AGAIN, CHANGED, PASSED, tell

    class Events(dict[Any, Any]):
        def add(self, asset: Any, extra: Any) -> None:
            self[asset.name] = extra

    events = {CHANGED: Events(), PASSED: Events(), AGAIN: Events()}
    tell(context("register", outlet_events=events), result)
    assert [name for named in events.values() for name in named] == ([asset] if asset else [])


def test_an_encoder_that_is_to_be_judged_again_is_told_with_who_approved_it() -> None:
    from events import AGAIN, CHANGED, PASSED, tell

    messages: list[Any] = []
    alias = SimpleNamespace(add=lambda asset, extra: messages.append((asset.name, extra)))
    result = {"decision": "promote", "version": 5, "judge_again": 5, "approved_by": "ann"}
    tell(context("register", outlet_events={AGAIN: alias, CHANGED: None, PASSED: None}), result)
    assert messages == [("skumatch_trained", {"version": 5, "approved_by": "ann"})]


def test_a_task_with_events_tells_them(
    stage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(stage, "tell", lambda context, result: heard.append(result))
    message = {"run": "r1", "seconds": {}, "cached": [], "dry_run": False}
    for events in (True, False):
        stage.StageOperator(task_id="register", words=["register"], after="report", events=events).execute(
            context("register", message)
        )
    assert [result["decision"] for result in heard] == ["first"]


def test_who_approved_and_what_was_asked_reach_the_promotion() -> None:
    import release

    proposal = {"version": 3, "expected": 2}
    answer = {
        "responded_by_user": {"id": "7", "name": "ann"},
        "params_input": {"why": "fine"},
        "chosen_options": ["Approve"],
    }
    ti = SimpleNamespace(xcom_pull=lambda task_ids: {"propose": proposal, "approve": answer}[task_ids])
    assert release.answered({"ti": ti}) == {"proposal": proposal, "who": "ann", "why": "fine"}  # type: ignore[typeddict-item]
    answer["responded_by_user"] = None  # type: ignore[assignment]
    assert release.answered({"ti": ti})["who"] == "", "the worker refuses an approval without a name"  # type: ignore[typeddict-item]


@pytest.mark.parametrize(("run_type", "run"), [("asset_triggered", "r1"), ("manual", "")])
def test_a_run_that_an_event_started_takes_up_what_waits(run_type: str, run: str) -> None:
    """It also reports further versions, which a run by hand for one version does not."""
    import release

    from skumatch.pipeline.releases import Question

    for version in (None, 2):
        dag_run = SimpleNamespace(run_id="r1", run_type=run_type)
        started: Any = {"dag_run": dag_run, "params": {"version": version}}
        assert Question.model_validate(release.question(started)) == Question(version=version, run=run)
    assert release.propose.events


def test_the_audit_is_asked_for_every_day_from_the_next_morning_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import audit
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import TimeRestriction

    dag = audit.dag
    timetable = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).timetable
    monkeypatch.setattr("airflow.timetables.trigger.utcnow", lambda: pendulum.parse("2026-11-25T05:00:01"))
    info = timetable.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(None, None, catchup=False)
    )
    assert info is not None and info.run_after == pendulum.parse("2026-11-26T05:00")
    (task,) = dag.tasks
    message = task.message({"dag_run": SimpleNamespace(run_id="r"), "params": {"pictures": False}})
    assert message == {"run": "r", "pictures": False} and task.words == ["audit"] and task.execution_timeout


def test_every_form_can_be_sent_as_it_opens() -> None:
    """Airflow's page keeps the button grey, without a word, while a text that may not be null is empty."""
    import audit
    import release
    import retrain

    dags = [
        retrain.make_dag(),
        retrain.make_refresh_dag(),
        audit.dag,
        release.propose.dag,
        release.rollback.dag,
    ]
    for params in [*(dag.params for dag in dags), release.approve.params]:
        for name, param in params.items():
            may_be_null = "null" in params.get_param(name).schema["type"]
            assert param != "" and (param is not None or may_be_null), name


@pytest.mark.parametrize(("given", "recorded"), [(None, "by hand"), ("it sees nothing", "it sees nothing")])
def test_a_rollback_without_a_reason_is_by_hand(given: str | None, recorded: str) -> None:
    import release

    run = SimpleNamespace(triggering_user_name="ann")
    message = release.asked({"params": {"version": 2, "why": given}, "dag_run": run})  # type: ignore[typeddict-item]
    assert message == {"version": 2, "why": recorded, "who": "ann"}
