"""A home of version 0.1.0 still works: its models, audits, gallery refreshes, rollbacks and clean-ups."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port, make_project, serving_mlflow
from tests.pipeline.home import Home
from tests.pipeline.test_refresh import OLD, deliver
from tests.proving import IN_PROOF

OLDER = Path(__file__).parent / "older/home-0.1.tar.xz"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    root = tmp_path_factory.mktemp("older")
    with tarfile.open(OLDER) as archive:
        archive.extractall(root, filter="data")
    project = make_project(root / "project")
    params = project / "params.yaml"
    params.write_text(
        params.read_text("utf-8").replace("model_name: skumatch ", "model_name: older "), "utf-8"
    )
    (root / "data.dvc").rename(project / "data.dvc")
    with serving_mlflow(root / "mlflow", free_port()) as url:
        yield Home(project, root / "home", root / "remote", url)


def test_its_version_is_listed_matched_with_and_audited(home: Home, tmp_path: Path) -> None:
    models = home.command("models")
    assert models.returncode == 0 and "champion" in models.stdout, models.stderr
    photo = deliver(tmp_path / "shelf", ("sku 3",)) / "all/test/sku 3/4.png"
    matched = home.command("match", str(photo), "--top-k", "1", "--json")
    assert json.loads(matched.stdout)[0][0]["sku"] == "sku 3", matched.stderr
    audited = home.command("audit", "1", "--verify")
    assert audited.returncode == 0 and "broken" not in audited.stdout, audited.stdout + audited.stderr


@IN_PROOF
def test_its_champion_gets_a_new_gallery_and_comes_back(home: Home, tmp_path: Path) -> None:
    imported = home.command("data", "import", str(deliver(tmp_path / "delivery", (*OLD[:-1], "new"))))
    assert imported.returncode == 0, imported.stderr
    message = home.stages(home.pull("refresh-older", "release.model_name=older", kind="refresh"))
    summary = home.task(message, "register")
    assert (summary["decision"], summary["version"], summary["aliases"]["champion"]) == ("refresh", 2, 2), (
        summary["sentence"]
    )
    back = home.command("rollback")
    assert back.returncode == 0 and "Version 1 is the champion again" in back.stdout, back.stderr
    cleaned = home.command("gc")
    assert cleaned.returncode == 0, cleaned.stderr
