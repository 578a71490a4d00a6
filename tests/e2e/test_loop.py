"""`skumatch run` and `retrain` through a live Airflow and MLflow: complete, cached and failing runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex

import psutil
import pytest
import yaml

from skumatch.files import sha256
from skumatch.lineage.lineage import record_hash, stages_of
from skumatch.pipeline.repository import md5_of
from skumatch.registry.registry import ModelRef
from skumatch.servers.airflow_api import RETRAIN, Airflow
from skumatch.started import recorded
from tests.conftest import ROOT, free_port, git, serving_mlflow, wait_until
from tests.e2e.live import NAMES, PLACE, PROXY_PASSWORD, SPOKEN, Ended, Live, serving
from tests.e2e.needles import SAID, USER, places
from tests.pipeline.home import TaskFailed
from tests.proving import IN_PROOF, PROVING

pytestmark = pytest.mark.live
Facts = tuple[list[ModelRef], list[str]]  # versions, and MLflow's ids of runs
STAGES = tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"])
TASKS = ("pull", *STAGES, "register")
# Other inputs than the first runs had, so that no stage is cached before it has run once.
OTHER = ("--set", "seed=8", "--set", "validate.min_skus=3")
# How each task after the first stage ends, and the command's exit code; others end as OTHERWISE.
OTHERWISE = "DataError", 11
BREAKS = {
    "frozen": ("WeightsError", 14),
    "train": ("SIGKILL", 32),
    "embed": ("WeightsError", 14),
    "bundle": ("BundleError", 16),
    "gate": ("ParameterError", 10),
    "report": ("Fenced", 22),
    "register": ("StaleChampion", 18),
}
IN_ENVIRONMENT = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD")
SECRETS = {name: f"secret{token_hex(12)}" for name in (*IN_ENVIRONMENT, "mlflow", "git", "dvc")}
SECRETS["proxy"] = PROXY_PASSWORD
# Where a user put them.
MAY_HOLD = {"git": {"project {x}/.git/config"}, "dvc": {"project {x}/.dvc/config.local"}}
# What must be found, and where: or it would say nothing that secrets are not.
REACHED = {
    SPOKEN: ("home/airflow/logs", SAID),
    "min_skus": ("home/airflow/airflow.db", "mlflow/mlflow.db", "mlflow/artifacts"),
    "skumatch stage gate": (
        "home/airflow/airflow.db",
        "mlflow/artifacts",
    ),  # in the lock, which is in each task's XCom
    NAMES[0]: ("home/reports", "mlflow/artifacts"),
    RETRAIN: ("home/logs",),
}


@pytest.fixture(scope="module")
def mlflow() -> Iterator[ExitStack]:
    """Holds MLflow, a server of the user's own; closing it stops the server."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, mlflow: ExitStack) -> Iterator[Live]:
    """Secrets are wherever a user may have them, so that the last test finds out where they went."""
    root = tmp_path_factory.mktemp("loop") / PLACE
    with pytest.MonkeyPatch.context() as patch:
        for name in IN_ENVIRONMENT:
            patch.setenv(name, SECRETS[name])
        patch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        url = mlflow.enter_context(serving_mlflow(root / "mlflow", free_port()))
        with serving(root, mlflow=url.replace("://", f"://{USER}:{SECRETS['mlflow']}@")) as live:
            git(
                live.project,
                "remote",
                "add",
                "origin",
                f"https://{USER}:{SECRETS['git']}@example.org/skumatch.git",
            )
            backup = (
                f"['remote \"backup\"']\n    url = https://{USER}:{SECRETS['dvc']}@example.org/skumatch\n"
            )
            (live.project / ".dvc/config.local").write_text(backup, "utf-8")
            yield live


@pytest.fixture(scope="module")
def first(live: Live) -> Ended:
    return live.command("run", "--data", str(live.delivery))


@pytest.fixture(scope="module")
def second(live: Live, first: Ended) -> Ended:
    return live.command("retrain")


@pytest.fixture(scope="module")
def third(live: Live, second: Ended) -> Ended:
    return live.command("retrain")


def test_the_first_run_registers_a_champion_and_sums_it_up(live: Live, first: Ended) -> None:
    assert first.code == 0, first.err
    assert "48 images of 8 SKUs" in first.out
    assert [line.split()[:2] for line in first.out.splitlines() if line.startswith(TASKS)] == [
        [task, "done"] for task in TASKS
    ]
    for words in (
        "First champion",
        "top-1",
        "interval",
        "top-3",
        "top-5",
        "challenger",
        "floor: passed",
        "orchestration",
    ):
        assert words in first.out
    assert first.fact("Version") == "1 (challenger = 1, champion = 1)"
    assert first.fact("Cached") == "nothing"
    assert "<html" in Path(first.fact("Report")).read_text("utf-8")
    (version,) = live.versions()
    assert (version.version, version.aliases) == (1, ("challenger", "champion"))
    assert live.states() == ("success", dict.fromkeys(TASKS, "success"))
    assert live.tasks(RETRAIN) == set(TASKS), "a task that no test below breaks"


