"""A home that was copied or moved: its own servers, its own paths, and none of the original's."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import pytest

from skumatch.config import Settings
from skumatch.errors import RegistryUnavailable, ServiceError
from skumatch.params import Params
from skumatch.pipeline.pull import open_registry, open_tracking
from skumatch.servers import processes, servers, services
from skumatch.servers.airflow_api import Airflow
from skumatch.started import Server, check_airflow, check_mlflow, recorded
from tests.conftest import free_port

SERVERS = "api-server", "mlflow"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project, and a home beside it."""
    project = tmp_path / "project"
    project.mkdir()
    return Settings(
        project=project, home=tmp_path / "home", airflow_port=free_port(), mlflow_port=free_port()
    )


@pytest.fixture
def started(settings: Settings) -> Iterator[list[Server]]:
    """Processes that are recorded as servers of the home."""
    for name in SERVERS:
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        log = settings.home_dir / "log"
        processes.spawn(settings.servers_file, name, sleep, dict(os.environ), settings.project, log, "test")
    started = recorded(settings.servers_file)
    yield started
    for server in started:
        if process := server.process():
            process.kill()


def at(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"home": settings.project.parent / name})


def test_a_copied_home_shares_no_server_with_the_original(settings: Settings, started: list[Server]) -> None:
    """It neither asks nor stops them, though they are on its record and its ports."""
    copy = at(settings, "copy")
    shutil.copytree(settings.home_dir, copy.home_dir)
    assert services.running(copy) == set()
    services.down(copy)
    assert all(server.process() for server in started) and services.running(settings) == set(SERVERS)
    refused: list[tuple[type[Exception], object]] = [
        (ServiceError, lambda: Airflow(copy).get("/dags")),
        (RegistryUnavailable, lambda: open_registry(copy, Params())),
        (RegistryUnavailable, lambda: open_tracking(copy)),
    ]
    for kind, ask in refused:
        with pytest.raises(kind, match=r"copy is not up; start it with `skumatch up`"):
            ask()  # type: ignore[operator]
    check_airflow(settings)
    check_mlflow(settings)


def test_servers_of_ones_own_need_no_record(settings: Settings) -> None:
    own = settings.model_copy(update={"airflow": "http://a.example", "mlflow": "http://b.example"})
    check_airflow(own)
    check_mlflow(own)


def test_a_moved_home_keeps_its_servers_until_they_start_anew(
    settings: Settings, started: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They work with the old paths, so nothing may be asked of them; `down` stops them."""
    moved = at(settings, "moved")
    settings.home_dir.rename(moved.home_dir)
    for kind, check in ((ServiceError, check_airflow), (RegistryUnavailable, check_mlflow)):
        with pytest.raises(kind, match=rf"moved was started when .* was {settings.home_dir}; .*skumatch up"):
            check(moved)
    monkeypatch.setattr(servers, "commands", lambda _: {name: ["never"] for name in SERVERS})
    with pytest.raises(ServiceError, match=r"run with other settings.*skumatch down"):
        services.up(moved)
    services.down(moved)
    assert not any(server.process() for server in started)


def test_up_with_another_home_is_another_start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing else differs: the remote may lie elsewhere."""
    shared = settings.model_copy(update={"remote": str(settings.project.parent / "remote")})
    moved = at(shared, "moved")
    origins = {services._origin(place) for place in (shared, moved)}
    assert len(origins) == 2


def test_a_start_brings_dvc_and_airflow_to_todays_folder(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For `dvc` and `airflow` by hand: what the servers use stands in their environment."""
    config = settings.home_dir / "airflow/airflow.cfg"
    config.parent.mkdir(parents=True)
    config.write_text(
        "[core]\ndags_folder = /old/dags\nfernet_key = k%%\n# a note\nplugins_folder = /old/plugins\n"
        "[database]\nsql_alchemy_conn = sqlite:////old/airflow.db\n"
        "[logging]\nbase_log_folder = /old/logs\ndag_processor_child_process_log_directory = /old/logs/d\n"
    )
    servers.write_paths(settings, servers.environment(settings))
    read = RawConfigParser()
    read.read(config)
    home = settings.home_dir
    assert "/old" not in config.read_text() and "# a note" in config.read_text()
    assert read["core"]["dags_folder"] == f"{settings.project}/dags" and read["core"]["fernet_key"] == "k%%"
    assert read["database"]["sql_alchemy_conn"] == f"sqlite:///{home}/airflow/airflow.db"
    assert read["logging"]["base_log_folder"] == f"{home}/airflow/logs"
    local = settings.project / ".dvc/config.local"
    local.parent.mkdir()
    local.write_text(
        "[core]\n    autostage = true\n    site_cache_dir = /old/dvc\n[cache]\n    dir = /old/cache\n"
        "['remote \"shared\"']\n    url = /old/remote\n"
    )
    monkeypatch.setattr(services, "_start", lambda *_: None)
    assert services.up(settings)
    assert "/old" not in local.read_text() and "autostage" in local.read_text()
    assert f"url = {home}/remote" in local.read_text()
