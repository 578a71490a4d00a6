"""Releases by people: a waiting challenger, an approval, a rejection, a late answer, and a rollback."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from skumatch.bundle import read_gallery, verify_bundle, write_bundle
from skumatch.promotion import waiting
from skumatch.promotion.promotion import history
from skumatch.registry.journal import breaks
from skumatch.registry.registry import COMPARED_TAG, ENCODER_TAG, Registry
from skumatch.servers.airflow_api import Airflow
from tests.conftest import wait_until
from tests.e2e.live import PLACE, Live, serving
from tests.e2e.needles import places
from tests.proving import IN_PROOF

pytestmark = [pytest.mark.live, IN_PROOF]  # tests/commands/test_release.py is the daily one
RELEASE, ROLLBACK = "skumatch_release", "skumatch_rollback"
SECONDS = 180.0
SETTLED = 3.0  # an answer within a moment of the question can get lost in Airflow 3.3


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("release") / PLACE
    with serving(root, "ann:admin,vic:viewer", ("release.approval=required",)) as live:
        yield live


@pytest.fixture(scope="module")
def registry(live: Live) -> Registry:
    return Registry(live.settings.mlflow_url)


class Person:
    """Someone signed in to Airflow by name and password."""

    def __init__(self, live: Live, name: str) -> None:
        password = json.loads(live.settings.passwords_file.read_text("utf-8"))[name]
        self.url = live.settings.airflow_url
        self.headers: dict[str, str] = {}
        response = self._call("POST", "/auth/token", username=name, password=password)
        self.headers = {"Authorization": f"Bearer {response.json()['access_token']}"}

    def answers(self, run: str, choice: str, why: str = "") -> httpx.Response:
        time.sleep(SETTLED)
        path = f"/api/v2/dags/{RELEASE}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
        return self._call("PATCH", path, chosen_options=[choice], params_input={"why": why})

    def starts(self, dag: str, **conf: Any) -> str:
        answer = self._call("POST", f"/api/v2/dags/{dag}/dagRuns", logical_date=None, conf=conf)
        return str(answer.raise_for_status().json()["dag_run_id"])

    def _call(self, method: str, path: str, **body: Any) -> httpx.Response:
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False, headers=self.headers) as client:
            return client.request(method, path, json=body)


def runs(live: Live, dag: str) -> list[dict[str, Any]]:
    with Airflow(live.settings) as airflow:
        return list(airflow.get(f"/dags/{dag}/dagRuns", order_by="-run_after")["dag_runs"])


def tasks(live: Live, dag: str, run: str) -> dict[str, str]:
    with Airflow(live.settings) as airflow:
        return {
            row["task_id"]: str(row["state"])
            for row in airflow.get(f"/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        }


def ended(live: Live, dag: str, run: str) -> dict[str, str]:
    """The states of its tasks, once the run has ended."""
    wait_until(lambda: state(live, dag, run) in ("success", "failed"), SECONDS)
    return tasks(live, dag, run)


def state(live: Live, dag: str, run: str) -> str:
    return str(next(row for row in runs(live, dag) if row["dag_run_id"] == run)["state"])


def asked(live: Live, run: str) -> None:
    wait_until(lambda: tasks(live, RELEASE, run).get("approve") == "awaiting_input", SECONDS)


def question(live: Live, run: str) -> dict[str, Any]:
    with Airflow(live.settings) as airflow:
        return dict(airflow.get(f"/dags/{RELEASE}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"))


def champion(registry: Registry) -> int | None:
    version = registry.champion()
    return version.version if version else None


def challenger(registry: Registry, root: Path, compared: int, similarity: float) -> int:
    """Another version as of a retrain: the first version's parts with another threshold.

    Its tag names an encoder of its own: a release of only the first one's gallery would make no version
    stale.
    """
    source, folder = registry.download_bundle(registry.resolve("1"), root / "one"), root / f"{similarity}"
    manifest = verify_bundle(source)
    write_bundle(
        folder,
        source / "encoder",
        read_gallery(source / "gallery.parquet", manifest.dim),
        {"similarity": similarity},
        [],
    )
    tags = {COMPARED_TAG: str(compared), "skumatch.decision": "Promoted the challenger: a gain."}
    tags[ENCODER_TAG] = hashlib.sha256(str(similarity).encode()).hexdigest()
    version = registry.register(folder, registry.resolve("1").run_id, tags, "")
    shutil.rmtree(folder)
    return version


def test_a_challenger_waits_and_a_named_person_makes_it_champion(live: Live, registry: Registry) -> None:
    ended_run = live.command("run", "--data", str(live.delivery))
    assert ended_run.code == 0, ended_run.err
    assert champion(registry) is None and registry.resolve("challenger").version == 1
    assert "approval" in ended_run.out
    wait_until(lambda: runs(live, RELEASE), SECONDS)
    run = runs(live, RELEASE)[0]["dag_run_id"]
    asked(live, run)
    put = question(live, run)
    assert put["subject"] == "Make version 1 the champion?"
    assert (
        "first champion" in put["body"]
        and "report/report.html" in put["body"]
        and registry.resolve("1").bundle in put["body"]
    )
    assert Person(live, "vic").answers(run, "Approve").status_code == 403
    assert champion(registry) is None
    Person(live, "ann").answers(run, "Approve", "looks right").raise_for_status()
    assert ended(live, RELEASE, run) == {"propose": "success", "approve": "success", "promote": "success"}
    (entry,) = history(registry)
    assert champion(registry) == 1 and entry.asked.who == "ann" and "looks right" in entry.asked.why
    with Airflow(live.settings) as airflow:
        events = airflow.get("/assets/events", order_by="-timestamp")["asset_events"]
    assert {(event["name"], event["extra"]["version"]) for event in events} == {
        ("skumatch_champion", 1),
        ("skumatch_challenger", 1),
    }


def test_a_rejection_promotes_nothing(live: Live, registry: Registry, tmp_path: Path) -> None:
    version = challenger(registry, tmp_path, 1, 0.2)
    ann = Person(live, "ann")
    run = ann.starts(RELEASE, version=version)
    asked(live, run)
    ann.answers(run, "Reject").raise_for_status()
    assert ended(live, RELEASE, run) == {"propose": "success", "approve": "success", "promote": "skipped"}
    assert champion(registry) == 1 and len(history(registry)) == 1


def test_two_proposals_wait_side_by_side_and_the_later_approval_is_refused(
    live: Live, registry: Registry, tmp_path: Path
) -> None:
    """A rollback from Airflow works, too."""
    second, third = challenger(registry, tmp_path, 1, 0.3), challenger(registry, tmp_path, 1, 0.4)
    ann = Person(live, "ann")
    first, late = ann.starts(RELEASE, version=second), ann.starts(RELEASE, version=third)
    for run in (first, late):
        asked(live, run)
    for run in (first, late):
        ann.answers(run, "Approve").raise_for_status()
        wait_until(lambda run=run: tasks(live, RELEASE, run).get("promote") in ("success", "failed"), SECONDS)
    assert ended(live, RELEASE, first)["promote"] == "success" and champion(registry) == second
    assert ended(live, RELEASE, late) == {"propose": "success", "approve": "success", "promote": "failed"}
    back = ann.starts(ROLLBACK, why="it takes tea for cola")
    assert ended(live, ROLLBACK, back) == {"rollback": "success"}
    entries = history(registry)
    assert champion(registry) == 1 and (entries[-1].asked.action, entries[-1].asked.who) == (
        "rollback",
        "ann",
    )
    assert breaks(entries) == []


def test_a_champion_that_changed_while_the_question_waited_is_not_replaced(
    live: Live, registry: Registry, tmp_path: Path
) -> None:
    version = challenger(registry, tmp_path, 1, 0.5)
    ann = Person(live, "ann")
    run = ann.starts(RELEASE, version=version)
    asked(live, run)
    assert live.command("rollback", str(version - 2)).code == 0, "any earlier champion"
    before = champion(registry)
    ann.answers(run, "Approve").raise_for_status()
    assert ended(live, RELEASE, run) == {"propose": "success", "approve": "success", "promote": "failed"}
    assert champion(registry) == before == version - 2
    last = history(registry)[-1]
    assert last.after is not None and (last.asked.who, last.after.outcome) == ("ann", "stale")


def test_the_command_line_does_not_go_round_the_approval(live: Live, registry: Registry) -> None:
    before = champion(registry)
    ended = live.command("promote", "1")
    assert (ended.code, champion(registry)) == (
        40,
        before,
    ) and "Promotion needs a person's approval" in ended.err


def test_proposals_of_one_moment_are_all_asked_about(live: Live, registry: Registry, tmp_path: Path) -> None:
    """Airflow passes on the first of two events; the run that it starts reports the other version."""
    before = champion(registry) or 0
    versions = {challenger(registry, tmp_path, before, similarity) for similarity in (0.8, 0.9)}
    for version in versions:
        waiting.wait(registry, version, "approval")
    earlier = {row["dag_run_id"] for row in runs(live, RELEASE)}
    with Airflow(live.settings) as airflow:
        assets = airflow.get("/assets", name_pattern="skumatch_challenger")["assets"]
        for version in versions:
            airflow.post("/assets/events", {"asset_id": assets[0]["id"], "extra": {"version": version}})
    wait_until(lambda: len(open_questions(live, earlier)) == 2, SECONDS)
    asking = open_questions(live, earlier)
    subjects = {question(live, run)["subject"] for run in asking}
    assert subjects == {f"Make version {version} the champion?" for version in versions}
    for run in asking:
        Person(live, "ann").answers(run, "Reject").raise_for_status()
        assert ended(live, RELEASE, run)["promote"] == "skipped"
    assert champion(registry) == before


def open_questions(live: Live, earlier: set[str]) -> list[str]:
    """The runs, but for the earlier ones, that wait for a person's answer."""
    later = [row["dag_run_id"] for row in runs(live, RELEASE) if row["dag_run_id"] not in earlier]
    return [run for run in later if tasks(live, RELEASE, run).get("approve") == "awaiting_input"]


