"""A project that was copied while its servers ran, and one that was renamed, work with paths of their own."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

from skumatch.servers import services
from tests.conftest import free_port
from tests.e2e.live import Live, serving
from tests.proving import IN_PROOF

pytestmark = [pytest.mark.live, IN_PROOF, pytest.mark.timeout(3600)]  # three runs, on a busy machine too


def at(live: Live, root: Path) -> Live:
    """The same project in another folder, on ports of its own."""
    other = copy.copy(live)
    other.root, other.plan, other.project = root, root / "plan.json", root / live.project.name
    ports = {"airflow_port": free_port(), "mlflow_port": free_port()}
    places = {"project": other.project, "home": root / "home"}
    other.settings = live.settings.model_copy(update=places | ports)
    return other


def works(live: Live, original: Path) -> None:
    """A run goes through, and its logs and settings don't so much as name the original's folder."""
    assert (started := live.command("up")).code == 0, started.err
    ended = live.command("retrain")
    assert ended.code == 0, ended
    run = live.newest()["dag_run_id"]
    (folder,) = (live.settings.home_dir / "airflow/logs").glob(f"dag_id=*/run_id={run}")
    logs = [path.read_text("utf-8") for path in folder.rglob("*.log")]
    assert len(logs) > 9 and not any(f"{original}/" in log for log in logs)
    assert f"{original}/" not in (live.project / ".dvc/config.local").read_text("utf-8")
    assert f"{original}/" not in (live.settings.home_dir / "airflow/airflow.cfg").read_text("utf-8")


def test_a_copy_and_a_renamed_project_run(tmp_path: Path) -> None:
    with serving(tmp_path / "first") as first:
        assert first.command("run", "--data", str(first.delivery)).code == 0
        shutil.copytree(first.root, tmp_path / "copy", symlinks=True)
        second, running = at(first, tmp_path / "copy"), services.running(first.settings)
        asleep = second.command("retrain")
        assert asleep.code == 31 and "is not up" in asleep.err, asleep
        versions, runs = len(first.versions()), len(first.runs())
        try:
            works(second, first.root)
        finally:
            second.command("down")
        assert services.running(first.settings) == running
        assert (len(first.versions()), len(first.runs())) == (versions, runs)
    first.root.rename(tmp_path / "renamed")
    third = at(first, tmp_path / "renamed")
    try:
        works(third, first.root)
    finally:
        third.command("down")
