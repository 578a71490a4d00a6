"""One Airflow task = one process of the project's Python.

It works, Airflow schedules, retries and stops it.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)
from container import name_of
from events import AGAIN, CHANGED, PASSED, tell
from launch import start, stop
from recipe import GPU, RUNTIME

log = logging.getLogger(__name__)
SKIP_EXIT = 99
STAGE_FAILED = {"kind": "StageFailed", "exit_code": 32, "retry": True}  # as in skumatch/errors.py
BY_ITSELF = ("scheduled", "asset_triggered")  # how Airflow calls runs that nobody started by hand
Message = Callable[[Context], Any]


class StageOperator(BaseOperator):
    """Run `python -m skumatch worker WORDS` and return the JSON of its `skumatch-result` line.

    `message` makes its input; without one it is the message of the task `after`, and without that the run's
    id and params. With `events` other DAGs are told what the result means. Log lines reach the task log as
    they come. Raises AirflowFailException (never retried) for an error that says so, AirflowException
    (retried) for one that may pass, a crash, or a time-out, whose sentence names the parameter `limit`;
    AirflowSkipException where there is nothing to do. Killing the task kills all the stage started. With
    `runtime.execution: docker` it runs in a container.
    """

    def __init__(
        self,
        *,
        words: Sequence[str],
        after: str | None = None,
        message: Message | None = None,
        events: bool = False,
        limit: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(outlets=[CHANGED, PASSED, AGAIN] if events else [], **kwargs)
        self.words, self.after, self.message, self.events, self.limit = (
            list(words),
            after,
            message,
            events,
            limit,
        )
        self._process: subprocess.Popen[str] | None = None
        self._container: str | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        self._container = name_of(context["ti"]) if RUNTIME["execution"] == "docker" else None
        try:
            result = self._run(self._message(context))
        except AirflowTaskTimeout:
            raise AirflowException(self._timed_out()) from None
        if self.events:
            tell(context, result)
        return result

    def _message(self, context: Context) -> Any:
        if self.message:
            return self.message(context)
        return context["ti"].xcom_pull(task_ids=self.after) if self.after else request(context)

    def _timed_out(self) -> str:
        """Tell `skumatch retrain` and the log why the stage was stopped, and return the sentence."""
        assert self.execution_timeout
        hours = f"{self.execution_timeout.total_seconds() / 3600:g}"
        cure = f"raise {self.limit} in params.yaml" if self.limit else "see in its log what it waited for"
        sentence = (
            f"{self.task_id} was stopped at its limit of {hours} hours; {cure}. "
            "Finished stages and checkpoints are kept, and the next try goes on from them."
        )
        print(f"skumatch-error {json.dumps(STAGE_FAILED | {'sentence': sentence})}", flush=True)
        return sentence

    def on_kill(self) -> None:
        """Stop the stage and whatever it started; called by Airflow on SIGTERM and on a timeout."""
        if self._process:
            stop(self._process, self._container)

    def _run(self, message: Any) -> dict[str, Any]:
        with start(self.words, self._container, gpu=self.queue == GPU) as self._process:
            try:
                return finish(self._process, message)
            finally:
                stop(self._process, self._container)


def request(context: Context, kind: str = "retrain") -> dict[str, Any]:
    """What the first task is asked: this run's kind, id and params, and whether a schedule or an event started it."""
    run, params = context["dag_run"], context["params"]
    wanted = {key: params[key] for key in ("data_ref", "overrides", "dry_run")}
    return {"kind": kind, "run": run.run_id, "scheduled": run.run_type in BY_ITSELF, **wanted}


def finish(process: subprocess.Popen[str], message: Any) -> dict[str, Any]:
    """Send the message, pass each line on to the task log, return the result or raise what the last marker line says."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(message))
        process.stdin.close()
    except BrokenPipeError:
        log.warning("The stage ended before it read its input.")
    kind, fields = "", {}
    for line in process.stdout:
        word, _, text = line.rstrip().partition(" ")
        if word in ("skumatch-result", "skumatch-error", "skumatch-skip"):
            kind, fields = word, json.loads(text)
        if word != "skumatch-result":  # it is the task's XCom already
            print(line.rstrip(), flush=True)
    return judge(kind, fields, process.wait())


def judge(kind: str, fields: dict[str, Any], code: int) -> dict[str, Any]:
    if kind == "skumatch-result" and code == 0:
        return fields
    if kind == "skumatch-skip" and code == SKIP_EXIT:
        raise AirflowSkipException(fields["reason"])
    if kind == "skumatch-error" and not fields["retry"]:
        raise AirflowFailException(fields["sentence"])
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise AirflowException(fields.get("sentence") or f"The stage ended with {how} and no result.")