def test_without_names_an_approval_is_refused_at_once(live: Live) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "users", None)
        ended = live.command("retrain")
    assert ended.code == 10 and ended.err.count("\n") == 1
    assert "nobody would be known to have approved" in ended.err and "SKUMATCH_AIRFLOW_USERS" in ended.err


def test_a_task_that_breaks_promotes_nothing(live: Live, registry: Registry, tmp_path: Path) -> None:
    """That of `approve` is the last test's."""
    assert (live.tasks(RELEASE), live.tasks(ROLLBACK)) == ({"propose", "approve", "promote"}, {"rollback"}), (
        "a task that no test breaks"
    )
    version, ann = challenger(registry, tmp_path, champion(registry) or 0, 0.6), Person(live, "ann")
    before = champion(registry), history(registry)
    live.break_("rollback", "DataError")
    back = ann.starts(ROLLBACK, why="it sees nothing")
    assert ended(live, ROLLBACK, back) == {"rollback": "failed"} and state(live, ROLLBACK, back) == "failed"
    live.break_("propose", "DataError")
    run = ann.starts(RELEASE, version=version)
    assert ended(live, RELEASE, run) == {
        "propose": "failed",
        "approve": "upstream_failed",
        "promote": "upstream_failed",
    }
    assert state(live, RELEASE, run) == "failed"
    live.break_("promote", "DataError")
    live.clear(RELEASE, run)
    asked(live, run)
    ann.answers(run, "Approve").raise_for_status()
    assert ended(live, RELEASE, run) == {"propose": "success", "approve": "success", "promote": "failed"}
    assert state(live, RELEASE, run) == "failed"
    live.mend()
    assert (champion(registry), history(registry)) == before


