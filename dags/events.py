"""What other DAGs can be scheduled on, and whom people are told by: assets, and Airflow's notifier interface."""

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
CHANGED, PASSED = AssetAlias("skumatch_champion_changed"), AssetAlias("skumatch_challenger_passed")
WORDS = {
    "first": "promoted",
    "promote": "promoted",
    "rollback": "rolled back",
    "refuse": "refused",
    "keep": "kept",
}


def tell(context: Context, result: dict[str, Any]) -> None:
    """An event of the champion's asset where it changed, of the challenger's where it waits for a person."""
    if result.get("dry_run") or result.get("decision") not in ("first", "promote", "rollback"):
        return
    alias, asset = (PASSED, CHALLENGER) if result.get("waits") else (CHANGED, CHAMPION)
    context["outlet_events"][alias].add(asset, extra={"version": result.get("version"), "decision": result["decision"]})


class Notice(BaseNotifier):
    """One log line, then the hook `SKUMATCH_NOTIFY=module:function`, called with a dict; Airflow logs a hook that fails.

    event: `failed`, `approval`, or `ended`, which is told as what the result says: promoted, rolled back, refused.
    """

    def __init__(self, event: str) -> None:
        super().__init__()
        self.event = event

    def notify(self, context: Context) -> None:
        ti = context["ti"]
        event, sentence = self._told(context)
        if event in ("kept", "waits"):
            return
        log.log(logging.ERROR if event == "failed" else logging.INFO, "Run %s, %s: %s. %s", ti.run_id, ti.task_id, event, sentence)
        module, _, function = os.environ.get("SKUMATCH_NOTIFY", "").partition(":")
        if module:
            facts = {"event": event, "dag": ti.dag_id, "run": ti.run_id, "stage": ti.task_id, "sentence": sentence}
            getattr(importlib.import_module(module), function)(facts)

    def _told(self, context: Context) -> tuple[str, str]:
        if self.event == "failed":
            return "failed", str(context.get("exception", ""))
        if self.event == "approval":
            return "approval", str(getattr(context["task"], "subject", ""))
        result = context["ti"].xcom_pull(task_ids=context["ti"].task_id) or {}
        word = "waits" if result.get("waits") else WORDS.get(str(result.get("decision")), "kept")
        return ("kept" if result.get("dry_run") else word), str(result.get("sentence") or f"version {result.get('version')}")
