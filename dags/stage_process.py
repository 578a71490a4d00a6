"""The operator of stages: each Airflow task is one process of the project's Python.

The process does the work; Airflow schedules, retries and stops it.
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
BY_ITSELF = ("scheduled", "asset_triggered")  # Airflow's types of runs that nobody started by hand
Message = Callable[[Context], Any]


class StageOperator(BaseOperator):
    """Run `python -m skumatch worker WORDS` and return the JSON of its `skumatch-result` line.

    Its lines reach the task log as they come. Killing the task kills everything that the stage started. With
    `runtime.execution: docker` the stage runs in a container.

    Args:
        words: Arguments of the worker.
        after: Id of the task whose result is the input, without a `message`. Without both, the input is the
            run's id and params.
        message: Makes the input from the task's context.
        events: Whether the result's asset events are emitted for other DAGs.
        limit: Name of the parameter with the time limit, for the sentence of a time-out.
        kwargs: Arguments of BaseOperator.

    Raises:
        AirflowFailException: The stage reports an error that no retry mends; never retried.
        AirflowException: An error that may pass, a crash or a time-out; retried.
        AirflowSkipException: There is nothing to do.
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
        self.words = list(words)
        self.after, self.message, self.events, self.limit = after, message, events, limit
        self._process: subprocess.Popen[str] | None = None
        self._container: str | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the stage, emit its asset events, and return its result."""
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
        """Print the reason for the time-out as an error line, and return its sentence."""
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
        """Stop the stage and everything it started; Airflow calls this on SIGTERM and on a time-out."""
        if self._process:
            stop(self._process, self._container)

    def _run(self, message: Any) -> dict[str, Any]:
        with start(self.words, self._container, gpu=self.queue == GPU) as self._process:
            try:
                return finish(self._process, message)
            finally:
                stop(self._process, self._container)


def request(context: Context, kind: str = "retrain") -> dict[str, Any]:
    """Return the first task's message: the run's kind, id and params, and whether it started by itself."""
    run, params = context["dag_run"], context["params"]
    options = {key: params[key] for key in ("data_ref", "overrides", "dry_run")}
    return {"kind": kind, "run": run.run_id, "scheduled": run.run_type in BY_ITSELF, **options}


def finish(process: subprocess.Popen[str], message: Any) -> dict[str, Any]:
    """Send the message, copy each line to the task log, and return the result or raise the error.

    Args:
        process: The stage's process.
        message: Its input, sent as JSON.

    Raises:
        AirflowException: As in `judge`.
    """
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
    """Return the result of a stage, or raise its error.

    Args:
        kind: First word of the last marker line: skumatch-result, -error or -skip; empty without one.
        fields: Fields of that line.
        code: Exit code of the process.

    Raises:
        AirflowSkipException: There is nothing to do.
        AirflowFailException: The stage reports an error that no retry mends.
        AirflowException: Any other end without a result.
    """
    if kind == "skumatch-result" and code == 0:
        return fields
    if kind == "skumatch-skip" and code == SKIP_EXIT:
        raise AirflowSkipException(fields["reason"])
    if kind == "skumatch-error" and not fields["retry"]:
        raise AirflowFailException(fields["sentence"])
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise AirflowException(fields.get("sentence") or f"The stage ended with {how} and no result.")
