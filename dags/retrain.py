"""The Airflow DAG `skumatch_retrain`, made from dvc.yaml: pull, each stage in dvc.yaml's order, register.

Nothing heavy is imported here: every task parses this file again. docs/architecture.md says what travels between tasks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param
from airflow.sdk.configuration import conf
from events import Notice
from recipe import GPU, RUNTIME, STAGES
from stage_process import StageOperator

HOURS = {"train": 24}
OVERRIDE = r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*=.*$"

PARAMS = {
    "data_ref": Param(None, type=["null", "string"], description="Git ref of the data to train on; empty: the data as it stands."),
    "overrides": Param(
        [],
        type="array",
        items={"type": "string", "pattern": OVERRIDE},
        description="Parameters for this run only, one a line, as section.name=value, for example train.epochs=3; recorded with the run.",
    ),
    "dry_run": Param(False, type="boolean", description="Do everything except registering and promoting."),
}
DOC = """Retrain the matcher on the current data and promote it only if it beats the champion on the same queries.

`pull` freezes the inputs (data, code, params, champion), the stages of dvc.yaml work, `register` records the model if it passed the gate.
Started weekly, and skipped where the data has not changed; or by hand with `skumatch retrain`. Errors in data are not retried.
"""


def make_dag() -> DAG:
    with DAG(
        "skumatch_retrain",
        description="Versioned images in, a better matcher out.",
        doc_md=DOC,
        # No start_date, so that a new installation waits for the next Monday; `False` would run at once on a Monday, until 19:48.
        schedule=CronTriggerTimetable("0 3 * * 1", timezone="UTC", run_immediately=timedelta(0)),
        catchup=False,
        max_active_runs=RUNTIME["parallel_runs"],
        params=PARAMS,
        tags=["skumatch"],
        default_args={
            "retries": 2,
            "retry_delay": timedelta(seconds=10),
            "retry_exponential_backoff": True,
            "on_failure_callback": Notice("failed"),
        },
    ) as dag:
        before = task("pull", ["pull"], None)
        for name in STAGES:
            before = task(name, ["stage", name], before)
        task("register", ["register"], before, events=True, on_success_callback=Notice("ended"))
    return dag


def task(name: str, words: list[str], before: StageOperator | None, **more: Any) -> StageOperator:
    queue = RUNTIME["queues"].get(name, conf.get("operators", "default_queue"))
    operator = StageOperator(
        task_id=name,
        words=words,
        after=before.task_id if before else None,
        queue=queue,
        pool=GPU if queue == GPU else "default_pool",
        execution_timeout=timedelta(hours=HOURS.get(name, 2)),
        doc=f"python -m skumatch worker {' '.join(words)}",
        **more,
    )
    if before:
        before >> operator
    return operator


make_dag()
