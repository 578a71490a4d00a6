"""The last tasks of a run, driven one by one against a real MLflow, as by Airflow but without it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from skumatch.pipeline.repository import md5_of
from skumatch.promotion import waiting
from skumatch.promotion.waiting import APPROVED_TAG
from skumatch.registry.registry import COMPARED_TAG, Registry
from skumatch.registry.tracking import EXPERIMENT, Tracking
from skumatch.stages.runner import STAGES
from tests.conftest import make_project
from tests.pipeline.home import Home, TaskFailed
from tests.pipeline.middleman import Middleman, between
from tests.proving import IN_PROOF

SKUS, TRAIN, TEST = 10, 4, 2
LONG_SIDE, RATIO = 120, 3.6


def shapes(folder: Path) -> Path:
    """SKUs whose pictures differ in aspect ratio only: alike when squashed to a canvas, not when padded."""
    rng = np.random.default_rng(3)
    for sku, power in enumerate(np.linspace(-1, 1, SKUS)):
        aspect = RATIO**power
        size = (round(LONG_SIDE * min(1, aspect)), round(LONG_SIDE / max(1, aspect)))
        for number in range(TRAIN + TEST):
            side = "train" if number < TRAIN else "test"
            noise = Image.fromarray(rng.integers(200, 256, (8, 8, 3), dtype=np.uint8))
            path = folder / "all" / side / f"sku {sku}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise.resize(size, Image.Resampling.NEAREST).save(path)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> Home:
    root = tmp_path_factory.mktemp("tasks")
    home = Home(make_project(root / "project"), root / "home", root / "remote", mlflow_url)
    imported = home.command("data", "import", str(shapes(root / "delivery")))
    assert imported.returncode == 0, imported.stderr
    return home


@pytest.fixture(scope="module")
def worse(home: Home) -> dict[str, Any]:
    """A run up to its report, whose model can't tell the SKUs apart; there was no champion."""
    return home.stages(pull(home, "worse", "tasks"))


@pytest.fixture
def middleman(mlflow_url: str) -> Iterator[Middleman]:
    with between(mlflow_url) as server:
        yield server


def pull(home: Home, run: str, model: str, *overrides: str, lock: str = "") -> dict[str, Any]:
    """Fix the inputs of a run for a registered model of its own.

    It starts from `lock`, whichever other runs MLflow holds.
    """
    return home.pull(run, f"release.model_name={model}", *overrides) | {"lock": lock}


def mlflow_runs(home: Home, run: str) -> list[Any]:
    with Tracking(home.mlflow).client() as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        return (
            list(client.search_runs([experiment.experiment_id], f"tags.`skumatch.run` = '{run}'"))
            if experiment
            else []
        )


def milliseconds(moment: str) -> int:
    """Return a message's time as MLflow has it."""
    return round(1000 * datetime.fromisoformat(moment).timestamp())


def aliases(home: Home, model: str) -> dict[int, tuple[str, ...]]:
    return {ref.version: ref.aliases for ref in Registry(home.mlflow, model).versions()}


def test_data_that_fails_ends_the_run_with_a_page_that_stays_and_registers_nothing(home: Home) -> None:
    message = pull(home, "failing", "failing", "validate.min_skus=99")
    with pytest.raises(TaskFailed) as caught:
        home.stages(message, "validate")
    error = caught.value.error
    assert (caught.value.code, error["kind"], error["retry"]) == (13, "ValidationFailed", False)
    page = home.home / "reports/failing/validate/validation.html"
    assert (
        "At least 99 SKUs have gallery images (10 SKUs)" in error["sentence"]
        and f" {page} shows them. " in error["sentence"]
    )
    assert "At least 99 SKUs have gallery images" in page.read_text("utf-8")
    (failed,) = mlflow_runs(home, "failing")
    assert (failed.info.status, failed.data.tags["skumatch.data"]) == ("FAILED", message["data"])
    assert failed.info.start_time == milliseconds(message["started"])
    assert "the stage `validate` refused the data" in failed.data.tags["mlflow.note.content"]
    assert aliases(home, "failing") == {}


