"""A deployment is saved, lost, and put back into new databases and buckets: the champion, its journal and its lineage are all there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from skumatch.airflow_api import DAG, Airflow
from skumatch.config import apply_overrides
from skumatch.release.bundle import verify_bundle
from skumatch.release.registry import Registry
from tests.deployment.runs import Deployment
from tests.deployment.stack import Stack, deployed

pytestmark = [pytest.mark.live, pytest.mark.timeout(1800)]
ADDRESSES = ("airflow_database", "celery_results", "celery_broker", "mlflow_database", "mlflow_auth_database", "skumatch_airflow")


def test_what_was_saved_comes_back_whole(deployment: Deployment, undisturbed: str, tmp_path: Path) -> None:
    saved, root = tmp_path / "backup", deployment.stack.root / "restored"
    saved.mkdir()
    deployment.stack.database("dump-databases", saved)
    deployment.stack.buckets("out", saved)
    shutil.copytree(deployment.stack.secrets, root / "secrets", ignore=shutil.ignore_patterns(*ADDRESSES))

    def restore(stack: Stack) -> None:
        stack.database("restore-databases", saved)
        stack.buckets("in", saved)

    with deployed(root, deployment.project, restore) as stack:
        url = stack.person["SKUMATCH_MLFLOW"].replace("://", f"://admin:{stack.secret('mlflow_admin')}@")
        registry = Registry(url, "undisturbed", tmp_path)
        champion = registry.champion()
        assert champion and champion.bundle == undisturbed
        assert verify_bundle(registry.download_bundle(champion, tmp_path / "champion"), undisturbed)
        with Airflow(stack.settings) as airflow:
            assert [run["state"] for run in airflow.get(f"/dags/{DAG}/dagRuns")["dag_runs"]].count("success") >= 1
        project = _named(deployment.project, tmp_path / "project", "undisturbed")
        env = stack.environment | {"SKUMATCH_PROJECT": str(project), "SKUMATCH_REMOTE": "s3://dvc/undisturbed"}
        for words, told in ((["audit", "champion", "--verify"], "20 links: 20 hold"), (["models", "--history"], "first champion")):
            done = subprocess.run(
                [sys.executable, "-m", "skumatch", *words], cwd=project, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0 and told in done.stdout, done.stdout + done.stderr


def _named(project: Path, copy: Path, model: str) -> Path:
    """A copy of the project whose registered model has another name, as the run's had."""
    shutil.copytree(project, copy)
    params = copy / "params.yaml"
    params.write_text(yaml.safe_dump(apply_overrides(yaml.safe_load(params.read_text("utf-8")), [f"release.model_name={model}"])), "utf-8")
    return copy
