"""One Airflow task = one subprocess of the project's Python; it works, Airflow schedules, retries and stops it."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from events import CHANGED, PASSED, tell
from recipe import PROJECT

log = logging.getLogger(__name__)
SKIP_EXIT = 99
GRACE_SECONDS = 3.0
PR_SET_PDEATHSIG = 1
Message = Callable[[Context], Any]


class StageOperator(BaseOperator):
    """Run `python -m skumatch worker WORDS` and return the JSON of its `skumatch-result` line.

    `message` makes its input; without one it is the message of the task `after`, and without that the run's id and params. With
    `events` other DAGs are told what the result means. Log lines reach the task log as they come. Raises AirflowFailException
    (never retried) for an error that says so, AirflowException (retried) for one that may pass or a crash, AirflowSkipException
    where there is nothing to do. Killing the task kills all the stage started.
    """

    def __init__(
        self, *, words: Sequence[str], after: str | None = None, message: Message | None = None, events: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(outlets=[CHANGED, PASSED] if events else [], **kwargs)
        self.words, self.after, self.message, self.events = list(words), after, message, events
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        result = self._run(self._message(context))
        if self.events:
            tell(context, result)
        return result

    def _message(self, context: Context) -> Any:
        if self.message:
            return self.message(context)
        return context["ti"].xcom_pull(task_ids=self.after) if self.after else request(context)

    def on_kill(self) -> None:
        """Stop the stage and whatever it started; called by Airflow on SIGTERM and on a timeout."""
        if self._process:
            stop(self._process)

    def _run(self, message: Any) -> dict[str, Any]:
        with start(self.words) as self._process:
            try:
                return finish(self._process, message)
            finally:
                stop(self._process)


def request(context: Context) -> dict[str, Any]:
    """What the first task is asked: this run's id and params, and whether the schedule started it."""
    run, params = context["dag_run"], context["params"]
    asked = {key: params[key] for key in ("data_ref", "overrides", "dry_run")}
    return {"run": run.run_id, "scheduled": run.run_type == "scheduled", **asked}


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    python = os.environ.get("SKUMATCH_PYTHON") or sys.executable
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")}  # a stage needs no server secrets
    return subprocess.Popen(
        [python, "-m", "skumatch", "worker", *words],
        cwd=PROJECT,
        env=kept | {"SKUMATCH_EVENTS": "1", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        preexec_fn=end_with_parent(os.getpid()) if sys.platform == "linux" else None,
    )


def end_with_parent(parent: int) -> Callable[[], None]:
    """What the child does before its first instruction: ask for SIGTERM when this task dies, even by SIGKILL."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: a forked child must not load libraries

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


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


def stop(process: subprocess.Popen[str]) -> None:
    """End the stage's process group: SIGTERM, then SIGKILL for what is left; nothing happens where all has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("The stage did not stop within %s s and is killed.", GRACE_SECONDS)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