def test_refused_data_is_tried_again_by_hand_or_where_something_changed(home: Home) -> None:
    """A run that starts by itself is skipped; otherwise it would fail every hour, with a notice each."""
    refused = ("release.model_name=refused", "validate.min_skus=99")
    with pytest.raises(TaskFailed):
        home.stages(home.pull("by-itself", *refused, scheduled=True), "validate")
    with pytest.raises(TaskFailed) as caught:
        home.pull("an-hour-later", *refused, scheduled=True)
    assert caught.value.code == 99
    words = "The stage validate refused this data with this code and these parameters in the run by-itself"
    assert words in caught.value.error["reason"]
    assert home.pull("by-hand", *refused)["basis"]
    assert home.pull("other-parameters", refused[0], "validate.min_skus=98", scheduled=True)["basis"]
    code = home.project / "skumatch/__init__.py"
    text = code.read_text("utf-8")
    code.write_text(f"{text}# mended\n", "utf-8")
    try:
        assert home.pull("other-code", *refused, scheduled=True)["basis"]
    finally:
        code.write_text(text, "utf-8")


def test_stages_in_one_task_are_what_they_are_in_two(home: Home) -> None:
    """A task of a refresh does several, in one workspace and with one claim."""
    message = pull(home, "together", "together", "seed=99")
    together = home.task(message, "stage", "validate", "split")
    assert (
        set(together["seconds"]) == set(together["machines"]) == {"validate", "split"}
        and not together["cached"]
    )
    assert set(yaml.safe_load(together["lock"])["stages"]) == {"validate", "split"}
    apart = home.task(home.task(message, "stage", "validate"), "stage", "split")
    assert apart["lock"] == together["lock"] and apart["cached"] == ["validate", "split"]
    assert apart["started"] == message["started"] < together["ended"] < apart["ended"], "cached or not"
    again = home.task(message | {"lock": together["lock"]}, "stage", "validate", "split")
    assert again["lock"] == together["lock"] and again["cached"] == ["validate", "split"]
    assert not list((home.home / "workspaces/together").iterdir())


def test_after_a_stage_that_fails_its_task_does_no_other(home: Home) -> None:
    with pytest.raises(TaskFailed) as caught:
        home.task(pull(home, "broken", "broken", "validate.min_skus=99"), "stage", "validate", "split")
    assert (caught.value.code, caught.value.error["kind"]) == (13, "ValidationFailed")
    assert "stage split" not in caught.value.output


def test_a_message_says_what_kind_of_run_it_is_of_and_of_which_data(home: Home) -> None:
    pointer = (home.project / "data.dvc").read_text("utf-8")
    message = home.pull("kind", "release.model_name=kinds")
    assert (message["kind"], message["data"]) == ("retrain", md5_of(pointer))


def test_a_dry_run_writes_nothing_to_mlflow(home: Home, worse: dict[str, Any], middleman: Middleman) -> None:
    before, behind = aliases(home, "tasks"), replace(home, mlflow=middleman.url)
    message = behind.pull("dry", "release.model_name=tasks", dry_run=True)
    summary = behind.task(message | {"lock": worse["lock"]}, "register")
    assert middleman.asked and middleman.writes == []
    assert (summary["decision"], summary["version"], summary["dry_run"]) == ("first", None, True)
    report = Path(summary["report"])
    assert (
        'href="dry/validate/docs.html"' in report.read_text("utf-8")
        and (report.parent / "dry/validate/docs.html").is_file()
    )
    assert mlflow_runs(home, "dry") == []
    assert aliases(home, "tasks") == before


def test_a_model_under_the_floor_is_recorded_but_never_registered(home: Home, worse: dict[str, Any]) -> None:
    message = home.stages(
        pull(home, "floor", "floor", "gate.floor_top1=0.99", lock=worse["lock"]), "gate", "report"
    )
    summary = home.task(message, "register")
    assert (summary["decision"], summary["version"]) == ("refuse", None)
    assert "below the floor of 99.0 %" in summary["sentence"]
    assert aliases(home, "floor") == {}
    (run,) = mlflow_runs(home, "floor")
    assert (run.info.status, run.data.tags["skumatch.verdict"]) == ("FINISHED", "refuse")


