"""The DAGs `skumatch_release` and `skumatch_rollback`.

In the first a person approves a challenger; the second makes an earlier champion the champion again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param
from airflow.sdk.definitions.context import Context
from events import CHALLENGER, Notice
from recipe import APPROVAL_HOURS
from stage_process import StageOperator

VERSION = Param(
    None,
    type=["null", "integer"],
    minimum=1,
    description="A version of the registered model; empty: see the DAG's text.",
)
# Airflow's form keeps its button grey, without a word, while a text that may not be null is empty.
WHY = Param(
    None,
    type=["null", "string"],
    maxLength=500,
    description="The reason, kept in the journal; empty: by hand.",
)
USUAL: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "execution_timeout": timedelta(hours=1),
    "on_failure_callback": Notice("failed"),
}
RELEASE = """Ask a person whether a model that passed the gate becomes the champion.

Started by a run whose kind of release needs a person \
(`release.approval`, `release.approval_refresh`), or by hand for a
version (empty: the challenger). A run that an event started takes up the oldest version that waits, and
tells of further ones. Rejection and time-out promote nothing; neither does a champion that changed meanwhile.
"""
ROLLBACK = (
    "Make an earlier champion the champion again: `version`, or, if that is empty, the one before this."
)
SUBJECT = "Make version {{ ti.xcom_pull('propose')['version'] }} the champion?"
BODY = """{% set asked = ti.xcom_pull('propose') %}{{ asked['sentence'] }}

It would replace \
{{ 'version ' ~ asked['expected'] if asked['expected'] else 'no champion: it is the first' }}.

- Report and figures: [the run in MLflow]({{ asked['page'] }}), artifact `report/report.html`
- Bundle: `{{ asked['bundle'] }}`
"""


def question(context: Context) -> dict[str, Any]:
    """Return the message of the task `propose`: the version that a person chose, and the run's id.

    The id is set only if an event started the run, which then takes up the oldest waiting version.
    """
    run = context["dag_run"]
    by_event = run.run_type == "asset_triggered"
    return {"version": context["params"]["version"], "run": run.run_id if by_event else ""}


def answered(context: Context) -> dict[str, Any]:
    """Return the message of the task `promote`: the proposal, the approver's name and the reason."""
    answer = context["ti"].xcom_pull(task_ids="approve")
    user = answer["responded_by_user"] or {}
    why = (answer["params_input"] or {}).get("why") or "by hand"
    return {
        "proposal": context["ti"].xcom_pull(task_ids="propose"),
        "who": user.get("name") or user.get("id") or "",
        "why": why,
    }


def asked(context: Context) -> dict[str, Any]:
    """Return the message of the task `rollback`: the version, the reason and the user's name."""
    params = context["params"]
    return {
        "version": params["version"],
        "why": params["why"] or "by hand",
        "who": context["dag_run"].triggering_user_name or "Airflow",
    }


with DAG(
    "skumatch_release",
    description="A person decides what the gate let pass.",
    doc_md=RELEASE,
    schedule=[CHALLENGER],
    max_active_runs=16,  # a model and a gallery may wait side by side; a promotion compares
    is_paused_upon_creation=False,
    params={"version": VERSION},
    tags=["skumatch"],
    default_args=USUAL,
):
    propose = StageOperator(task_id="propose", words=["propose"], message=question, events=True)
    approve = ApprovalOperator(
        task_id="approve",
        subject=SUBJECT,
        body=BODY,
        params={"why": WHY},
        notifiers=[Notice("approval")],
        response_timeout=timedelta(hours=APPROVAL_HOURS),
        execution_timeout=None,
        retries=0,  # an unanswered question is not repeated
    )
    promote = StageOperator(
        task_id="promote",
        words=["promote"],
        message=answered,
        events=True,
        on_success_callback=Notice("ended"),
    )
    propose >> approve >> promote

with DAG(
    "skumatch_rollback",
    description="An earlier champion serves again.",
    doc_md=ROLLBACK,
    schedule=None,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={"version": VERSION, "why": WHY},
    tags=["skumatch"],
    default_args=USUAL,
):
    rollback = StageOperator(
        task_id="rollback",
        words=["rollback"],
        message=asked,
        events=True,
        on_success_callback=Notice("ended"),
    )
