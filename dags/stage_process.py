"""One Airflow task = one subprocess of the project's Python; it works, Airflow schedules, retries and stops it."""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, AssetAlias, BaseOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

log = logging.getLogger(__name__)
PROJECT = Path(os.environ.get("SKUMATCH_PROJECT") or Path(__file__).resolve().parents[1])
SKIP_EXIT = 99
GRACE_SECONDS = 3.0
PR_SET_PDEATHSIG = 1


class StageOperator(BaseOperator):
    """Run `python -m skumatch worker WORDS` and return the JSON of its `skumatch-result` line.

    Its input is the message of the task `after`, or, without one, the run's id and params. Log lines reach the task log as
    they come. Raises AirflowFailException (never retried) for an error that says so, AirflowException (retried) for one that
    may pass or a crash, AirflowSkipException where there is nothing to do. Killing the task kills all the stage started.
    """

    def __init__(self, *, words: Sequence[str], after: str | None = None, changed: AssetAlias | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words, self.after, self.changed = list(words), after, changed
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        message = context["ti"].xcom_pull(task_ids=self.after) if self.after else request(context)
        result = self._run(message)
        if self.changed and not result.get("dry_run") and result.get("decision") in ("first", "promote"):
            note_champion(context, self.changed, result)
        return result

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


def note_champion(context: Context, changed: AssetAlias, result: dict[str, Any]) -> None:
    asset = Asset(name="skumatch_champion", uri="skumatch://champion/skumatch")
    context["outlet_events"][changed].add(asset, extra={"version": result.get("version"), "decision": result["decision"]})


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


def on_failure(context: Context) -> None:
    """One log line, then the hook `SKUMATCH_NOTIFY=module:function`, called with a dict; Airflow logs a hook that fails."""
    ti, sentence = context["ti"], str(context.get("exception", ""))
    log.error("Run %s failed in %s: %s", ti.run_id, ti.task_id, sentence)
    module, _, function = os.environ.get("SKUMATCH_NOTIFY", "").partition(":")
    if module:
        getattr(importlib.import_module(module), function)({"dag": ti.dag_id, "run": ti.run_id, "stage": ti.task_id, "sentence": sentence})
