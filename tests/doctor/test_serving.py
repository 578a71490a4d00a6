"""The serving model may lack products of today's data."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import pytest

from skumatch.config import Settings
from skumatch.data.products import write_products
from skumatch.doctor import serving
from skumatch.errors import ServiceError
from skumatch.params import DataParams
from skumatch.registry.champion_state import ChampionState
from skumatch.registry.registry import ModelRef, Registry
from skumatch.registry.tracking import DATA_TAG, FinishedRun
from tests.conftest import record_as_started
from tests.doctor.asking import DATA, MD5, PARAMS, ask

NEVER = ChampionState("never", "skumatch", None, None, None)
SIDES = {"a": "train", "b": "train", "c": "train", "others": "train", "d": "test", "e": "catalogue"}


@pytest.fixture(autouse=True)
def mlflow(here: Settings) -> None:
    """The home's MLflow is up; what it would answer is set by each test."""
    record_as_started(here, "mlflow")


@pytest.fixture
def data(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data with the products a, b and c in its gallery, and a champion with a, z and nothing else."""
    (here.project / "data").mkdir()
    (here.project / "data/manifest.parquet").touch()
    (here.project / "data.dvc").write_text(DATA)
    rows = pd.DataFrame({"sku": list(SIDES), "side": list(SIDES.values())})
    monkeypatch.setattr(serving, "read_manifest", lambda _: rows)
    monkeypatch.setattr(serving, "nameable", lambda *_: frozenset("az"))
    monkeypatch.setattr(Registry, "champion", lambda _: ModelRef(3, "ab" * 32, "run", datetime.now(UTC)))
    monkeypatch.setattr(Registry, "last_finished", lambda _: None)


def test_products_that_what_serves_lacks_are_counted(
    here: Settings, data: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ask(serving.products, here)
    assert (answer.verdict, answer.found) == (
        "warning",
        "2 products of today's data can't be named by what serves",
    )
    assert answer.fix == "`skumatch refresh` puts them into the gallery."
    monkeypatch.setattr(serving, "nameable", lambda *_: frozenset("abz"))
    assert ask(serving.products, here).found.startswith("1 product of today's data")
    monkeypatch.setattr(serving, "nameable", lambda *_: frozenset("abcz"))
    assert ask(serving.products, here).found == "version 3 can name all 3 products of today's data"


def test_retired_products_need_no_gallery(
    here: Settings, data: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pd.DataFrame({"sku": ["c"], "state": ["retired"], "since": None, "until": None, "drawn_as": None})
    write_products(here.project / "data", rows)
    assert ask(serving.products, here).found.startswith("1 product of today's data"), "b alone"
    monkeypatch.setattr(serving, "nameable", lambda *_: frozenset("abz"))
    assert ask(serving.products, here).verdict == "ok"
    params = PARAMS.model_copy(update={"data": DataParams(serve_catalogue=True)})
    answer = ask(serving.products, here, params)
    assert answer.found.startswith("1 product of today's data"), "e, by its catalogue picture"


def test_products_that_a_run_held_back_are_told_apart(
    here: Settings, data: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {
        True: FinishedRun("run", {DATA_TAG: MD5}, None),
        False: FinishedRun("run", {DATA_TAG: "other"}, None),
    }
    monkeypatch.setattr(Registry, "last_finished", lambda _: runs[True])
    monkeypatch.setattr(
        Registry,
        "artifact",
        lambda *_: json.dumps({"refreshed": {"b": "why", "y": "why"}, "challenger": {}}).encode(),
    )
    answer = ask(serving.products, here)
    assert "2 products" in answer.found and "1 of them held back by the last run" in answer.found
    assert answer.fix == "`skumatch refresh` puts the others into the gallery."
    monkeypatch.setattr(
        Registry,
        "artifact",
        lambda *_: json.dumps({"refreshed": {"b": "why"}, "challenger": {"c": "why"}}).encode(),
    )
    answer = ask(serving.products, here)
    assert answer.verdict == "warning" and "held them back" in answer.found and "refresh.accept" in answer.fix
    monkeypatch.setattr(Registry, "last_finished", lambda _: runs[False])
    assert "held" not in ask(serving.products, here).found

    def gone(*_: object) -> bytes:
        raise ServiceError("MLflow has no such artifact; see its log.")

    monkeypatch.setattr(Registry, "last_finished", lambda _: runs[True])
    monkeypatch.setattr(Registry, "artifact", gone)
    assert "held" not in ask(serving.products, here).found


def test_products_need_a_champion_and_data_that_is_checked_out(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "champion", lambda _: None)
    monkeypatch.setattr(Registry, "champion_state", lambda _: NEVER)
    assert ask(serving.products, here).found == "skumatch has no champion yet"
    monkeypatch.setattr(Registry, "champion_state", lambda _: replace(NEVER, kind="deleted", last=3))
    answer = ask(serving.products, here)
    assert answer.verdict == "skipped" and "its version 3 was deleted in MLflow" in answer.found
    monkeypatch.setattr(Registry, "champion", lambda _: ModelRef(3, "ab" * 32, "run", datetime.now(UTC)))
    answer = ask(serving.products, here)
    assert answer.verdict == "skipped" and "data/ is not checked out here" in answer.found
