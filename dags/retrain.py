"""The Airflow DAGs `skumatch_retrain` and `skumatch_refresh`: pull, dvc.yaml's stages in order, register.

This file imports nothing heavy, since every task parses it again. docs/architecture.md describes the messages
between tasks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, Param
from airflow.sdk.configuration import conf
from events import DATA, TRAINED, Notice
from new_data import refresh_request
from recipe import GPU, NEVER, OTHER_TIMEOUT_HOURS, PIPELINE, RUNTIME, SCHEDULE, STAGES
from stage_process import StageOperator, request

# The same as in skumatch/recipe/overrides.py; a test compares.
OVERRIDE = r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*=.*\S.*$"
# In a refresh these stages have nothing to do, so the next stage's task runs them too.
UNTRAINED = ("frozen", "train")

PRINTING = ("report",)  # stages that only print parameters


def unused() -> list[str]:
    """Return the parameters that only stages of UNTRAINED use, as in skumatch/pipeline/releases.py.

    A test compares.
    """
    by_stage = {name: set(stage.get("params", ())) for name, stage in PIPELINE.items()}
    computing = (params for name, params in by_stage.items() if name not in (*UNTRAINED, *PRINTING))
    return sorted(set().union(*(by_stage.get(name, set()) for name in UNTRAINED)) - set().union(*computing))


PARAMS = {
    "data_ref": Param(
        None, type=["null", "string"], description="Git ref of the data to use; empty: the data as it stands."
    ),
    "overrides": Param(
        [],
        type="array",
        items={"type": "string", "pattern": OVERRIDE},
        description="Parameters for this run only, one a line, as section.name=value, "
        "for example seed=3; recorded with the run.",
    ),
    "dry_run": Param(False, type="boolean", description="Do everything except registering and promoting."),
}
HEEDED = "".join(rf"(?!{re.escape(name)}[.=])" for name in unused())
REFRESH_PARAMS = PARAMS | {
    "encoder": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        description="A version whose encoder is judged again on today's data, "
        "beside the refreshed gallery; empty: none.",
    ),
    "overrides": Param(
        [],
        type="array",
        items={"type": "string", "pattern": OVERRIDE.replace("^", f"^{HEEDED}", 1)},
        description=f"As of skumatch_retrain, but not of {', '.join(unused()) or 'nothing'}: "
        "nothing is trained.",
    ),
}
USUAL: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "on_failure_callback": Notice("failed"),
}
RETRAIN = """Retrain the matcher on the current data and promote it \
only if it beats the champion on the same queries.

`pull` freezes the inputs (data, code, params, champion), the stages of dvc.yaml work, \
`register` records the model if
it passed the gate. Started by `schedule.retrain`, and skipped where the data has not changed; or by hand with
`skumatch retrain`. Errors in data are not retried.
"""
REFRESH = """Put the champion's encoder on the current data and release the new gallery \
if it is fit to serve; nothing is trained.

The stages are those of `skumatch_retrain`; \
`embed` does `frozen` and `train` on its way, which have nothing to do.
Started by a new data version (`schedule.on_new_data`) and by `schedule.refresh`, \
and skipped where nothing is new or
there is no champion; or by hand with `skumatch refresh`.
"""


def make_dag() -> DAG:
    """Return the DAG `skumatch_retrain`, which trains an encoder."""
    with DAG(
        "skumatch_retrain",
        description="Versioned images in, a better matcher out.",
        doc_md=RETRAIN,
        schedule=timetable(SCHEDULE["retrain"]),
        catchup=False,
        max_active_runs=RUNTIME["parallel_runs"],
        params=PARAMS,
        tags=["skumatch"],
        default_args=USUAL,
    ) as dag:
        chain(((name, [name]) for name in STAGES), partial(request, kind="retrain"))
    return dag


def make_refresh_dag() -> DAG:
    """Return the DAG `skumatch_refresh`, which embeds today's data with the champion's encoder."""
    with DAG(
        "skumatch_refresh",
        description="New products in, a gallery that knows them out.",
        doc_md=REFRESH,
        schedule=refresh_schedule(),
        catchup=False,
        max_active_runs=1,
        params=REFRESH_PARAMS,
        tags=["skumatch"],
        default_args=USUAL,
    ) as dag:
        chain(refresh_tasks(), refresh_request, inlets=[DATA])
    return dag


def timetable(cron: str) -> CronTriggerTimetable | None:
    """Return the timetable of a cron text; None for `none`.

    Without a start_date a new installation waits for the next time. `run_immediately=False` would run at once
    if the last time is less than a tenth of the interval ago.
    """
    return None if cron == NEVER else CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0))


def refresh_schedule() -> Any:
    """Return the refresh schedule: by time, by new data if wanted, and by encoders to be judged again."""
    by_time, events = timetable(SCHEDULE["refresh"]), DATA | TRAINED if SCHEDULE["on_new_data"] else TRAINED
    return AssetOrTimeSchedule(timetable=by_time, assets=events) if by_time else events


def refresh_tasks() -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each task of a refresh with the stages that it runs."""
    stages: list[str] = []
    for name in STAGES:
        stages.append(name)
        if name not in UNTRAINED:
            yield name, stages
            stages = []


def chain(tasks: Any, message: Any, inlets: Any = ()) -> None:
    """Add the tasks of a DAG, each after the one before: pull, `tasks`, register.

    Args:
        tasks: Pairs of a task's name and its stages, in order.
        message: Makes pull's input from its context.
        inlets: Assets whose events pull reads.
    """
    before = task("pull", ["pull"], None, message=message, inlets=list(inlets), events=True)
    for name, stages in tasks:
        before = task(name, ["stage", *stages], before)
    task("register", ["register"], before, events=True, on_success_callback=Notice("ended"))


def task(name: str, words: list[str], before: StageOperator | None, **more: Any) -> StageOperator:
    """Add one task to the current DAG.

    Args:
        name: Id of the task, by which params.yaml gives its queue and time limit.
        words: Arguments of `skumatch worker`.
        before: The task before it, whose result is its message; None for the first task.
        more: Further arguments of StageOperator.
    """
    queue = RUNTIME["queues"].get(name, conf.get("operators", "default_queue"))
    operator = StageOperator(
        task_id=name,
        words=words,
        after=before.task_id if before else None,
        queue=queue,
        pool=GPU if queue == GPU else "default_pool",
        execution_timeout=timedelta(hours=RUNTIME["timeout_hours"].get(name, OTHER_TIMEOUT_HOURS)),
        limit=f"runtime.timeout_hours.{name}",
        doc=f"python -m skumatch worker {' '.join(words)}",
        **more,
    )
    if before:
        before >> operator
    return operator


make_dag()
make_refresh_dag()
