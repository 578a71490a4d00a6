"""Parameters that the DAGs read: the package's own values, and one sentence for a file that can't be used."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.exceptions import AirflowException
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.config import load_params
from skumatch.cron import cron_problem
from skumatch.errors import ParameterError
from skumatch.params import Params
from skumatch.recipe.knobs import knobs
from skumatch.recipe.overrides import OVERRIDE
from tests.conftest import ROOT
from tests.dags.conftest import DAGS
from tests.proving import count

DEFAULTS = {
    "release.approval_hours": 72,
    "runtime.execution": "subprocess",
    "runtime.parallel_runs": 1,
    "runtime.queues": {"frozen": "gpu", "train": "gpu", "embed": "gpu"},
    "runtime.timeout_hours": {"frozen": 12, "train": 24, "embed": 12},
    "schedule.retrain": "0 3 * * 1",
    "schedule.refresh": "30 * * * *",
    "schedule.on_new_data": True,
    "schedule.debounce_minutes": 5,
}
WORDS = st.text("0123456789+-_.:xo ", min_size=1, max_size=5)


def read(project: Path, params: str | None, stages: str = "stages: {train: {cmd: a}}") -> dict[str, Any]:
    """Run dags/recipe.py with these files, and return its globals."""
    (project / "dvc.yaml").write_text(stages)
    if params is not None:
        (project / "params.yaml").write_text(params, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKUMATCH_PROJECT", str(project))
        return runpy.run_path(str(DAGS / "recipe.py"))


def test_recipe_reads_the_knobs_that_are_marked(tmp_path: Path) -> None:
    """The marks of skumatch/params.py, with its defaults and words.

    And no other DAG file reads params.yaml.
    """
    module = read(tmp_path, "")
    marked = {name: knob for name, knob in knobs().items() if knob.read_with_dags}
    assert set(module["KNOBS"]) == set(marked) == set(DEFAULTS)
    tree = Params().model_dump()
    for name, knob in module["KNOBS"].items():
        section, _, last = name.partition(".")
        assert knob.default == tree[section][last] == DEFAULTS[name]
        assert knob.words == marked[name].words(name)
    assert [path.name for path in DAGS.glob("*.py") if "import yaml" in path.read_text("utf-8")] == [
        "recipe.py"
    ]


def test_each_knob_that_is_left_out_has_its_default(tmp_path: Path) -> None:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    files = ["", "# nothing", "runtime:\nrelease: ~", "{}", yaml.safe_dump(tree)]
    files += [
        yaml.safe_dump({name: value for name, value in tree.items() if name != section})
        for section in ("runtime", "release", "schedule")
    ]
    for name in DEFAULTS:
        section, _, last = name.partition(".")
        files.append(
            yaml.safe_dump(
                tree | {section: {key: value for key, value in tree[section].items() if key != last}}
            )
        )
    files += [yaml.safe_dump({"runtime": {"queues": {"train": "gpu"}}})]
    for text in files:
        assert read(tmp_path, text)["VALUES"] == DEFAULTS, text


def test_dags_are_parsed_where_all_is_left_out(tmp_path: Path) -> None:
    read(tmp_path, "")
    code = (
        "import retrain, release, audit; "
        "print(release.approve.response_timeout, retrain.make_dag().max_active_runs)"
    )
    env = os.environ | {"SKUMATCH_PROJECT": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=DAGS, env=env, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "3 days, 0:00:00 1"


def test_values_that_are_set_are_read(tmp_path: Path) -> None:
    text = (
        "release: {approval_hours: 5}\n"
        "schedule: {retrain: none, refresh: '@daily', on_new_data: false, debounce_minutes: 0}\n"
        "runtime: {execution: docker, parallel_runs: 4, queues: {train: a100, split: '7'}, "
        "timeout_hours: {embed: 30, pull: 1}}"
    )
    values = read(tmp_path, text)
    assert values["APPROVAL_HOURS"] == 5
    queues = {"frozen": "gpu", "train": "a100", "embed": "gpu", "split": "7"}
    hours = {"frozen": 12, "train": 24, "embed": 30, "pull": 1}
    assert values["RUNTIME"] == {
        "execution": "docker",
        "parallel_runs": 4,
        "queues": queues,
        "timeout_hours": hours,
    }
    assert values["SCHEDULE"] == {
        "retrain": "none",
        "refresh": "@daily",
        "on_new_data": False,
        "debounce_minutes": 0,
    }
    params = load_params(tmp_path / "params.yaml")
    assert params.schedule.model_dump() == values["SCHEDULE"]
    assert params.runtime.timeout_hours == hours and params.runtime.longest_task_hours == 30
    assert params.runtime.queues == queues and params.release.approval_hours == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "There is no .*params.yaml; set SKUMATCH_PROJECT to the project's folder"),
        ("runtime: [1", "params.yaml can't be read as YAML in UTF-8 .*; correct it"),
        ("- runtime", "'params.yaml' should hold names and values, but is ..runtime.."),
        ("runtime: 3", "'runtime' should hold names and values, but is '3'"),
        ("release: [approval_hours]", "'release' should hold names and values"),
        (
            "release: {approval_hours: 0}",
            "Parameter release.approval_hours is '0' in params.yaml; make it a whole number, at least 1",
        ),
        ("release: {approval_hours: 010}", "Parameter release.approval_hours is '010' in params.yaml"),
        ("release: {approval_hours: 1:30}", "release.approval_hours is '1:30'"),
        ("release: {approval_hours: 1_0}", "release.approval_hours is '1_0'"),
        ("release: {approval_hours: 99999999999}", "release.approval_hours is '99999999999'"),
        ("release: {approval_hours: }", "release.approval_hours is ''"),
        ("release: {approval_hours: [3]}", "release.approval_hours is ..3.."),
        ("runtime: {parallel_runs: 1.5}", "Parameter runtime.parallel_runs is '1.5'"),
        (
            "runtime: {execution: podman}",
            "Parameter runtime.execution is 'podman' in params.yaml; make it subprocess or docker",
        ),
        ("runtime: {execution: [docker]}", "Parameter runtime.execution is ..docker.. in params.yaml"),
        (
            "runtime: {queues: gpu}",
            "Parameter runtime.queues is 'gpu' in params.yaml; make it a section of stages",
        ),
        ("runtime: {queues: {train: [a]}}", "Parameter runtime.queues is .* in params.yaml"),
        ("runtime: {queues: {train: }}", "Parameter runtime.queues is .* in params.yaml"),
        (
            "runtime: {timeout_hours: 3}",
            "Parameter runtime.timeout_hours is '3' in params.yaml; make it a section of stages and their",
        ),
        ("runtime: {timeout_hours: {train: 0}}", "Parameter runtime.timeout_hours is .* in params.yaml"),
        ("runtime: {timeout_hours: {train: 169}}", "whole numbers, at least 1 and at most 168"),
        ("runtime: {timeout_hours: {train: [2]}}", "Parameter runtime.timeout_hours is .* in params.yaml"),
        (
            "schedule: {retrain: daily}",
            "Parameter schedule.retrain is 'daily' in params.yaml; make it a text of cron's form",
        ),
        ("schedule: {retrain: }", "Parameter schedule.retrain is ''"),
        ("schedule: {retrain: [0 3 * * 1]}", "Parameter schedule.retrain is .*0 3 "),
        ("schedule: {refresh: 0 0 31 2 *}", "Parameter schedule.refresh is '0 0 31 2"),
        (
            "schedule: {on_new_data: yes}",
            "Parameter schedule.on_new_data is 'yes' in params.yaml; make it true or false",
        ),
        ("schedule: {on_new_data: [true]}", "Parameter schedule.on_new_data is .* in params.yaml"),
        (
            "schedule: {debounce_minutes: 61}",
            "schedule.debounce_minutes is '61' in params.yaml; make it a whole number, at least 0",
        ),
    ],
)
def test_a_value_that_cannot_be_is_one_sentence(tmp_path: Path, text: str | None, words: str) -> None:
    """Airflow shows it among its import errors; the package refuses the same file."""
    with pytest.raises(ValueError, match=words):
        read(tmp_path, text)
    with pytest.raises(ParameterError):
        load_params(tmp_path / "params.yaml")


def test_files_of_another_encoding_or_form_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'stages' should hold names and values, but is '3'"):
        read(tmp_path, "", stages="stages: 3")
    with pytest.raises(ValueError, match=r"dvc.yaml can't be read as YAML in UTF-8"):
        read(tmp_path, "", stages="stages: [")
    (tmp_path / "params.yaml").write_bytes("seed: 7".encode("utf-16"))
    with pytest.raises(ValueError, match=r"params.yaml can't be read as YAML in UTF-8"):
        read(tmp_path, None)


@given(WORDS)
@settings(max_examples=count(30, 500))
def test_a_number_that_the_package_takes_is_the_dags_too(
    tmp_path_factory: pytest.TempPathFactory, word: str
) -> None:
    project = tmp_path_factory.getbasetemp() / "numbers"
    project.mkdir(exist_ok=True)
    (project / "params.yaml").write_text(f"runtime:\n  parallel_runs: {word}\n")
    try:
        runs = load_params(project / "params.yaml").runtime.parallel_runs
    except ParameterError:
        return
    assert read(project, None)["RUNTIME"]["parallel_runs"] == runs


FIELDS = st.sampled_from(
    ["*", "0", "1-5", "*/7", "mon", "L", "5#2", "59", "60", "31", "2", "R", "H", "?", "x", "1-5/2", "2030"]
)
TEXTS = st.one_of(
    st.sampled_from(
        [
            "@daily",
            "@quarterly",
            "@once",
            "@reboot",
            "@midnight",
            "daily",
            "0 0 31 2 *",
            "0 3 * * 1 0 2030",
            "@continuous",
        ]
    ),
    st.lists(FIELDS, min_size=4, max_size=7).map(" ".join),
    st.lists(st.sampled_from(["*", "*", "*/5", "7", "1,2", "1-5"]), min_size=5, max_size=5).map(" ".join),
)


@given(TEXTS)
@settings(max_examples=count(100, 500))
def test_a_cron_text_is_right_where_airflow_can_schedule_by_it(text: str) -> None:
    import recipe

    assert bool(cron_problem(text)) == (recipe.cron(text) is None) == (not schedules(text)), text


def schedules(text: str) -> bool:
    """Return whether Airflow accepts a cron text and knows its next run."""
    from airflow.sdk import CronTriggerTimetable
    from airflow.timetables.base import TimeRestriction
    from airflow.timetables.trigger import CronTriggerTimetable as Scheduler

    try:
        CronTriggerTimetable(text, timezone="UTC").validate()
        timetable = Scheduler(text, timezone="UTC", run_immediately=timedelta(0))
        timetable.validate()
        now = TimeRestriction(None, None, catchup=False)
        return timetable.next_dagrun_info(last_automated_data_interval=None, restriction=now) is not None
    except (ValueError, AirflowException):
        return False


def test_the_form_of_overrides_is_the_command_lines() -> None:
    import retrain

    assert retrain.OVERRIDE == OVERRIDE
