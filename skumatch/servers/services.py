"""The embedded MLflow and Airflow: start, health checks and stop on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sized
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import httpx
from filelock import FileLock

from skumatch import network
from skumatch.config import Settings, check_places, shown
from skumatch.errors import ParameterError, PortInUse, ServiceError
from skumatch.files import write_text
from skumatch.pipeline.dvc_config import configure
from skumatch.progress import Advance, track
from skumatch.servers import processes, servers
from skumatch.servers.airflow_api import REFRESH, RETRAIN, Airflow, patiently
from skumatch.servers.databases import airflow_database, check_databases
from skumatch.started import recorded

START_SECONDS = 600.0  # a busy machine needs minutes; a server that ends is seen at once
ANSWER_SECONDS = 30.0  # of one request; it is sent again
POLL_SECONDS = 0.25
FOOTNOTE = "(Background on this error at"  # SQLAlchemy ends its errors with it, after their reason
POOL = {
    "name": "gpu",
    "slots": 1,
    "description": "One training or embedding at a time.",
    "include_deferred": False,
}


def up(settings: Settings) -> bool:
    """Start the servers and wait until Airflow can run our DAGs.

    If all of them run already, only check that they are healthy. An MLflow of the user's own
    (`settings.mlflow`) is not started.

    Returns:
        True if this call started the servers.

    Raises:
        PortInUse: Another program listens on a port.
        ParameterError: Airflow is the user's own or not installed, or the servers can't take a path.
        ServiceError: A database is damaged, or a server ends, or is not healthy in time; then no newly
            started server is left running. Or the running servers have other settings.
    """
    if settings.airflow:
        raise ParameterError(
            f"Airflow is one of your own, {settings.airflow_url}; "
            "`skumatch retrain` uses it, there is nothing to start."
        )
    if find_spec("airflow") is None:
        cure = "install it with pip install 'skumatch[airflow]', or set SKUMATCH_AIRFLOW to one of your own"
        raise ParameterError(f"Airflow is not installed here; {cure}.")
    check_places(settings)
    with _lock(settings):
        commands = servers.commands(settings)
        if running(settings) == set(commands):
            _check_same(settings)
            with _track(commands) as advance:
                _ready(settings, commands, 0.0, advance)
            return False
        processes.stop(settings.servers_file)
        for name, port in _ports(settings).items():
            check_port(name, port)
        check_databases(settings)
        configure(settings.project, settings)  # after a move or copy `dvc` by hand would use the old folder's
        with ExitStack() as undo, _track(commands) as advance:
            undo.callback(processes.stop, settings.servers_file)
            _start(settings, commands, advance)
            undo.pop_all()
        return True


def down(settings: Settings) -> None:
    """Stop every server that `up` started, with all descendants; do nothing if none runs."""
    with _lock(settings):
        processes.stop(settings.servers_file)


def running(settings: Settings) -> set[str]:
    """Return the names of our running servers: mlflow, api-server, scheduler, dag-processor."""
    return {server.name for server in recorded(settings.servers_file) if server.process()}


def check_port(name: str, port: int) -> None:
    """Check that no other program listens on a port of loopback.

    Args:
        name: `airflow` or `mlflow`, for the error message.
        port: The port.

    Raises:
        PortInUse: Another program listens on `port`.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # So that a port that was closed a moment ago counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            variable = f"SKUMATCH_{name.upper()}_PORT"
            raise PortInUse(
                f"Port {port}, wanted for {name.capitalize()}, is in use; choose another with {variable}=..."
            ) from error


def _start(settings: Settings, commands: dict[str, list[str]], advance: Advance) -> None:
    env, since = servers.environment(settings), time.time()
    # MLflow starts while Airflow's database is made.
    first = {name: commands[name] for name in commands if name == "mlflow"}
    _spawn(settings, first, env)
    _migrate(settings, env)
    servers.write_paths(settings, env)
    servers.write_notice(settings)
    _spawn(settings, {name: commands[name] for name in commands if name not in first}, env)
    _ready(settings, commands, since, advance)


def _ready(settings: Settings, commands: Iterable[str], since: float, advance: Advance) -> None:
    """Wait until every server has reported itself healthy since a moment, and the DAGs can be triggered.

    Args:
        settings: Ports and addresses of the servers.
        commands: Names of the servers.
        since: Seconds since 1970; earlier reports don't count.
        advance: Receives the name of each server once it is healthy.
    """
    with Airflow(settings) as airflow:
        checks: dict[str, Callable[[], bool]] = {
            "mlflow": lambda: _answers(f"{settings.mlflow_url}/health"),
            # The first call to this API takes longer than a task would wait, so it is made here.
            "api-server": lambda: _answers(f"{settings.airflow_url}/execution/health"),
            "scheduler": lambda: _beats(airflow, since),
            "dag-processor": lambda: _shows(airflow, since),
        }
        _wait(settings, [(name, checks[name]) for name in commands], advance)
        patiently(lambda: _open(airflow))  # SQLite refuses one of two simultaneous writes


