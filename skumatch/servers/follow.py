"""Trigger or join a run of a DAG, follow it to its end, and report how it ended."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import yaml
from rich.console import Console

from skumatch.config import Settings
from skumatch.errors import RunFailed, ServiceError, StageFailed
from skumatch.servers.airflow_api import (
    RETRAIN,
    Airflow,
    ServedLog,
    TaskLog,
    WrittenLog,
    crash,
    marked,
    patiently,
)
from skumatch.servers.summary import ProgressView, Task, view
from skumatch.started import ended

POLL_SECONDS = 0.7
# The defaults of a run's `conf`.
CONF: dict[str, Any] = {
    "data_ref": None,
    "overrides": [],
    "dry_run": False,
    "encoder": None,
}


def trigger(settings: Settings, conf: dict[str, Any], dag: str = RETRAIN) -> str:
    """Start a run and return its id.

    Args:
        settings: Address of Airflow.
        conf: `data_ref`, `overrides`, `dry_run`, and `encoder` for a refresh; missing keys have defaults.
        dag: Id of the DAG.

    Raises:
        ParameterError: Airflow refuses a value; the error repeats Airflow's reason.
        ServiceError: Airflow is away, its scheduler doesn't work, or the DAG is paused.
    """
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(2)}"
    with Airflow(settings) as airflow:
        _check_scheduler(airflow, settings)
        if airflow.get(f"/dags/{dag}")["is_paused"]:
            cure = f"unpause it at {settings.airflow_url}/dags/{dag}"
            raise ServiceError(f"The DAG {dag} is paused, so a run would wait for ever; {cure}.")
        answer = airflow.post(f"/dags/{dag}/dagRuns", {"dag_run_id": run, "logical_date": None, "conf": conf})
    return str(answer["dag_run_id"])


def _check_scheduler(airflow: Airflow, settings: Settings) -> None:
    """Check that Airflow's scheduler works, without which a run would stay queued for ever.

    Airflow itself calls a scheduler healthy for half a minute after it died, so the recorded one is looked
    at, too.

    Raises:
        ServiceError: The scheduler ended, or Airflow doesn't hear of it.
    """
    own = not settings.airflow
    silent = airflow.get("/monitor/health")["scheduler"]["status"] != "healthy"
    if silent or (own and "scheduler" in ended(settings.servers_file)):
        log = settings.home_dir / "logs/scheduler.log"
        cure = f"read its log {log}, then `skumatch up`" if own else "start it again where it runs"
        raise ServiceError(f"Airflow's scheduler doesn't work, so a run would wait for ever; {cure}.")


def active(settings: Settings, conf: dict[str, Any], data: str, dag: str) -> str | None:
    """Find a queued or running run with the same settings and data, which a new run would only repeat.

    Args:
        settings: Address of Airflow.
        conf: Settings of the wanted run, as for `trigger`.
        data: MD5 of the wanted data version. A run that has not read its data yet will take the newest.
        dag: Id of the DAG.

    Returns:
        The id of the earliest such run, or None.

    Raises:
        ServiceError: Airflow is away.
    """
    with Airflow(settings) as airflow:
        answer = airflow.get(
            f"/dags/{dag}/dagRuns", state=["running", "queued"], order_by="run_after", limit=100
        )
        for row in answer["dag_runs"]:
            same = CONF | (row["conf"] or {}) == CONF | conf
            if same and _data_of(airflow, dag, row["dag_run_id"]) in ("", data):
                return str(row["dag_run_id"])
    return None


def data_of(settings: Settings, run: str, dag: str) -> str:
    """Return the MD5 of the data version that a run's first task has fixed; empty before that.

    Args:
        settings: Address of Airflow.
        run: Id of the run.
        dag: Id of the DAG.

    Raises:
        ServiceError: Airflow is away.
    """
    with Airflow(settings) as airflow:
        return _data_of(airflow, dag, run)


def _data_of(airflow: Airflow, dag: str, run: str) -> str:
    path = f"/dags/{dag}/dagRuns/{quote(run, safe='')}/taskInstances/pull/xcomEntries"
    if not any(entry["key"] == "return_value" for entry in airflow.get(path)["xcom_entries"]):
        return ""
    return str(airflow.get(f"{path}/return_value", deserialize="true")["value"].get("data"))


def follow(
    settings: Settings, run: str, console: Console | None = None, dag: str = RETRAIN
) -> dict[str, Any]:
    """Follow a run to its end: a live table on a terminal, else one line for each task that ends.

    Args:
        settings: Address of Airflow and place of its logs.
        run: Id of the run.
        console: Receives the table or the lines; default: stdout.
        dag: Id of the DAG.

    Returns:
        The summary of the task register, or {"skipped": True, "reason"} where there was nothing to do. Both
        with "dag", "run", "tasks" (seconds of each task, by name), "wall" (seconds from trigger to end) and
        "waited" (the part of "wall" that the run waited for an earlier one).

    Raises:
        RunFailed: A task failed; with its own sentence and exit code.
        ServiceError: Airflow is away, or one of its servers ended.
    """
    console = console or Console()
    with Airflow(settings) as airflow:
        watch = Watch(airflow, settings, run, dag)
        with view(console, run) as show:
            state = watch.until_end(show)
        return watch.outcome(state)


def cancel(settings: Settings, run: str, dag: str = RETRAIN) -> None:
    """Mark the run as failed, which stops its task.

    Args:
        settings: Address of Airflow.
        run: Id of the run.
        dag: Id of the DAG.

    Raises:
        ServiceError: Airflow is away.
    """
    with Airflow(settings) as airflow:
        airflow.patch(f"/dags/{dag}/dagRuns/{quote(run, safe='')}", {"state": "failed"})


def run_url(settings: Settings, run: str, dag: str = RETRAIN) -> str:
    """Return the URL of the run's page in Airflow.

    Args:
        settings: Address of Airflow.
        run: Id of the run.
        dag: Id of the DAG.
    """
    return f"{settings.airflow_url}/dags/{dag}/runs/{quote(run, safe='')}"


class Watch:
    """State of one run while it is followed.

    Attributes:
        path: Path of the run in Airflow's REST API.
        place: Position of each task in the pipeline, by name.
        logs: Log of each try of a task, by name and attempt.
        tasks: The run's tasks as last polled.
        state: The run as last polled, in Airflow's form.
    """

    def __init__(self, airflow: Airflow, settings: Settings, run: str, dag: str = RETRAIN) -> None:
        self.airflow, self.settings, self.run, self.dag = airflow, settings, run, dag
        self.path = f"/dags/{dag}/dagRuns/{quote(run, safe='')}"
        stages = yaml.safe_load((settings.project / "dvc.yaml").read_text("utf-8"))["stages"]
        self.place = {name: place for place, name in enumerate(["pull", *stages, "register"])}
        self.logs: dict[tuple[str, int], TaskLog] = {}
        self.tasks: list[Task] = []
        self.state: dict[str, Any] = {}

    def until_end(self, show: ProgressView) -> str:
        """Poll and show the run until it has ended, and return its state: success or failed."""
        while True:
            self.state = patiently(lambda: self.airflow.get(self.path))
            self.tasks = self._tasks()
            show(self.tasks, self._progress(), self.state["state"])
            if self.state["state"] in ("success", "failed"):
                return str(self.state["state"])
            self._check_servers()
            time.sleep(POLL_SECONDS)

    def _check_servers(self) -> None:
        """Raise ServiceError if a server ended: without a scheduler the run would stay `running` for ever."""
        for name in ended(self.settings.servers_file):
            log = self.settings.home_dir / "logs" / f"{name}.log"
            raise ServiceError(
                f"The {name} ended during the run {self.run}; "
                f"read its log {log}, then `skumatch up` lets the run go on."
            )

    def _progress(self) -> dict[str, Any]:
        running = [task for task in self.tasks if task.state == "running"]
        return self._log(running[0]).progress() if running else {}

    def outcome(self, state: str) -> dict[str, Any]:
        """Return the summary of an ended run.

        Args:
            state: success or failed, as `until_end` returns it.

        Raises:
            RunFailed: The run failed.
        """
        by_name = {task.name: task for task in self.tasks}
        failed = [task for task in self.tasks if task.state == "failed"]
        if failed:
            raise self._failure(failed[0])
        if state == "failed":
            page = run_url(self.settings, self.run, self.dag)
            raise RunFailed(f"The run {self.run} failed outside its tasks; see {page}")
        times = {"tasks": {task.name: task.seconds for task in self.tasks if task.state == "success"}}
        queued, started, ended = (self.state[name] for name in ("queued_at", "start_date", "end_date"))
        facts = {
            "dag": self.dag,
            "run": self.run,
            "wall": seconds(queued, ended),
            "waited": seconds(queued, started),
            **times,
        }
        if by_name["pull"].state == "skipped":
            return {"skipped": True, "reason": self._last(by_name["pull"], "skip").get("reason", ""), **facts}
        entry = self.airflow.get(
            f"{self.path}/taskInstances/register/xcomEntries/return_value", deserialize="true"
        )["value"]
        return {**entry, **facts}

    def _tasks(self) -> list[Task]:
        rows = patiently(lambda: self.airflow.get(f"{self.path}/taskInstances", limit=100))["task_instances"]
        tasks = [
            Task(row["task_id"], row["state"] or "waiting", row["try_number"], took(row)) for row in rows
        ]
        return sorted(tasks, key=lambda task: self.place.get(task.name, len(self.place)))

    def _failure(self, task: Task) -> RunFailed:
        log = self._log(task)
        try:
            error, sentence = self._last(task, "error"), crash(log.all())
        except ServiceError as away:
            return RunFailed(
                f"{task.name} failed, and its log can't be read ({away}); see {log.place}",
                StageFailed.exit_code,
            )
        return RunFailed(
            f"{task.name}: {error.get('sentence', sentence)} (its log: {log.place})",
            error.get("exit_code", StageFailed.exit_code),
        )

    def _last(self, task: Task, kind: str) -> dict[str, Any]:
        lines = marked(self._log(task).all(), kind)
        return lines[-1] if lines else {}

    def _log(self, task: Task) -> TaskLog:
        key = (task.name, task.attempt)
        if key not in self.logs:
            self.logs[key] = self._served(task) if self.settings.airflow else self._written(task)
        return self.logs[key]

    def _served(self, task: Task) -> ServedLog:
        page = f"{run_url(self.settings, self.run, self.dag)}/tasks/{task.name}"
        return ServedLog(
            lambda: self.airflow.get(f"{self.path}/taskInstances/{task.name}/logs/{task.attempt}")["content"],
            page,
        )

    def _written(self, task: Task) -> WrittenLog:
        logs = self.settings.home_dir / "airflow" / "logs" / f"dag_id={self.dag}"
        return WrittenLog(
            logs / f"run_id={self.run}" / f"task_id={task.name}" / f"attempt={task.attempt}.log"
        )


def took(row: dict[str, Any]) -> float:
    """Return the seconds that a task of Airflow took, or has taken so far."""
    return seconds(row["start_date"], row["end_date"])


def seconds(start: str | None, end: str | None) -> float:
    """Return the seconds from `start` to `end` (ISO 8601), or to now; 0 if there is no start."""
    if start is None:
        return 0.0
    until = datetime.fromisoformat(end) if end else datetime.now(UTC)
    return round((until - datetime.fromisoformat(start)).total_seconds(), 2)