@IN_PROOF
def test_a_slow_bundle_is_measured_again_and_never_cached(home: Home, worse: dict[str, Any]) -> None:
    """A limit that no encoder keeps: each run asks the bundle anew, and none finds an earlier measurement."""
    for run in ("slow", "slow again"):
        message = pull(home, run, "slow", "gate.max_p95_ms=1", lock=worse["lock"])
        with pytest.raises(TaskFailed) as caught:
            home.task(message, "stage", "bundle")
        assert caught.value.code == 23 and caught.value.error["retry"]
        assert "over gate.max_p95_ms = 1; run again" in caught.value.error["sentence"]
    assert home.task(message, "stage", "evaluate")["cached"] == ["evaluate"]


def test_how_the_training_went_is_plotted(home: Home, worse: dict[str, Any]) -> None:
    home.task(worse, "register")
    (run,) = mlflow_runs(home, "worse")
    assert worse["pace"]["images_per_second"] == run.data.metrics["train.images_per_second"] > 0
    for name in ("untrained", "challenger"):
        counts = {kind: run.data.metrics[f"vectors.{kind}.{name}"] for kind in ("computed", "known")}
        assert worse["vectors"][name] == {**counts, "loose": 0} and sum(counts.values()) > 0
    assert (
        0 < run.data.metrics["train.waiting_share"] < 1
        and {"train.loss", "train.top1"} <= run.data.metrics.keys()
    )


@IN_PROOF
def test_a_model_of_uncommitted_code_is_refused(home: Home, worse: dict[str, Any]) -> None:
    stray = home.project / "skumatch" / "stray.py"
    stray.write_text("")
    try:
        message = pull(home, "dirty", "dirty", lock=worse["lock"])
    finally:
        stray.unlink()
    summary = home.task(home.stages(message, "gate", "report"), "register")
    assert (summary["decision"], summary["version"]) == ("refuse", None)
    assert "uncommitted code" in summary["sentence"]
    assert aliases(home, "dirty") == {}


def test_mlflow_going_away_while_registering_is_told_and_the_next_try_registers_once(
    home: Home, worse: dict[str, Any], middleman: Middleman
) -> None:
    behind = replace(home, mlflow=middleman.url)
    message = pull(home, "away", "away", lock=worse["lock"])
    middleman.lost = lambda request: request.endswith("/model-versions/create")
    with pytest.raises(TaskFailed) as caught:
        behind.task(message, "register")
    assert (caught.value.code, caught.value.error["kind"], caught.value.error["retry"]) == (
        20,
        "RegistryUnavailable",
        True,
    )
    assert "Traceback" not in caught.value.output
    assert aliases(home, "away") == {}
    assert [run.info.status for run in mlflow_runs(home, "away")] == [
        "RUNNING"
    ]  # so the next run starts from an older one

    middleman.lost = lambda _: False
    for _ in range(2):  # the second finds all done
        assert behind.task(message, "register")["version"] == 1
    assert aliases(home, "away") == {1: ("challenger", "champion")}
    assert [run.info.status for run in mlflow_runs(home, "away")] == ["FINISHED"]


def test_an_mlflow_that_is_away_from_the_start_is_told_at_once(home: Home, worse: dict[str, Any]) -> None:
    with pytest.raises(TaskFailed) as caught:
        replace(home, mlflow="http://127.0.0.1:9").task(worse | {"run": "off"}, "register")
    assert caught.value.code == 20
    assert "doesn't answer" in caught.value.error["sentence"]
    assert mlflow_runs(home, "off") == []


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param("PUT /api/2.0/mlflow-artifacts", id="upload", marks=IN_PROOF),
        pytest.param("POST /api/2.0/mlflow/registered-models/alias", id="alias"),
    ],
)
def test_a_killed_register_leaves_no_champion_and_the_next_try_makes_one_version(
    home: Home, worse: dict[str, Any], middleman: Middleman, request_: str, request: pytest.FixtureRequest
) -> None:
    model = request.node.callspec.id
    message = pull(home, f"kill-{model}", model, lock=worse["lock"])
    process = replace(home, mlflow=middleman.url).start("register")
    middleman.lost = lambda request: kill_at(process, request, request_)
    process.communicate(json.dumps(message))
    assert process.returncode == -signal.SIGKILL
    assert "champion" not in [alias for names in aliases(home, model).values() for alias in names]

    assert home.task(message, "register")["version"] == 1
    assert aliases(home, model) == {1: ("challenger", "champion")}
    assert len(mlflow_runs(home, f"kill-{model}")) == 1


