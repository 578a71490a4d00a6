"""Two versions made by real runs, and the dossier of the second, copied for each test that changes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from skumatch.audit.collect import collect
from skumatch.audit.dossier import Dossier
from skumatch.config import Settings
from skumatch.model.encoder import build, save
from skumatch.params import EncoderParams
from skumatch.release.registry import Registry
from tests.conftest import make_project
from tests.pipeline.home import Home
from tests.pipeline.test_tasks import shapes

MODEL = "audited"
ANYTHING = "gate.guard_margins={macro: 1.0, tail: 1.0, unseen: 1.0, near_duplicate_free: 1.0, k5: 1.0}"


def of_model(project: Path, name: str) -> Path:
    """The project, whose params.yaml names this registered model."""
    path = project / "params.yaml"
    text = path.read_text("utf-8")
    assert "model_name: skumatch " in text
    path.write_text(text.replace("model_name: skumatch ", f"model_name: {name} "), "utf-8")
    return project


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> Home:
    """A worker that made version 1 (a poor model) and version 2 (a better one, the champion), from weights in a file."""
    root = tmp_path_factory.mktemp("audit")
    home = Home(of_model(make_project(root / "project"), MODEL), root / "home", root / "remote", mlflow_url)
    delivery = shapes(root / "delivery")
    (delivery / "all/train/sku 9/3.png").unlink()  # data of its own: MLflow keeps a data version's first address for all
    imported = home.command("data", "import", str(delivery))
    assert imported.returncode == 0, imported.stderr
    spec = EncoderParams(model="smoke", weights="none", height=32, width=32)
    save(build(spec, None), root / "weights")
    weights = f"encoder.weights={root / 'weights/encoder.safetensors'}"
    for run, how in (("audit-first", "encoder.resize=squash"), ("audit-second", "encoder.resize=pad")):
        message = home.stages(home.pull(run, weights, how, ANYTHING))
        summary = home.task(message, "register")
        assert summary["version"], summary["sentence"]
    return home


def settings_of(home: Home, **changes: Any) -> Settings:
    return Settings(project=home.project, home=home.home, remote=str(home.remote), mlflow=home.mlflow, **changes)


@pytest.fixture(scope="session")
def collected(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Dossier:
    """The champion's dossier, as it should be; not to be changed."""
    registry = Registry(home.mlflow, MODEL)
    return collect(settings_of(home), registry, registry.resolve("champion"), tmp_path_factory.mktemp("dossier"))


@pytest.fixture
def dossier(collected: Dossier, tmp_path: Path) -> Dossier:
    """A copy to change."""
    return Dossier(shutil.copytree(collected.folder, tmp_path / "dossier"))