def _open(airflow: Airflow) -> None:
    """Unpause the DAGs, and create the pool that GPU tasks wait in."""
    for dag in (RETRAIN, REFRESH):
        airflow.patch(f"/dags/{dag}", {"is_paused": False})
    if not any(pool["name"] == POOL["name"] for pool in airflow.get("/pools")["pools"]):
        airflow.post("/pools", POOL)


def _check_same(settings: Settings) -> None:
    """Refuse to reuse servers that were started with other settings, so that none of their runs is stopped.

    Raises:
        ServiceError: The recorded settings differ from `settings`.
    """
    for server in recorded(settings.servers_file):
        if server.origin != _origin(settings):
            home = settings.home_dir
            raise ServiceError(
                f"The servers of {home} run with other settings ({server.origin}); "
                "stop them with `skumatch down` first."
            )


def _origin(settings: Settings) -> str:
    mlflow, remote = shown(settings.mlflow_url), shown(settings.remote_url)
    places = f"Airflow {settings.airflow_url}, MLflow {mlflow}, remote {remote}"
    users = f", users {settings.airflow_users}" if settings.airflow_users else ""
    return f"project {settings.project}, home {settings.home_dir}, {places}{users}"


def _spawn(settings: Settings, commands: dict[str, list[str]], env: dict[str, str]) -> None:
    for name, command in commands.items():
        folder, log = servers.folder(settings, name), _log(settings, name)
        processes.spawn(settings.servers_file, name, command, env, folder, log, _origin(settings))


def _wait(settings: Settings, checks: list[tuple[str, Callable[[], bool]]], advance: Advance) -> None:
    """Poll the checks until each has held once; an ended server or START_SECONDS raise ServiceError."""
    end = time.monotonic() + START_SECONDS
    while checks:
        for server in recorded(settings.servers_file):
            if not server.process():
                log = _log(settings, server.name)
                raise ServiceError(
                    f"The {server.name} ended while starting ({_last_line(log)}); its log is {log}."
                )
        if time.monotonic() > end:
            name, log = checks[0][0], _log(settings, checks[0][0])
            raise ServiceError(
                f"The {name} is not healthy after {START_SECONDS:.0f} s "
                f"({_last_line(log)}); its log is {log}. "
                "On a busy machine run the command again later."
            )
        for check in [check for check in checks if check[1]()]:
            checks.remove(check)
            advance(text=check[0])
        time.sleep(POLL_SECONDS)


def _answers(url: str) -> bool:
    try:
        with network.http_client(url, ANSWER_SECONDS) as client:
            return client.get(url).is_success
    except httpx.TransportError:
        return False


def _beats(airflow: Airflow, since: float) -> bool:
    """Return whether the scheduler of this start, not an earlier one, has reported itself healthy."""
    try:
        beat = airflow.get("/monitor/health")["scheduler"]
    except ServiceError:
        return False
    return beat["status"] == "healthy" and _after(beat["latest_scheduler_heartbeat"], since)


def _shows(airflow: Airflow, since: float) -> bool:
    """Return whether the DAGs were read since this start.

    Raises:
        ServiceError: Airflow can't import a file; with its words.
    """
    try:
        dags = airflow.get("/dags", dag_id_pattern="skumatch")["dags"]
        errors = airflow.get("/importErrors")["import_errors"]
    except ServiceError:
        return False
    for error in errors:
        if _after(error["timestamp"], since):
            raise ServiceError(
                f"Airflow can't import {error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}"
            )
    read = {dag["dag_id"] for dag in dags if not dag["is_stale"] and _after(dag["last_parsed_time"], since)}
    return {RETRAIN, REFRESH} <= read


def _after(moment: str | None, since: float) -> bool:
    return moment is not None and datetime.fromisoformat(moment).timestamp() >= since


def _migrate(settings: Settings, env: dict[str, str]) -> None:
    """Create or upgrade Airflow's database, once for each version of Airflow."""
    database = airflow_database(settings)
    mark = database.mark
    airflow_version = version("apache-airflow-core")
    log = _log(settings, "migrate")
    if database.path.exists() and mark.exists() and mark.read_text("utf-8") == airflow_version:
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        code = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        raise ServiceError(f"Airflow's database could not be made ({_last_line(log)}); the log is {log}.")
    write_text(mark, airflow_version)


def _ports(settings: Settings) -> dict[str, int]:
    ports = {"airflow": settings.airflow_port, "mlflow": settings.mlflow_port}
    return {"airflow": settings.airflow_port} if settings.mlflow else ports


def _track(commands: Sized) -> AbstractContextManager[Advance]:
    return track("start", len(commands), "servers")


def _lock(settings: Settings) -> FileLock:
    settings.home_dir.mkdir(parents=True, exist_ok=True)
    return FileLock(settings.home_dir / "services.lock")


def _log(settings: Settings, name: str) -> Path:
    return settings.home_dir / "logs" / f"{name}.log"


def _last_line(log: Path) -> str:
    text = log.read_text("utf-8", "replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and FOOTNOTE not in line]
    return lines[-1][:300] if lines else "no output"
