"""Commands and environment of one machine's servers."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

from skumatch import network
from skumatch.config import Settings
from skumatch.files import read_json, write_private, write_text
from skumatch.servers.airflow_api import SERVICE_USER

# Airflow's page shows a missing triggerer in red. It runs deferred tasks, and no task here is deferred.
NOTICE = """from airflow.api_fastapi.common.types import UIAlert

TEXT = "The triggerer is shown in red because none is started: no task of skumatch needs one."
DASHBOARD_UIALERTS = [UIAlert(text=TEXT, category="info")]
"""
PATHS = (  # Airflow's options that name a place on this machine
    "CORE__DAGS_FOLDER",
    "CORE__PLUGINS_FOLDER",
    "DATABASE__SQL_ALCHEMY_CONN",
    "LOGGING__BASE_LOG_FOLDER",
    "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY",
)


def folder(settings: Settings, server: str) -> Path:
    """Return a server's working folder; the embedded MLflow's is made here, and holds its database.

    MLflow parses a database's URL in two ways that disagree about `%`, `?` and `#`, so its path is relative.
    """
    if server != "mlflow":
        return settings.project
    path = settings.home_dir / "mlflow"
    path.mkdir(parents=True, exist_ok=True)
    return path


def commands(settings: Settings) -> dict[str, list[str]]:
    """Return the command line of each server that we start in its `folder`, by name."""
    airflow = [sys.executable, "-m", "airflow"]
    mlflow = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    mlflow += ["--port", str(settings.mlflow_port), "--workers", "1"]
    mlflow += ["--backend-store-uri", "sqlite:///mlflow.db"]
    artifacts = settings.home_dir / "mlflow/artifacts"
    mlflow += ["--serve-artifacts", "--artifacts-destination", artifacts.as_uri()]
    by_name = {
        "mlflow": mlflow,
        "api-server": [*airflow, "api-server"],
        "scheduler": [*airflow, "scheduler", "--skip-serve-logs"],  # the API server reads the same log folder
        "dag-processor": [*airflow, "dag-processor"],
    }
    if settings.mlflow:
        del by_name["mlflow"]
    return by_name


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of every server: this process's, our settings, and Airflow's.

    Creates the servers' signing key and the users' passwords where they are missing.
    """
    project = str(settings.project.resolve())
    home = settings.home_dir
    secret = _secret(settings.home_dir / "airflow.secret")
    skumatch = {
        "SKUMATCH_PROJECT": project,
        "SKUMATCH_HOME": str(home),
        "SKUMATCH_REMOTE": settings.remote_url,
        "SKUMATCH_MLFLOW": settings.mlflow_url,
        "SKUMATCH_AIRFLOW_PORT": str(settings.airflow_port),
        "SKUMATCH_MLFLOW_PORT": str(settings.mlflow_port),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8",
        "AIRFLOW_HOME": str(home / "airflow"),
    }
    if settings.airflow_users:
        skumatch["SKUMATCH_AIRFLOW_USERS"] = settings.airflow_users
    if settings.openlineage_target:
        skumatch["SKUMATCH_OPENLINEAGE"] = settings.openlineage_target
    if settings.signing_key_file:
        skumatch["SKUMATCH_SIGNING_KEY"] = str(settings.signing_key_file)
    airflow = {
        "CORE__DAGS_FOLDER": f"{project}/dags",
        # Same as the defaults, which Airflow drops where their path has a `%` in it.
        "CORE__PLUGINS_FOLDER": f"{home}/airflow/plugins",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{quote(str(home))}/airflow/airflow.db",
        "LOGGING__BASE_LOG_FOLDER": f"{home}/airflow/logs",
        "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": f"{home}/airflow/logs/dag_processor",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",  # worker processes, which wait for tasks
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTION_API_SERVER_URL": f"{settings.airflow_url}/execution/",
        "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",  # seconds until a changed DAG shows ...
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",  # ... or a changed schedule in params.yaml ...
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",  # ... and a new file
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "DATABASE__CHECK_MIGRATIONS": "False",  # `_migrate` did
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        # Seconds until a task that was killed is tried again.
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        # Seconds between looks for tasks of a scheduler that died; it counts as dead after 30.
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",  # seconds; a task's supervisor may linger this long after it
        # Training may take all cores, and is not to be killed for it.
        "WORKERS__MAX_FAILED_HEARTBEATS": "120",
        "WORKERS__EXECUTION_API_TIMEOUT": "30",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(settings.airflow_port),
        "API__BASE_URL": settings.airflow_url,
        "API__WORKERS": "1",
        "API__SECRET_KEY": secret,
        "API_AUTH__JWT_SECRET": secret,
        "OPENLINEAGE__DISABLED": str(settings.openlineage_target is None),
        "LOGGING__COLORED_CONSOLE_LOG": "False",
        "LOGGING__NAMESPACE_LEVELS": "http.access=WARNING",
    }
    options = airflow | _sign_in(settings) | _lineage(settings)
    inherited = network.settled(os.environ, settings.servers)
    return inherited | skumatch | {f"AIRFLOW__{name}": value for name, value in options.items()}


def write_paths(settings: Settings, env: dict[str, str]) -> None:
    """Write today's paths into airflow.cfg, where Airflow has written those of its first start.

    Our servers have them from their environment; this is for `airflow` by hand in a home that was moved.

    Args:
        settings: The home.
        env: The servers' environment.
    """
    path = settings.home_dir / "airflow/airflow.cfg"
    if not path.exists():
        return
    before = text = path.read_text("utf-8")
    for option in PATHS:
        name, value = option.partition("__")[2].lower(), env[f"AIRFLOW__{option}"].replace("%", "%%")
        line = f"{name} = {value}".replace("\\", r"\\")
        text = re.sub(rf"(?m)^{name} = .*$", line, text)
    if text != before:
        write_private(path, text)


def write_notice(settings: Settings) -> None:
    """Have Airflow's home page explain its red triggerer; a file that is there already stays."""
    path = settings.home_dir / "airflow/config/airflow_local_settings.py"
    if not path.exists():
        write_text(path, NOTICE)


def _lineage(settings: Settings) -> dict[str, str]:
    """Return Airflow's settings for its own lineage events, which go to the same target as the runs'."""
    target = settings.openlineage_target
    if not target:
        return {}
    from skumatch.lineage.documents import airflow_transport

    return {
        "OPENLINEAGE__TRANSPORT": json.dumps(airflow_transport(target)),
        "OPENLINEAGE__NAMESPACE": "skumatch",
    }


def _sign_in(settings: Settings) -> dict[str, str]:
    """Return Airflow's settings for signing in.

    Without `settings.airflow_users` everybody on loopback is its admin; with them each user has a password,
    which is made once and never printed.
    """
    if not settings.airflow_users:
        return {"CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True"}
    users = f"{SERVICE_USER}:admin,{settings.airflow_users}"
    path = settings.passwords_file
    known = read_json(path) if path.exists() else {}
    names = [user.partition(":")[0] for user in users.split(",")]
    passwords = {name: known.get(name) or secrets.token_urlsafe(18) for name in names}
    if passwords != known:
        write_private(path, json.dumps(passwords, indent=2))
    return {
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": users,
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(path),
    }


def _secret(path: Path) -> str:
    """Return the key that Airflow's parts sign their tokens with: made once, readable by its owner only."""
    if not path.exists():
        write_private(path, secrets.token_hex(48))
    return path.read_text("utf-8")
