"""The DAG `skumatch_audit`: daily verification of the champion's lineage chain, and of an older version's."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param
from airflow.sdk.definitions.context import Context
from events import Notice
from stage_process import StageOperator

DOC = """Verify where the champion and one older version came from: \
every part is fetched and hashed again, what is cheap is computed again.

A broken link turns the run red, with its name; nothing is repaired. \
Read the page `lineage-MODEL-VERSION.html` in the reports, then
`skumatch audit VERSION --verify`. Skipped while there is no champion.
"""
PICTURES = Param(
    True,
    type="boolean",
    description="Fetch and hash the data's pictures, too; turn off where they are very many.",
)


def asked(context: Context) -> dict[str, Any]:
    """Return the message of the audit: the run's id, and whether to verify the pictures too."""
    return {"run": context["dag_run"].run_id, "pictures": context["params"]["pictures"]}


with DAG(
    "skumatch_audit",
    description="Does every model still come from where its record says?",
    doc_md=DOC,
    schedule=CronTriggerTimetable("0 5 * * *", timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={"pictures": PICTURES},
    tags=["skumatch"],
) as dag:
    StageOperator(
        task_id="audit",
        words=["audit"],
        message=asked,
        retries=2,
        retry_delay=timedelta(seconds=10),
        execution_timeout=timedelta(hours=6),
        on_failure_callback=Notice("failed"),
    )
