"""Two versions made by real runs, with all that a delivery may bring; the dossier of the second.

A test that changes the dossier gets a copy.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skumatch.audit.collect import collect
from skumatch.audit.dossier import Dossier
from skumatch.config import Settings
from skumatch.params import EncoderParams
from skumatch.registry.registry import Registry
from tests.conftest import commit, git, make_project
from tests.pipeline.home import Home
from tests.pipeline.test_tasks import shapes

MODEL = "audited"
ANYTHING = "gate.guard_margins={macro: 1.0, tail: 1.0, unseen: 1.0, near_duplicate_free: 1.0, k5: 1.0}"


TOLERANT = ("validate.max_quarantined_share=0.1", "validate.max_duplicate_share=0.9")
ODD_SKU = 'Søster\'s "Käse", 牛乳 50% #8'
ODD_CODE = ('skumatch/data/Größe "1".json', "skumatch/stages/\tдва\n.txt")


def project_of(root: Path, name: str) -> Path:
    """A project in a folder of its repository, with unusual names of code; its registered model is `name`."""
    project = make_project(root / "repository/apps/shelf")
    path = project / "params.yaml"
    text = path.read_text("utf-8")
    assert "model_name: skumatch " in text
    path.write_text(text.replace("model_name: skumatch ", f"model_name: {name} "), "utf-8")
    for odd in ODD_CODE:
        (project / odd).write_text("{}", "utf-8")
    shutil.rmtree(project / ".git")
    (root / "repository" / os.fsdecode(b"latin\xe9.txt")).write_text("another's")
    git(root / "repository", "init", "-q", "-b", "main")
    commit(root / "repository", "Code with unusual names")
    return project


def unusual(delivery: Path) -> Path:
    """Give a delivery pictures to set aside, copies, groups, a SKU of many scripts; return its catalogue."""
    for side in ("train", "test"):
        (delivery / "all" / side / "sku 8").rename(delivery / "all" / side / ODD_SKU)
    train, catalogue = delivery / "all/train", delivery.with_name("catalogue")
    (train / "sku 0/broken.jpg").write_bytes(b"\xff\xd8 no picture")
    Image.new("RGB", (8, 8)).save(train / ODD_SKU / "tiny.png")
    (delivery / "classes.csv").write_text("sku,group\nsku 0,milk\nsku 1,milk\nsku 3,Säfte\n", "utf-8")
    catalogue.mkdir()
    for folder in sorted(set(train.iterdir()) - {train / "sku 3"}):
        with Image.open(folder / "0.png") as picture:
            picture.save(folder / "again.png", optimize=True)  # the same pixels
            picture.point(lambda value: value - 2).save(folder / "near.png")
            picture.point(lambda value: value - 9).save(catalogue / f"{folder.name}.png")
    return catalogue


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> Home:
    """A worker's home with versions 1 (a poor model) and 2 (better, the champion), from weights in a file."""
    root = tmp_path_factory.mktemp("audit")
    home = Home(project_of(root, MODEL), root / "home", root / "remote", mlflow_url)
    delivery = shapes(root / "delivery")
    (
        delivery / "all/train/sku 9/3.png"
    ).unlink()  # data of its own: MLflow keeps a data version's first address for all
    catalogue = unusual(delivery)
    imported = home.command("data", "import", str(delivery), "--catalogue", str(catalogue))
    assert imported.returncode == 0, imported.stderr
    from skumatch.model.encoder import build, save  # takes seconds, and most tests need no run

    spec = EncoderParams(model="smoke", weights="none", height=32, width=32)
    save(build(spec, None), root / "weights")
    weights = f"encoder.weights={root / 'weights/encoder.safetensors'}"
    for run, how in (("audit-first", "encoder.resize=squash"), ("audit-second", "encoder.resize=pad")):
        message = home.stages(home.pull(run, weights, how, ANYTHING, *TOLERANT))
        summary = home.task(message, "register")
        assert summary["version"], summary["sentence"]
    return home


def settings_of(home: Home, **changes: Any) -> Settings:
    return Settings(
        project=home.project, home=home.home, remote=str(home.remote), mlflow=home.mlflow, **changes
    )


@pytest.fixture(scope="session")
def collected(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Dossier:
    """The champion's dossier, as it should be; not to be changed."""
    registry = Registry(home.mlflow, MODEL)
    return collect(
        settings_of(home), registry, registry.resolve("champion"), tmp_path_factory.mktemp("dossier")
    )


@pytest.fixture
def dossier(collected: Dossier, tmp_path: Path) -> Dossier:
    """A copy to change."""
    return Dossier(shutil.copytree(collected.folder, tmp_path / "dossier"))
