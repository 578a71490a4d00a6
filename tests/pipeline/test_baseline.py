"""The baseline of a run's data: the newest version that passed, with other data and the same model name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skumatch.config import Settings
from skumatch.errors import RegistryUnavailable
from skumatch.params import Params, ReleaseParams
from skumatch.pipeline.pull import fetch_baseline
from skumatch.pipeline.repository import pointer
from skumatch.registry.registry import ModelRef
from skumatch.registry.tracking import DATA_TAG, EXPERIMENT, RUN_TAG, Tracking

MINE, OTHERS = (
    Params(release=ReleaseParams(model_name="baseline")),
    Params(release=ReleaseParams(model_name="baseline-other")),
)


@pytest.fixture(scope="module")
def runs(mlflow_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Runs in order: may, june, june again, a broken july, one of another model, one without a profile."""
    folder = tmp_path_factory.mktemp("profiles")
    for number, (data, model, status, held) in enumerate(
        [
            ("may", "baseline", "FINISHED", True),
            ("june", "baseline", "FINISHED", True),
            ("june", "baseline", "FINISHED", True),
            ("july", "baseline", "FAILED", True),
            ("july", "baseline-other", "FINISHED", True),
            ("august", "baseline", "FINISHED", False),
        ]
    ):
        path = folder / "profile.json"
        path.write_text(json.dumps({"of": data}))
        params, tags = {"release.model_name": model}, {DATA_TAG: f"{data}.dir"}
        Tracking(mlflow_url).log_run(
            f"baseline-{number}", params, {}, tags, {"validate/profile.json": path} if held else {}, status
        )  # type: ignore[arg-type]
    return mlflow_url


@pytest.mark.parametrize(
    ("params", "data", "expected"),
    [
        (MINE, "september", "june"),
        (MINE, "june", "may"),  # a rerun finds what the first run found, and stays cached
        (MINE, "may", "june"),
        (OTHERS, "july", None),
        (OTHERS, "june", "july"),
        (Params(release=ReleaseParams(model_name="never-run")), "june", None),
    ],
)
def test_the_newest_version_of_other_data_that_passed(
    runs: str, tmp_path: Path, params: Params, data: str, expected: str | None
) -> None:
    baseline = fetch_baseline(
        Settings(project=tmp_path, mlflow=runs), params, pointer(f"{data}.dir", "data"), None
    )
    assert baseline == (None if expected is None else {"of": expected})


@pytest.mark.parametrize(
    ("served", "data", "expected"),
    [
        ("may", "september", "may"),  # what serves, though june passed since
        ("may", "may", "june"),  # it is of the same data, so a rerun finds what the first run found
        ("august", "september", "june"),  # it left no profile
    ],
)
def test_drift_is_measured_against_what_serves(
    runs: str, tmp_path: Path, served: str, data: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = {"may": 0, "august": 5}[served]
    with Tracking(runs).client() as client:
        experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
        (mlflow_run,) = client.search_runs([experiment], f"tags.`{RUN_TAG}` = 'baseline-{number}'")
    champion = ModelRef(3, "", mlflow_run.info.run_id, datetime.now(UTC), tags={DATA_TAG: f"{served}.dir"})
    profile = fetch_baseline(
        Settings(project=tmp_path, mlflow=runs), MINE, pointer(f"{data}.dir", "data"), champion
    )
    assert profile == {"of": expected}
    assert ("can't be read" in capsys.readouterr().out) == (served == "august")


def test_an_mlflow_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable):
        fetch_baseline(
            Settings(project=tmp_path, mlflow="http://127.0.0.1:9"), MINE, pointer("may.dir", "data"), None
        )
