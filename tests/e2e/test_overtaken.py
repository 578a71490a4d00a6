"""Trainings that others overtake: the champion's gallery or encoder changes while they are in their gate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skumatch.pipeline.repository import md5_of
from skumatch.promotion.promotion import history
from skumatch.registry.registry import RELEASE_TAG, TRAINED_TAG, Registry
from skumatch.registry.tracking import KIND_TAG
from skumatch.servers.airflow_api import REFRESH, RETRAIN, Airflow
from tests.conftest import wait_until
from tests.e2e.live import PLACE, Live, serving
from tests.pipeline.test_refresh import deliver
from tests.pipeline.test_tasks import shapes
from tests.proving import PROVING

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not PROVING, reason="in `make prove`: seven runs on servers of their own"),
]
SECONDS = 900.0
COLOURED, NEW = tuple(f"colour {number}" for number in range(8)), "new colour"
# The champion squashes each picture to one canvas, so products that differ in their shape look alike to it.
BETTER = ("encoder.resize=pad", "encoder.resize=pad seed=8")
Run = tuple[str, str]  # of a DAG: its id, and the run's


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("overtaken") / PLACE) as live:
        yield live


@pytest.fixture(scope="module")
def trained(live: Live, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two retrains of better encoders; their gates, which compare with version 1, are still to come."""
    root = tmp_path_factory.mktemp("deliveries")
    first = live.command("run", "--data", str(shapes(deliver(root / "first", COLOURED))))
    assert first.code == 0, first.err
    live.break_("gate", "DataError")
    runs = [start(live, words.split()) for words in BETTER]
    wait_until(lambda: all(state(live, run) == "failed" for run in runs), SECONDS)
    assert all(task_states(live, run)["bundle"] == "success" for run in runs)
    live.mend()
    return runs


