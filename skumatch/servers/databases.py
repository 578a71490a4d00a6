"""The embedded servers' SQLite databases, checked before a server is started on one that can't serve."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from skumatch.config import Settings
from skumatch.errors import ServiceError

CURE = "put a backup in its place, as docs/operations.md#restoring-the-servers says"


@dataclass(frozen=True)
class Database:
    """One server's database.

    Attributes:
        name: The server's name, for sentences.
        path: The file.
        table: A table that it has once it is made.
        mark: A file or folder that is there once the database was made.
    """

    name: str
    path: Path
    table: str
    mark: Path


def airflow_database(settings: Settings) -> Database:
    """Return the embedded Airflow's database."""
    folder = settings.home_dir / "airflow"
    return Database("Airflow", folder / "airflow.db", "dag_run", folder / "migrated")


def mlflow_database(settings: Settings) -> Database:
    """Return the embedded MLflow's database."""
    folder = settings.home_dir / "mlflow"
    return Database("MLflow", folder / "mlflow.db", "registered_models", folder / "artifacts")


def check_databases(settings: Settings) -> None:
    """Check that the embedded servers' databases are sound, or not made yet.

    A missing database of Airflow is made anew. One of MLflow is not where artifacts are, since all models
    would be gone without a word.

    Raises:
        ServiceError: A database is damaged, or another program's, or MLflow's is missing.
    """
    mlflow = mlflow_database(settings)
    if mlflow.mark.exists() and not mlflow.path.exists() and not settings.mlflow:
        missing = f"MLflow's database {mlflow.path} is missing, though there are artifacts in {mlflow.mark}"
        raise ServiceError(f"{missing}; {CURE}.")
    for database in (airflow_database(settings), *([] if settings.mlflow else [mlflow])):
        if database.path.exists() and (fault := _fault(database)):
            raise ServiceError(f"{database.name}'s database {database.path} can't be used ({fault}); {CURE}.")


def _fault(database: Database) -> str:
    """Return what is wrong with a database; empty where it is sound, or was not made to its end yet."""
    try:
        with closing(sqlite3.connect(database.path)) as connection:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        return str(error)
    if verdict != "ok":
        return "a page of it is damaged"
    if database.table not in tables and (tables or database.mark.exists()):
        return f"it has no table {database.table}"
    return ""
