"""A damaged database of the embedded servers is one sentence before anything starts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from skumatch.config import Settings
from skumatch.errors import ServiceError
from skumatch.servers import services
from skumatch.servers.databases import check_databases
from tests.conftest import ROOT, free_port

TABLES = {"airflow": "dag_run", "mlflow": "registered_models"}
MARKS = {"airflow": "migrated", "mlflow": "artifacts"}


def made(path: Path, table: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE {table} (text TEXT)")
        rows = [("x" * 900,) for _ in range(99)]
        connection.executemany(f"INSERT INTO {table} VALUES (?)", rows)  # noqa: S608 names of this file
        connection.commit()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:8192])


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8192:20000] = b"\xff" * (20000 - 8192)
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + b"zip" * 999)


def another(path: Path) -> None:
    path.unlink()
    made(path, "recipes")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home whose servers have run."""
    settings = Settings(
        project=tmp_path, home=tmp_path / "home", airflow_port=free_port(), mlflow_port=free_port()
    )
    for name, table in TABLES.items():
        (settings.home_dir / name).mkdir(parents=True)
        (settings.home_dir / name / MARKS[name]).touch()
        made(settings.home_dir / name / f"{name}.db", table)
    return settings


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("damage", [truncated, overwritten, emptied, foreign, another])
def test_a_damaged_database_starts_nothing(
    settings: Settings, name: str, damage: Callable[[Path], None]
) -> None:
    check_databases(settings)
    path = settings.home_dir / name / f"{name}.db"
    damage(path)
    before = path.read_bytes()
    with pytest.raises(ServiceError, match=rf"database {path} can't be used \(.*docs/operations\.md#rest"):
        services.up(settings)
    assert path.read_bytes() == before and services.running(settings) == set()
    assert "## Restoring the servers" in (ROOT / "docs/operations.md").read_text("utf-8")


def test_a_first_start_and_one_that_was_killed_go_on(settings: Settings) -> None:
    for name in TABLES:
        (settings.home_dir / name / MARKS[name]).unlink()
        (settings.home_dir / name / f"{name}.db").write_bytes(b"")
    check_databases(settings)
    for name in TABLES:
        (settings.home_dir / name / f"{name}.db").unlink()
    check_databases(settings)


def test_models_without_their_database_are_not_begun_anew(settings: Settings) -> None:
    """Airflow's is made anew: it holds the history of runs only."""
    (settings.home_dir / "airflow/airflow.db").unlink()
    check_databases(settings)
    (settings.home_dir / "mlflow/mlflow.db").unlink()
    with pytest.raises(ServiceError, match="is missing, though there are artifacts"):
        check_databases(settings)
    check_databases(settings.model_copy(update={"mlflow": "http://elsewhere:5000"}))


def test_a_servers_last_word_is_no_footnote(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("DatabaseError: no such column\n(Background on this error at: https://sqlalche.me/e/x)\n")
    assert services._last_line(log) == "DatabaseError: no such column"