def test_passwords_stay_with_their_owner(live: Live) -> None:
    file = live.settings.passwords_file
    passwords = json.loads(file.read_text("utf-8"))
    assert set(passwords) == {"skumatch", "ann", "vic"} and file.stat().st_mode & 0o077 == 0
    places_by_word = places([*passwords.values(), "ann"], live.root, live.said)
    assert "home/airflow/airflow.db" in places_by_word.pop("ann")
    assert list(places_by_word.values()) == [{"home/airflow-passwords.json"}] * 3


def last_parsed(live: Live) -> str:
    """When Airflow last read the file of the release's DAG."""
    with Airflow(live.settings) as airflow:
        return str(airflow.get(f"/dags/{RELEASE}")["last_parsed_time"])


def test_nobody_answers_and_nothing_is_promoted(live: Live, registry: Registry, tmp_path: Path) -> None:
    dag = live.project / "dags/release.py"
    text = dag.read_text("utf-8")
    assert text.count("timedelta(hours=APPROVAL_HOURS)") == 1
    before = champion(registry)
    assert before is not None
    version = challenger(registry, tmp_path, before, 0.7)
    parsed = last_parsed(live)
    dag.write_text(text.replace("timedelta(hours=APPROVAL_HOURS)", "timedelta(seconds=2)"), "utf-8")
    wait_until(lambda: last_parsed(live) != parsed, 120)
    parsed = last_parsed(live)  # by a reading that may have begun before the file was written
    wait_until(lambda: last_parsed(live) != parsed, 120)
    run = Person(live, "ann").starts(RELEASE, version=version)
    assert ended(live, RELEASE, run) == {
        "propose": "success",
        "approve": "failed",
        "promote": "upstream_failed",
    }
    assert champion(registry) == before


def test_tasks_and_what_the_runs_were_about_are_told_to_openlineage(live: Live, registry: Registry) -> None:
    assert live.events
    events = [json.loads(line) for line in live.events.read_text("utf-8").splitlines()]
    jobs = {event["job"]["name"] for event in events}
    assert {
        "skumatch_retrain.pull",
        "skumatch_retrain.train",
        "skumatch_retrain.register",
        "skumatch_retrain",
    } <= jobs
    about = [event for event in events if "skumatch_decision" in event["run"]["facets"]]
    bundles = {event["outputs"][0]["facets"]["skumatch_model"]["bundle"] for event in about}
    first = registry.resolve("1")  # others of these tests came by no run
    assert first.bundle in bundles
    assert {event["inputs"][0]["facets"]["skumatch_data"]["version"] for event in about} == {
        f"md5:{first.data}"
    }
