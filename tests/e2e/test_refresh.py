"""Changes of the data while Airflow is up, one refresh for all of them, and the gallery that then serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skumatch.pipeline.repository import md5_of
from skumatch.servers.airflow_api import REFRESH, Airflow
from tests.conftest import wait_until
from tests.e2e.live import PLACE, Live, serving
from tests.pipeline.test_refresh import OLD, deliver
from tests.proving import IN_PROOF

pytestmark = [pytest.mark.live, IN_PROOF]  # tests/pipeline/test_refresh.py is the daily one
SECONDS = 600.0
NEW, GONE = ("one more", "weekly one", "weekly two"), OLD[:1]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("shop") / PLACE
    with serving(root, overrides=("schedule.on_new_data=true", "schedule.debounce_minutes=2")) as live:
        yield live


def refreshes(live: Live) -> list[dict[str, Any]]:
    """Runs of the refresh, the oldest first."""
    with Airflow(live.settings) as airflow:
        return list(airflow.get(f"/dags/{REFRESH}/dagRuns", order_by="run_after")["dag_runs"])


def handed_on(live: Live, run: str, task: str) -> dict[str, Any] | None:
    """The message that a task of a run passed on; None if it was skipped."""
    path = f"/dags/{REFRESH}/dagRuns/{run}/taskInstances/{task}"
    with Airflow(live.settings) as airflow:
        if airflow.get(path)["state"] == "skipped":
            return None
        return dict(airflow.get(f"{path}/xcomEntries/return_value", deserialize="true")["value"])


def ended(live: Live) -> bool:
    return all(row["state"] in ("success", "failed") for row in refreshes(live))


def pulled(live: Live) -> list[dict[str, Any] | None]:
    """What pull passed on in each run of the refresh; None where it was skipped."""
    return [handed_on(live, row["dag_run_id"], "pull") for row in refreshes(live)]


def named(live: Live, *photos: Path) -> list[str]:
    """The product that the serving model names in each photo."""
    matched = live.command("match", *map(str, photos), "--top-k", "1", "--json")
    assert matched.code == 0, matched.err
    return [str(answers[0]["sku"]) for answers in json.loads(matched.out)]


@pytest.mark.timeout(1800)
def test_what_serves_follows_an_import_and_a_week_of_deltas(live: Live, tmp_path: Path) -> None:
    first = live.command("run", "--data", str(deliver(tmp_path / "first", OLD)))
    assert first.code == 0, first.err
    assert "Airflow was told" not in first.out and refreshes(live) == [], "its retrain starts at once"
    whole, week = deliver(tmp_path / "whole", (*OLD, *NEW[:1])), deliver(tmp_path / "week", NEW[1:])
    for words in (
        ["import", str(whole)],
        ["add", str(week), "--why", "week 48"],
        ["retire", *GONE, "--why", "delisted"],
    ):
        changed = live.command("data", *words)
        assert changed.code == 0, changed.err
        assert "Airflow was told; a refresh starts once no import came for 2 min." in changed.out
    # Runs of earlier events are skipped, unless the machine is so slow that changes come minutes apart.
    today = md5_of((live.project / "data.dvc").read_text("utf-8"))
    wait_until(lambda: ended(live) and any(did and did["data"] == today for did in pulled(live)), SECONDS)
    rows = [row for row in refreshes(live) if row["state"] != "running"]  # of an event that came late
    assert {(row["run_type"], row["state"]) for row in rows} == {("asset_triggered", "success")}
    worked = [run for run in (row["dag_run_id"] for row in rows) if handed_on(live, run, "pull")]
    results = [handed_on(live, run, "register") or {} for run in worked]
    assert [result["decision"] for result in results] == ["refresh"] * len(worked), results
    assert [result["version"] for result in results] == list(range(2, 2 + len(worked)))
    counts = [(result["products"]["new"], result["products"]["retired"]) for result in results]
    assert [sum(numbers) for numbers in zip(*counts, strict=True)] == [3, 1]
    aliases = {ref.version: ref.aliases for ref in live.versions()}
    assert aliases[1 + len(worked)] == ("champion", "refreshed")


@pytest.mark.timeout(900)
def test_what_serves_names_the_new_products_and_no_retired_one(live: Live, tmp_path: Path) -> None:
    shelf = deliver(tmp_path / "shelf", NEW)
    assert named(live, *(shelf / f"all/test/{sku}/3.png" for sku in NEW)) == list(NEW)
    delisted = sorted(deliver(tmp_path / "delisted", GONE).rglob("*.png"))
    assert not set(named(live, *delisted)) & set(GONE)


def test_who_brought_it_and_what_came_of_it_can_be_told(live: Live) -> None:
    log = live.command("data", "log")
    assert "week 48" in log.out and "delisted" in log.out
    audit = live.command("audit", "champion", "--verify")
    assert audit.code == 0, audit.out + audit.err


@pytest.mark.timeout(900)
def test_a_second_refresh_changes_nothing(live: Live) -> None:
    again = live.command("refresh")
    assert again.code == 0, again.err
    assert "today's is the one that serves, version 2" in again.out and again.fact("Version").startswith(
        "none registered"
    )
    assert again.fact("Cached") == "cached throughout" and len(live.versions()) == 2
    assert "what serves" in again.out and "refreshed gallery" in again.out, "both are scored all the same"


@pytest.mark.timeout(900)
def test_a_rollback_brings_the_gallery_of_before_and_no_refresh_undoes_it(live: Live) -> None:
    back = live.command("rollback", "--why", "a supplier's mistake")
    assert back.code == 0 and "Version 1 is the champion again" in back.out, back.err
    before = len(refreshes(live))
    with Airflow(live.settings) as airflow:  # as an import of the same data would
        asset = next(entry for entry in airflow.get("/assets", name_pattern="skumatch_data")["assets"])
        airflow.post("/assets/events", {"asset_id": asset["id"], "extra": {}})
    wait_until(lambda: len(refreshes(live)) == before + 1 and ended(live), SECONDS)
    assert handed_on(live, refreshes(live)[-1]["dag_run_id"], "pull") is None, "the data was judged before"
    assert {ref.version for ref in live.versions() if "champion" in ref.aliases} == {1}