@pytest.fixture(scope="module")
def refreshed(live: Live, trained: list[Run], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Meanwhile a delivery brings a product, and its gallery is released as version 2."""
    root = tmp_path_factory.mktemp("delivery")
    imported = live.command("data", "import", str(shapes(deliver(root, (*COLOURED, NEW)))))
    assert imported.code == 0, imported.err
    refresh = live.command("refresh")
    assert refresh.code == 0 and refresh.fact("Version").startswith("2 "), refresh.err + refresh.out


def start(live: Live, overrides: list[str]) -> Run:
    with Airflow(live.settings) as airflow:
        conf = {"logical_date": None, "conf": {"overrides": overrides}}
        return RETRAIN, str(airflow.post(f"/dags/{RETRAIN}/dagRuns", conf)["dag_run_id"])


def state(live: Live, run: Run) -> str:
    with Airflow(live.settings) as airflow:
        return str(airflow.get("/dags/{}/dagRuns/{}".format(*run))["state"])


def task_states(live: Live, run: Run) -> dict[str, str]:
    with Airflow(live.settings) as airflow:
        rows = airflow.get("/dags/{}/dagRuns/{}/taskInstances".format(*run))["task_instances"]
    return {row["task_id"]: str(row["state"]) for row in rows}


def refreshes(live: Live) -> list[dict[str, Any]]:
    """Runs of the refresh, the oldest first."""
    with Airflow(live.settings) as airflow:
        return list(airflow.get(f"/dags/{REFRESH}/dagRuns", order_by="run_after")["dag_runs"])


def handed_on(live: Live, run: Run, task: str) -> dict[str, Any]:
    path = "/dags/{}/dagRuns/{}/taskInstances/{}/xcomEntries/return_value".format(*run, task)
    with Airflow(live.settings) as airflow:
        return dict(airflow.get(path, deserialize="true")["value"])


def go_on(live: Live, run: Run) -> str:
    """Retry the failed tasks of the run, and return its state at the end."""
    live.clear(*run)
    wait_until(lambda: state(live, run) in ("success", "failed"), SECONDS)
    return state(live, run)


def registry(live: Live) -> Registry:
    return Registry(live.settings.mlflow_url)


def champion(live: Live) -> int:
    return registry(live).resolve("champion").version


def outcomes(live: Live) -> list[tuple[int, str]]:
    """The proposed version and the outcome of each entry of the journal."""
    return [(entry.asked.version, entry.after.outcome) for entry in history(registry(live)) if entry.after]


def trainings(live: Live) -> set[str]:
    """Every training keeps its checkpoints in a folder of its own."""
    return {path.parent.name for path in (live.worker.remote / "checkpoints").rglob("owner.json")}


def assert_judged_again(live: Live, run: Run, encoder: int, beside: int) -> dict[str, Any]:
    """Assert that the run judged the encoder on the newest data without training; return its last message."""
    message = handed_on(live, run, "report")
    assert (message["kind"], message["encoder"], message["champion"]) == ("refresh", encoder, beside)
    assert message["data"] == md5_of((live.project / "data.dvc").read_text("utf-8"))
    assert message["pace"] == {} and {"challenger", "champion"} == set(message["vectors"])
    result = handed_on(live, run, "register")
    assert result["challenger"] and result["refreshed"]
    return result


@pytest.mark.timeout(2400)
def test_a_training_that_a_gallery_release_overtook_is_promoted(
    live: Live,
    trained: list[Run],
    refreshed: None,
) -> None:
    """Its encoder is judged again by itself, from embed on, and then serves with the newest gallery."""
    known, before = trainings(live), len(refreshes(live))
    assert champion(live) == 2 and registry(live).resolve("2").tags[RELEASE_TAG] == "1"
    assert go_on(live, trained[0]) == "success"
    late = handed_on(live, trained[0], "register")
    assert (late["decision"], late["version"], late["judge_again"]) == ("promote", 3, 3)
    wait_until(lambda: len(refreshes(live)) == before + 1, SECONDS)
    again = REFRESH, str(refreshes(live)[-1]["dag_run_id"])
    wait_until(lambda: state(live, again) in ("success", "failed"), SECONDS)
    assert refreshes(live)[-1]["run_type"] == "asset_triggered"
    result = assert_judged_again(live, again, encoder=3, beside=2)
    assert (result["decision"], result["version"], result["aliases"]["champion"]) == ("promote", 4, 4)
    tags = registry(live).resolve("4").tags
    assert (tags[KIND_TAG], tags[TRAINED_TAG], tags.get(RELEASE_TAG)) == ("refresh", "3", None)
    assert trainings(live) == known
    assert outcomes(live) == [(1, "done"), (2, "done"), (3, "stale"), (4, "done")]


@pytest.mark.timeout(900)
def test_its_gallery_has_the_product_that_came_meanwhile(live: Live, tmp_path: Path) -> None:
    shelf = shapes(deliver(tmp_path, (NEW,)))
    for sku, photo in ((NEW, "3.png"), ("sku 0", "4.png")):
        matched = live.command("match", str(shelf / "all/test" / sku / photo), "--top-k", "1", "--json")
        assert matched.code == 0, matched.err
        assert json.loads(matched.out)[0][0]["sku"] == sku


@pytest.mark.timeout(900)
def test_a_training_beside_another_encoder_is_stale_and_starts_nothing(
    live: Live,
    trained: list[Run],
) -> None:
    before = len(refreshes(live))
    assert go_on(live, trained[1]) == "failed"
    assert task_states(live, trained[1])["register"] == "failed"
    assert champion(live) == 4 and outcomes(live)[-1] == (5, "stale")
    assert registry(live).resolve("challenger").version == 5
    assert len(refreshes(live)) == before, "a person decides"


@pytest.mark.timeout(900)
def test_by_hand_its_encoder_is_judged_beside_the_new_champion(live: Live) -> None:
    known, before = trainings(live), champion(live)
    ended = live.command("refresh", "--encoder", "5")
    assert ended.code == 0, ended.err
    run = REFRESH, str(refreshes(live)[-1]["dag_run_id"])
    result = assert_judged_again(live, run, encoder=5, beside=before)
    assert result["decision"] in ("keep", "promote"), "both tell all products apart"
    assert champion(live) == (result["version"] if result["decision"] == "promote" else before)
    assert trainings(live) == known


@pytest.mark.timeout(900)
def test_data_that_validation_refuses_leaves_what_serves(live: Live) -> None:
    before = champion(live), outcomes(live)
    ended = live.command("refresh", "--set", "validate.min_skus=99")
    assert ended.code == 13 and "At least 99 SKUs have gallery images" in ended.err, ended.err
    run = REFRESH, str(refreshes(live)[-1]["dag_run_id"])
    assert {name for name, ended in task_states(live, run).items() if ended == "success"} == {"pull"}
    logs = [path for path in (live.settings.home_dir / "airflow/logs").rglob("*") if path.is_file()]
    matching = [path for path in logs if "What serves stays." in path.read_text("utf-8")]
    assert [path for path in matching if run[1] in str(path) and "validate" in str(path)], matching
    assert (champion(live), outcomes(live)) == before
