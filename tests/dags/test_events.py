"""Of which events Airflow makes runs: why no run trusts them to name all that waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.dags.conftest import DAGS


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The versions that each run's events named, by scenario."""
    home = tmp_path_factory.mktemp("airflow-events")
    given = {"AIRFLOW_HOME": home, "AIRFLOW__CORE__DAGS_FOLDER": DAGS, "SKUMATCH_PROJECT": ROOT}
    env = os.environ | {name: str(value) for name, value in given.items()}
    env["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    script = Path(__file__).with_name("scheduler.py")
    for words in (["-m", "airflow", "db", "migrate"], [str(script)]):
        done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    tree: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return tree


def test_of_two_events_in_one_loop_airflow_hands_on_the_first(seen: dict[str, Any]) -> None:
    """The second is passed on with a third, if there ever is a third."""
    assert seen["two before a loop"] == [[1]]
    assert seen["a third after it"] == [[1], [2, 3]]


def test_of_the_events_while_a_run_is_queued_airflow_hands_on_the_first(seen: dict[str, Any]) -> None:
    assert seen["three while a run is queued"] == [[1]]
    assert seen["after its end"] == [[1], [2]]
    assert seen["events that Airflow keeps"] == 7
