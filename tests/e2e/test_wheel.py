"""From a wheel in an empty folder: `init`, `run` to a champion, and an audit and a reproduction that hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import free_port, git
from tests.pipeline.home import SMOKE
from tests.pipeline.test_tasks import shapes
from tests.proving import PROVING
from tests.wheels import build_wheel, install, skumatch

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wheel")
    return install(build_wheel(root), root / "environment")


def test_the_first_run_from_a_wheel_makes_a_proven_champion(python: Path, tmp_path: Path) -> None:
    shelf = shapes(tmp_path / "shelf")
    laid_out = skumatch(python, tmp_path, "init", "shop")
    assert laid_out.returncode == 0, laid_out.stderr
    project = tmp_path / "shop"
    assert git(project, "status", "--porcelain") == ""

    ports = {f"SKUMATCH_{name}_PORT": str(free_port()) for name in ("AIRFLOW", "MLFLOW")}
    overrides = [word for text in SMOKE for word in ("--set", text)]
    up = skumatch(python, project, "up", **ports)
    assert up.returncode == 0, up.stderr
    try:
        run = skumatch(python, project, "run", "--data", str(shelf), *overrides, **ports)
        assert run.returncode == 0, run.stdout + run.stderr
        assert "champion" in run.stdout and "The code" not in run.stdout
        audit = skumatch(python, project, "audit", "champion", "--verify", "--json", "chain.json", **ports)
        assert audit.returncode == 0, audit.stdout + audit.stderr
        links = {link["name"]: link for link in json.loads((project / "chain.json").read_text())["links"]}
        assert "as its wheel has it" in links["code"]["reason"]
        if PROVING:
            again = skumatch(python, project, "reproduce", "champion", "--force", **ports)
            assert again.returncode == 0, again.stdout + again.stderr
    finally:
        skumatch(python, project, "down", **ports)