def kill_at(process: subprocess.Popen[str], request: str, wanted: str) -> bool:
    """Kill all of the task at its first request of that form, which never arrives."""
    if not request.startswith(wanted):
        return False
    os.killpg(process.pid, signal.SIGKILL)
    return True


def test_a_better_model_is_promoted_over_the_champion_it_was_compared_with_and_no_other(
    home: Home, worse: dict[str, Any]
) -> None:
    assert home.task(worse, "register")["version"] == 1
    message = pull(
        home, "better", "tasks", "encoder.resize=pad", lock=worse["lock"]
    )  # now it sees what tells the SKUs apart
    assert message["champion"] == 1
    message = home.stages(message, *STAGES[STAGES.index("frozen") :])

    move_champion(home, None)  # while the run was at work
    with pytest.raises(
        TaskFailed, match="alias of version 1 was removed in MLflow, but version 2 was .* `skumatch rollback`"
    ) as caught:
        home.task(message, "register")
    assert (caught.value.code, caught.value.error["kind"], caught.value.error["retry"]) == (
        18,
        "StaleChampion",
        False,
    )
    assert "champion" not in [alias for names in aliases(home, "tasks").values() for alias in names]
    assert [run.info.status for run in mlflow_runs(home, "better")] == ["FAILED"]

    move_champion(home, 1)
    summary = home.task(message, "register")
    assert (summary["decision"], summary["version"]) == ("promote", 2)
    assert summary["challenger"]["top1"] > summary["refreshed"]["top1"]
    assert aliases(home, "tasks") == {2: ("challenger", "champion"), 1: ("previous",)}
    (run,) = mlflow_runs(home, "better")
    assert run.info.status == "FINISHED" and run.info.end_time == milliseconds(message["ended"])
    assert run.info.start_time == milliseconds(message["started"])
    told_in_mlflow(home, run, summary)
    taken_up_by_a_refresh(home)


def taken_up_by_a_refresh(home: Home) -> None:
    """A refresh that starts by itself judges a version whose encoder waits, whichever event started it."""
    registry = Registry(home.mlflow, "tasks")
    registry.set_tags(1, {COMPARED_TAG: "2", APPROVED_TAG: "ann"})
    waiting.wait(registry, 1, "judgement")
    by_hand = home.pull("by-hand", "release.model_name=tasks", kind="refresh")
    by_itself = home.pull("by-itself", "release.model_name=tasks", kind="refresh", scheduled=True)
    names = ("encoder", "approved_by", "by_itself", "others_wait_for")
    assert [by_hand[name] for name in names] == [None, "", False, ""]
    assert [by_itself[name] for name in names] == [1, "ann", True, ""]


def told_in_mlflow(home: Home, run: Any, summary: dict[str, Any]) -> None:
    """The facts of version 2 that MLflow shows without opening any file of skumatch."""
    registry = Registry(home.mlflow, "tasks")
    with registry.client() as client:
        version = client.get_model_version("tasks", "2")
    assert version.description.startswith(summary["sentence"]) and "report/report.html" in version.description
    assert f"[run better]({registry.run_page(run.info.run_id, registry.shown)})" in version.description
    compared = {
        "skumatch.run": "better",
        "skumatch.compared_with": "1",
        "skumatch.compared_bundle": registry.resolve("1").bundle,
    }
    assert version.tags.items() >= compared.items() and run.data.tags.items() >= compared.items()
    data = md5_of((home.project / "data.dvc").read_text())
    assert [dataset_input.dataset.digest for dataset_input in run.inputs.dataset_inputs] == [data, data]
    assert {
        json.loads(dataset_input.dataset.source)["uri"] for dataset_input in run.inputs.dataset_inputs
    } == {str(home.remote)}


def move_champion(home: Home, version: int | None) -> None:
    """Move the champion, as another user may do in the meantime."""
    with Tracking(home.mlflow).client() as client:
        if version is None:
            client.delete_registered_model_alias("tasks", "champion")
        else:
            client.set_registered_model_alias("tasks", "champion", str(version))