def test_names_that_came_garbled_read_right_on_the_page_and_in_the_terminal(live: Live, first: Ended) -> None:
    assert "names repaired: CP437 mojibake" in first.out
    page = Path(first.fact("Report")).read_text("utf-8")
    assert NAMES[0] in page and NAMES[1] in page
    assert not any(name.encode().decode("cp437") in page for name in NAMES)
    listed = live.command("data", "inspect")
    photo = live.root / "delivery/all/test" / NAMES[0] / "5.png"
    matched = live.command("match", str(photo))
    assert NAMES[0] in matched.out and any(name in listed.out for name in NAMES), matched.err + listed.err


def test_a_second_run_trains_nothing_and_keeps_the_champion_by_identity(live: Live, second: Ended) -> None:
    assert second.code == 0, second.err
    assert "Champion kept" in second.out
    assert "identity: nothing new (the challenger is the same bundle as the champion" in second.out
    assert second.fact("Version").startswith("none registered")
    assert second.fact("Cached").split(", ")[:4] == ["validate", "split", "frozen", "train"]
    assert [version.version for version in live.versions()] == [1]


def test_a_third_run_is_cached_throughout_and_says_so(live: Live, third: Ended) -> None:
    assert third.code == 0, third.err
    assert third.fact("Cached") == "cached throughout"
    assert "Champion kept" in third.out
    assert [version.version for version in live.versions()] == [1]
    assert [run.info.status for run in live.runs()] == ["FINISHED"] * 3


def test_the_record_of_a_run_names_everything_by_its_hash(live: Live, third: Ended, tmp_path: Path) -> None:
    artifacts, (run, *_) = live.artifacts(tmp_path), live.runs()
    record, lock = (
        json.loads((artifacts / "lineage.json").read_text("utf-8")),
        (artifacts / "dvc.lock").read_text("utf-8"),
    )
    assert run.data.tags["skumatch.lineage"] == record_hash(record) == sha256(artifacts / "lineage.json")
    assert record["stages"] == {name: stage.model_dump() for name, stage in stages_of(lock).items()}
    inputs, results = record["inputs"], record["results"]
    assert inputs["data"] == f"md5:{md5_of((live.project / 'data.dvc').read_text())}"
    assert (inputs["params"], inputs["environment"]) == (
        sha256(artifacts / "params.yaml"),
        sha256(artifacts / "constraints.txt"),
    )
    assert inputs["overrides"] == []
    assert (results["decision"], results["verdict"]) == (sha256(artifacts / "gate/decision.json"), "keep")
    for result, candidate in (("challenger", "challenger"), ("champion", "refreshed")):
        assert results[result] == sha256(artifacts / f"evaluate/{candidate}.json")
    (version,) = live.versions()
    assert results["bundle"] == inputs["champion"] == version.bundle
    assert (record["code"]["commit"], record["code"]["dirty"]) == (
        git(live.project, "rev-parse", "HEAD").strip(),
        False,
    )


def test_every_hash_of_the_lock_is_in_the_remote_and_outs_are_the_next_stages_deps(
    live: Live, third: Ended, tmp_path: Path
) -> None:
    stages = yaml.safe_load((live.artifacts(tmp_path) / "dvc.lock").read_text("utf-8"))["stages"]
    assert set(stages) == set(STAGES)
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    deps = {
        (dep["path"], dep["md5"]) for stage in stages.values() for dep in stage["deps"] if dep["path"] in outs
    }
    assert {name for name, _ in deps} == set(outs) - {"out/report"}
    assert all(outs[name] == md5 for name, md5 in deps)
    for md5 in outs.values():
        assert (live.worker.remote / "files/md5" / md5[:2] / md5[2:]).is_file()


def test_the_audit_from_airflow_holds_and_leaves_its_page(live: Live, third: Ended) -> None:
    with Airflow(live.settings) as airflow:
        run = airflow.post("/dags/skumatch_audit/dagRuns", {"logical_date": None})
        path = f"/dags/skumatch_audit/dagRuns/{run['dag_run_id']}"
        wait_until(lambda: airflow.get(path)["state"] in ("success", "failed"), 180)
        assert airflow.get(path)["state"] == "success"
    page = (live.settings.home_dir / "reports/lineage-skumatch-1.html").read_text("utf-8")
    assert "The chain holds" in page


@pytest.fixture(scope="module")
def red(live: Live, third: Ended) -> tuple[Facts, Ended]:
    """The state before, and a run on other inputs that failed in its first stage.

    The tests below repair each stage and break the next.
    """
    before = facts(live)
    live.break_("validate", "ValidationFailed")
    return before, live.command("retrain", *OTHER)


@IN_PROOF
def test_a_dry_run_writes_nothing_to_mlflow(live: Live, third: Ended) -> None:
    before = [run.info.run_id for run in live.runs()]
    ended = live.command("retrain", "--dry-run", "--set", "gate.margin=0.1")
    assert ended.code == 0, ended.err
    assert "dry run: nothing was registered" in ended.out
    assert (ended.fact("Version"), ended.fact("Cached")) == (
        "none registered",
        "validate, split, frozen, train, embed, evaluate, bundle",
    )
    assert [run.info.run_id for run in live.runs()] == before
    assert [version.aliases for version in live.versions()] == [("challenger", "champion")]


