"""Assets that other DAGs can be scheduled on, and notices to people."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from airflow.sdk import Asset, AssetAlias, BaseNotifier
from airflow.sdk.definitions.context import Context

log = logging.getLogger(__name__)
CHAMPION = Asset(name="skumatch_champion", uri="skumatch://champion/skumatch")
CHALLENGER = Asset(name="skumatch_challenger", uri="skumatch://challenger/skumatch")
DATA = Asset(
    name="skumatch_data", uri="skumatch://data/skumatch"
)  # skumatch/servers/new_data.py makes its events
# Events of this asset: a trained encoder has to be judged on the newest data.
TRAINED = Asset(name="skumatch_trained", uri="skumatch://trained/skumatch")
CHANGED, PASSED = AssetAlias("skumatch_champion_changed"), AssetAlias("skumatch_challenger_passed")
AGAIN = AssetAlias("skumatch_judge_again")
RUNS = ("skumatch_retrain", "skumatch_refresh")
WAITING = {"approval": (PASSED, CHALLENGER), "judgement": (AGAIN, TRAINED)}
WORDS = {
    "first": "promoted",
    "promote": "promoted",
    "refresh": "refreshed",
    "rollback": "rolled back",
    "refuse": "refused",
    "keep": "kept",
}


def tell(context: Context, result: dict[str, Any]) -> None:
    """Emit the asset events that a result implies, for other DAGs.

    There is an event of the champion's asset if it changed, of the challenger's if it waits for a person, and
    of the trained encoder's if it has to be judged again because the champion's gallery changed meanwhile. A
    run that takes up one waiting version emits an event for further ones, since Airflow may have dropped
    theirs.

    Args:
        context: Context of the task.
        result: Result of the task's stage.
    """
    if result.get("others_wait_for"):
        alias, asset = WAITING[result["others_wait_for"]]
        context["outlet_events"][alias].add(asset, extra={})
    if result.get("judge_again"):
        extra = {"version": result["judge_again"], "approved_by": result.get("approved_by", "")}
        context["outlet_events"][AGAIN].add(TRAINED, extra=extra)
        return
    if result.get("dry_run") or result.get("decision") not in ("first", "promote", "refresh", "rollback"):
        return
    alias, asset = (PASSED, CHALLENGER) if result.get("waits") else (CHANGED, CHAMPION)
    context["outlet_events"][alias].add(
        asset, extra={"version": result.get("version"), "decision": result["decision"]}
    )


class Notice(BaseNotifier):
    """A log line, and a call of the hook in `SKUMATCH_NOTIFY=module:function` with a dict.

    Airflow logs a hook that fails.

    Attributes:
        event: `failed`, `approval`, or `ended`. An end is reported by its result: promoted, refreshed, rolled
            back, refused, or unfit, if a gallery of today's data can't serve and the champion's stays.
    """

    def __init__(self, event: str) -> None:
        super().__init__()
        self.event = event

    def notify(self, context: Context) -> None:
        """Log the event and call the hook, unless the champion was kept or a version waits."""
        ti = context["ti"]
        event, sentence = self._event(context)
        if event in ("kept", "waits"):
            return
        log.log(
            logging.ERROR if event == "failed" else logging.INFO,
            "Run %s, %s: %s. %s",
            ti.run_id,
            ti.task_id,
            event,
            sentence,
        )
        module, _, function = os.environ.get("SKUMATCH_NOTIFY", "").strip().partition(":")
        if module:
            facts = {
                "event": event,
                "dag": ti.dag_id,
                "run": ti.run_id,
                "stage": ti.task_id,
                "sentence": sentence,
            }
            getattr(importlib.import_module(module), function)(facts)

    def _event(self, context: Context) -> tuple[str, str]:
        """Return the event's name and a sentence on it."""
        if self.event == "failed":
            before = context["ti"].dag_id in RUNS and context["ti"].task_id != "register"
            stays = " What serves stays." if before else ""
            return "failed", f"{context.get('exception', '')}{stays}"
        if self.event == "approval":
            return "approval", str(getattr(context["task"], "subject", ""))
        result = context["ti"].xcom_pull(task_ids=context["ti"].task_id) or {}
        if result.get("judge_again"):
            return "waits", ""
        word = "waits" if result.get("waits") else WORDS.get(str(result.get("decision")), "kept")
        word = "unfit" if word == "kept" and result.get("unfit") else word
        return ("kept" if result.get("dry_run") else word), str(
            result.get("sentence") or f"version {result.get('version')}"
        )
