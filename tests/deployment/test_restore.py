"""A deployment is restored into new databases and buckets with its champion, journal and lineage."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from skumatch.bundle import verify_bundle
from skumatch.config import apply_overrides
from skumatch.registry.registry import Registry
from skumatch.servers.airflow_api import RETRAIN, Airflow
from tests.deployment.runs import Deployment
from tests.deployment.stack import MISSING, Stack, deployed

pytestmark = [pytest.mark.live, pytest.mark.timeout(1800)]
ADDRESSES = (
    "airflow_database",
    "celery_results",
    "celery_broker",
    "mlflow_database",
    "mlflow_auth_database",
    "skumatch_airflow",
)


@pytest.fixture
def databases() -> Iterator[Stack]:
    """PostgreSQL alone."""
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}; on Debian: apt install postgresql redis-server")
    root = Path(tempfile.mkdtemp(prefix="skumatch-"))
    root.chmod(0o755)  # Postgres is another user
    stack = Stack(root, root)
    try:
        stack.postgres()
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(root, ignore_errors=True)


def test_a_newer_schema_gives_way_to_the_saved_one_and_a_broken_dump_changes_nothing(
    databases: Stack, tmp_path: Path
) -> None:
    databases.sql("airflow", "CREATE TABLE run (id int PRIMARY KEY); INSERT INTO run VALUES (7)")
    databases.database("dump-databases", tmp_path)
    databases.sql(
        "airflow",
        "ALTER TABLE run ADD COLUMN newer int; "
        "CREATE TABLE stray (run int REFERENCES run (id)); INSERT INTO stray VALUES (7)",
    )
    databases.database("restore-databases", tmp_path)
    assert databases.sql("airflow", "SELECT * FROM run") == "7"
    assert (
        databases.sql("airflow", "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'")
        == "run|airflow"
    )
    databases.sql("airflow", "CREATE TABLE later (id int)")
    dump = tmp_path / "airflow.dump"
    dump.write_bytes(dump.read_bytes()[:-100])
    with pytest.raises(subprocess.CalledProcessError):
        databases.database("restore-databases", tmp_path)
    assert databases.sql("airflow", "SELECT count(*) FROM later") == "0"


def test_what_was_saved_comes_back_whole(deployment: Deployment, undisturbed: str, tmp_path: Path) -> None:
    saved, root = tmp_path / "backup", deployment.stack.root / "restored"
    saved.mkdir()
    deployment.stack.database("dump-databases", saved)
    deployment.stack.buckets("out", saved)
    shutil.copytree(deployment.stack.secrets, root / "secrets", ignore=shutil.ignore_patterns(*ADDRESSES))

    def restore(stack: Stack) -> None:
        stack.database("restore-databases", saved)
        stack.buckets("in", saved)
        stack.service("upgrade", of="mlflow", command=["upgrade-mlflow"]).run()

    with deployed(root, deployment.project, restore) as stack:
        url = stack.person["SKUMATCH_MLFLOW"].replace("://", f"://admin:{stack.secret('mlflow_admin')}@")
        registry = Registry(url, "undisturbed", tmp_path)
        champion = registry.champion()
        assert champion and champion.bundle == undisturbed
        assert verify_bundle(registry.download_bundle(champion, tmp_path / "champion"), undisturbed)
        with Airflow(stack.settings) as airflow:
            assert [run["state"] for run in airflow.get(f"/dags/{RETRAIN}/dagRuns")["dag_runs"]].count(
                "success"
            ) >= 1
        project = _named(deployment.project, tmp_path / "project", "undisturbed")
        env = stack.environment | {
            "SKUMATCH_PROJECT": str(project),
            "SKUMATCH_REMOTE": "s3://dvc/undisturbed",
        }
        for words, sentence in (
            (["audit", "champion", "--verify"], "20 links: 20 hold"),
            (["models", "--history"], "first champion"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "skumatch", *words],
                cwd=project,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0 and sentence in done.stdout, done.stdout + done.stderr


def _named(project: Path, copy: Path, model: str) -> Path:
    """A copy of the project whose registered model has another name, as the run's had."""
    shutil.copytree(project, copy)
    params = copy / "params.yaml"
    params.write_text(
        yaml.safe_dump(
            apply_overrides(yaml.safe_load(params.read_text("utf-8")), [f"release.model_name={model}"])
        ),
        "utf-8",
    )
    return copy