def test_a_scheduled_run_on_the_same_data_has_nothing_to_do(live: Live, third: Ended) -> None:
    with pytest.raises(TaskFailed) as caught:
        live.worker.task({"run": "scheduled__1", "scheduled": True}, "pull")
    assert caught.value.code == 99
    assert "same as in the last finished run" in caught.value.error["reason"]


def test_a_pull_that_fails_ends_the_run_in_its_own_words(live: Live, third: Ended) -> None:
    before = facts(live)
    ended = live.command("retrain", "--data-ref", "nowhere")
    assert (ended.code, ended.err.count("\n")) == (11, 1)
    assert "pull: Git ref 'nowhere' has no data.dvc" in ended.err
    assert_red(live, "pull", before)


def test_a_broken_stage_ends_retrain_in_the_stages_own_words(live: Live, red: tuple[Facts, Ended]) -> None:
    before, ended = red
    assert (ended.code, ended.err.count("\n")) == (13, 1), ended.err
    assert f"✗ validate: validate is broken by a test ({SPOKEN}); mend it." in ended.err
    assert "Version" not in ended.out
    assert_red(live, "validate", before)


@pytest.mark.parametrize("task", TASKS[2:] if PROVING else ("register",))
def test_a_broken_task_ends_red_in_its_own_words_and_promotes_nothing(
    live: Live, red: object, task: str
) -> None:
    before, (error, code) = facts(live), BREAKS.get(task, OTHERWISE)
    live.break_(task, error)
    ended = live.go_on()
    own = (
        f"Stage {task} ended without a word of its own"
        if error == "SIGKILL"
        else f"{task} is broken by a test ({SPOKEN}); mend it."
    )
    assert (ended.code, ended.err[: len(own) + len(task) + 4]) == (code, f"✗ {task}: {own}")
    assert ended.out.count("tries again") == (2 if error == "SIGKILL" else 0)
    assert_red(live, task, before)


def test_the_mended_run_goes_on_where_it_stopped_and_ends_green(
    live: Live, red: object, tmp_path: Path
) -> None:
    finished = facts(live)[1]
    live.mend()
    ended = live.go_on()
    assert (ended.code, ended.err) == (0, "")
    assert live.states() == ("success", dict.fromkeys(TASKS, "success"))
    assert len(facts(live)[1]) == len(finished) + 1
    assert json.loads((live.artifacts(tmp_path) / "lineage.json").read_text())["inputs"]["overrides"] == list(
        OTHER[1::2]
    )


@pytest.fixture(scope="module")
def away(live: Live, red: object, mlflow: ExitStack) -> Ended:
    """A run without MLflow: the last one, since it doesn't come back."""
    (scheduler,) = (server for server in recorded(live.settings.servers_file) if server.name == "scheduler")
    inherited = psutil.Process(scheduler.pid).environ()
    assert (
        all(SECRETS[name] == inherited[name] for name in IN_ENVIRONMENT)
        and SECRETS["mlflow"] in inherited["SKUMATCH_MLFLOW"]
    )
    assert SECRETS["proxy"] in inherited["http_proxy"], "the user's own proxy, for hosts beyond this machine"
    mlflow.close()
    return live.command("retrain")


def test_a_registry_that_is_away_ends_the_run_in_one_sentence(live: Live, away: Ended) -> None:
    assert (away.code, away.err.count("\n")) == (20, 1)
    assert "✗ pull: MLflow at http://127.0.0.1:" in away.err and live.states()[0] == "failed"


def test_no_secret_is_in_anything_that_was_written_or_said(live: Live, away: Ended) -> None:
    key = (live.settings.home_dir / "airflow.secret").read_text("utf-8")
    places_by_word = places([*SECRETS.values(), key, *REACHED], live.root, live.said)
    assert {
        name: places_by_word[secret] for name, secret in SECRETS.items() if places_by_word[secret]
    } == MAY_HOLD
    assert places_by_word[key] == {"home/airflow.secret"}
    private = ("home/airflow.secret", *MAY_HOLD["dvc"])
    assert all((live.root / name).stat().st_mode & 0o077 == 0 for name in private)
    missed = [
        (word, place)
        for word, there in REACHED.items()
        for place in there
        if not any(name.startswith(place) for name in places_by_word[word])
    ]
    assert missed == []


def facts(live: Live) -> Facts:
    """All that a failed run must not change; a run whose data was refused is recorded as failed."""
    return live.versions(), [run.info.run_id for run in live.runs() if run.info.status != "FAILED"]


def assert_red(live: Live, broken: str, before: Facts) -> None:
    place = TASKS.index(broken)
    state, tasks = live.states()
    assert state == "failed"
    assert [tasks[task] for task in TASKS] == ["success"] * place + ["failed"] + ["upstream_failed"] * (
        len(TASKS) - place - 1
    )
    assert facts(live) == before
