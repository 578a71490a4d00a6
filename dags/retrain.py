"""The Airflow DAGs `skumatch_retrain` and `skumatch_refresh`, made from dvc.yaml: pull, its stages in its order, register.

Nothing heavy is imported here: every task parses this file again. docs/architecture.md says what travels between tasks.
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

OVERRIDE = (
    r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*=.*\S.*$"  # as skumatch/recipe/overrides.py has it; a test compares
)
UNTRAINED = (
    "frozen",
    "train",
)  # in a refresh they have nothing to do, so the next stage's task does them on its way

PRINTING = ("report",)  # it shows the whole recipe, whoever follows it


def unused() -> list[str]:
    """Parameters that only stages of UNTRAINED compute with, as in skumatch/pipeline/refreshing.py.

    A test compares.
    """
    named = {name: set(stage.get("params", ())) for name, stage in PIPELINE.items()}
    computing = (params for name, params in named.items() if name not in (*UNTRAINED, *PRINTING))
    return sorted(set().union(*(named.get(name, set()) for name in UNTRAINED)) - set().union(*computing))


PARAMS = {
    "data_ref": Param(
        None, type=["null", "string"], description="Git ref of the data to use; empty: the data as it stands."
    ),
    "overrides": Param(
        [],
        type="array",
        items={"type": "string", "pattern": OVERRIDE},
        description="Parameters for this run only, one a line, as section.name=value, for example seed=3; recorded with the run.",
    ),
    "dry_run": Param(False, type="boolean", description="Do everything except registering and promoting."),
}
HEEDED = "".join(rf"(?!{re.escape(name)}[.=])" for name in unused())
REFRESH_PARAMS = PARAMS | {
    "encoder": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        description="A version whose encoder is judged again on today's data, beside the refreshed gallery; empty: none.",
    ),
    "overrides": Param(
        [],
        type="array",
        items={"type": "string", "pattern": OVERRIDE.replace("^", f"^{HEEDED}", 1)},
        description=f"As of skumatch_retrain, but not of {', '.join(unused()) or 'nothing'}: nothing is trained.",
    ),
}
USUAL: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "on_failure_callback": Notice("failed"),
}
RETRAIN = """Retrain the matcher on the current data and promote it only if it beats the champion on the same queries.

`pull` freezes the inputs (data, code, params, champion), the stages of dvc.yaml work, `register` records the model if
it passed the gate. Started by `schedule.retrain`, and skipped where the data has not changed; or by hand with
`skumatch retrain`. Errors in data are not retried.
"""
REFRESH = """Put the champion's encoder on the current data and release the new gallery if it is fit to serve; nothing is trained.

The stages are those of `skumatch_retrain`; `embed` does `frozen` and `train` on its way, which have nothing to do.
Started by a new data version (`schedule.on_new_data`) and by `schedule.refresh`, and skipped where nothing is new or
there is no champion; or by hand with `skumatch refresh`.
"""


def make_dag() -> DAG:
    """The DAG that trains."""
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
    """The DAG that puts the champion's encoder on today's data."""
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
    """When a cron text says, None for `none`.

    Without a start_date a new installation waits for the next time. `run_immediately=False` would run at once
    where the last time is less than a tenth of the interval ago.
    """
    return None if cron == NEVER else CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0))


def refresh_schedule() -> Any:
    """By time and by events: of the data's asset, if that is wanted, and of an encoder that is to be judged again."""
    by_time, events = timetable(SCHEDULE["refresh"]), DATA | TRAINED if SCHEDULE["on_new_data"] else TRAINED
    return AssetOrTimeSchedule(timetable=by_time, assets=events) if by_time else events


def refresh_tasks() -> Iterator[tuple[str, list[str]]]:
    """Each task's name with the stages that it does."""
    stages: list[str] = []
    for name in STAGES:
        stages.append(name)
        if name not in UNTRAINED:
            yield name, stages
            stages = []


def chain(tasks: Any, message: Any, inlets: Any = ()) -> None:
    """Add pull, whose input `message` makes, the `tasks`, and register, each after the one before."""
    before = task("pull", ["pull"], None, message=message, inlets=list(inlets), events=True)
    for name, stages in tasks:
        before = task(name, ["stage", *stages], before)
    task("register", ["register"], before, events=True, on_success_callback=Notice("ended"))


def task(name: str, words: list[str], before: StageOperator | None, **more: Any) -> StageOperator:
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
