"""Ports, records and stopping; the servers themselves run in test_follow.py."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy import make_url

from skumatch.config import Settings
from skumatch.errors import ParameterError, PortInUse, ServiceError
from skumatch.progress import silent
from skumatch.servers import processes, servers, services
from skumatch.started import Server, recorded
from tests.conftest import free_port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        project=tmp_path, home=tmp_path / "home", airflow_port=free_port(), mlflow_port=free_port()
    )


def spawn(settings: Settings, name: str, code: str) -> Server:
    record = settings.home_dir / "services.json"
    processes.spawn(
        record,
        name,
        [sys.executable, "-c", code],
        dict(os.environ),
        settings.project,
        settings.home_dir / "logs" / f"{name}.log",
        "test",
    )
    return recorded(record)[-1]


@pytest.mark.parametrize(
    ("field", "variable"),
    [("airflow_port", "SKUMATCH_AIRFLOW_PORT"), ("mlflow_port", "SKUMATCH_MLFLOW_PORT")],
)
def test_a_port_in_use_is_named_with_the_way_out_and_nothing_starts(
    settings: Settings, field: str, variable: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"{port}.*{variable}"):
            services.up(settings.model_copy(update={field: port}))
    assert services.running(settings) == set()
    services.check_port("airflow", port)


def test_without_airflow_the_extra_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "find_spec", lambda name: None if name == "airflow" else object())
    with pytest.raises(ParameterError, match=r"pip install 'skumatch\[airflow\]'.*SKUMATCH_AIRFLOW"):
        services.up(settings)
    assert not settings.home_dir.exists()


def test_an_mlflow_of_the_users_own_is_not_started(settings: Settings) -> None:
    own = settings.model_copy(update={"mlflow": "http://elsewhere:5000"})
    assert "mlflow" in servers.commands(settings)
    assert "mlflow" not in servers.commands(own)
    assert servers.environment(own)["SKUMATCH_MLFLOW"] == "http://elsewhere:5000"


def test_servers_log_in_utf8_whatever_the_terminal_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.home_dir.mkdir()
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:replace")
    assert servers.environment(settings)["PYTHONIOENCODING"] == "utf-8"


@given(st.text(st.sampled_from("aøé店👍 ~#,;=&+:%20?!*()[]'\"\\@"), min_size=1, max_size=20))
@example("søren 100% #1?x=y [z]")
@hypothesis(max_examples=50)
def test_servers_find_a_home_of_any_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(project=Path(folder), home=Path(folder) / name)
        home, env = settings.home_dir, servers.environment(settings)
        mlflow = servers.commands(settings)["mlflow"]
        artifacts = mlflow[mlflow.index("--artifacts-destination") + 1]
        assert make_url(env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]).database == f"{home}/airflow/airflow.db"
        assert local_file_uri_to_path(artifacts) == f"{home}/mlflow/artifacts"
        assert make_url(mlflow[mlflow.index("--backend-store-uri") + 1]).database == "mlflow.db"
        assert servers.folder(settings, "mlflow") == home / "mlflow" and (home / "mlflow").is_dir()


def test_airflow_has_no_default_left_that_holds_its_home(settings: Settings) -> None:
    """Airflow drops a default whose path has a `%` in it, and makes a folder {AIRFLOW_HOME} instead."""
    config = Path(str(files("airflow") / "config_templates/config.yml")).read_text("utf-8")
    options = {
        f"AIRFLOW__{section}__{name}".upper()
        for section, described in yaml.safe_load(config).items()
        for name, option in described["options"].items()
        if "{AIRFLOW_HOME}" in str(option["default"])
    }
    assert len(options) == 5 and options <= set(servers.environment(settings))


def test_airflows_page_explains_its_red_triggerer_in_words_one_may_change(settings: Settings) -> None:
    """Airflow's API server imports the file from its home and shows the notice."""
    servers.write_notice(settings)
    path, read = settings.home_dir / "airflow/config/airflow_local_settings.py", dict[str, Any]()
    exec(path.read_text("utf-8"), read)  # noqa: S102 as Airflow imports it
    (notice,) = read["DASHBOARD_UIALERTS"]
    assert "triggerer" in notice.text and notice.category == "info"
    path.write_text("mine")
    servers.write_notice(settings)
    assert path.read_text() == "mine"


def test_the_secret_is_long_made_once_and_its_owners_only(settings: Settings) -> None:
    settings.home_dir.mkdir()
    first, second = servers.environment(settings), servers.environment(settings)
    path = settings.home_dir / "airflow.secret"
    assert (
        first["AIRFLOW__API_AUTH__JWT_SECRET"] == second["AIRFLOW__API_AUTH__JWT_SECRET"] == path.read_text()
    )
    assert len(path.read_text()) >= 64
    assert path.stat().st_mode & 0o777 == 0o600


def test_stop_ends_children_orphans_and_the_deaf(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 1.0)
    sleep = "import time; time.sleep(600)"
    child = (
        f"import subprocess as s, sys; s.Popen([sys.executable, '-c', '{sleep}'], start_new_session=NEW); "
    )
    spawn(settings, "parent", child.replace("NEW", "True") + sleep)
    spawn(
        settings,
        "deaf",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); " + sleep,
    )
    gone = spawn(settings, "gone", child.replace("NEW", "False"))
    record = settings.home_dir / "services.json"
    family: list[psutil.Process] = []
    for _ in range(1200):
        family = processes._family(recorded(record))
        if not gone.process() and len(family) == 4 and (settings.home_dir / "logs" / "deaf.log").read_text():
            break
        time.sleep(0.05)
    assert len(family) == 4
    services.down(settings)
    assert not [
        process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert not record.exists()
    services.down(settings)


def test_stop_spares_a_stranger_with_a_recorded_pid(settings: Settings) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        record = settings.home_dir / "services.json"
        record.parent.mkdir()
        record.write_text(
            json.dumps([{"name": "mlflow", "pid": stranger.pid, "created": time.time() - 9999, "origin": ""}])
        )
        assert services.running(settings) == set()
        services.down(settings)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_ends_while_starting_is_told_with_its_last_words_and_the_rest_stops(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_migrate", lambda *_: None)
    commands = {"mlflow": "import time; time.sleep(600)", "scheduler": "print('no disk left')"}
    monkeypatch.setattr(
        servers, "commands", lambda _: {name: [sys.executable, "-c", code] for name, code in commands.items()}
    )
    with pytest.raises(
        ServiceError, match=r"scheduler ended while starting \(no disk left\).*scheduler\.log"
    ):
        services.up(settings)
    assert services.running(settings) == set()
    assert not (settings.home_dir / "services.json").exists()


@pytest.mark.parametrize("healthy_after_s", [400, None])
def test_a_start_may_take_minutes_but_not_for_ever(
    healthy_after_s: int | None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=50)
    now = [0]

    def tick() -> int:
        now[0] = next(clock)
        return now[0]

    monkeypatch.setattr(services, "time", SimpleNamespace(monotonic=tick, sleep=lambda _: None))
    healthy = [("mlflow", lambda: healthy_after_s is not None and now[0] >= healthy_after_s)]
    if healthy_after_s:
        services._wait(settings, healthy, silent)
        assert not healthy
    else:
        with pytest.raises(ServiceError, match=r"mlflow is not healthy after .* run the command again later"):
            services._wait(settings, healthy, silent)


def test_servers_with_other_settings_are_not_stopped_by_a_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "commands", lambda _: {"mlflow": ["never"]})
    server = spawn(settings, "mlflow", "import time; time.sleep(600)")
    try:
        with pytest.raises(ServiceError, match=r"run with other settings.*skumatch down"):
            services.up(settings)
        assert server.process()
    finally:
        services.down(settings)


def test_a_database_that_cannot_be_made_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "commands", lambda _: {"scheduler": ["never"]})
    monkeypatch.setattr(services.sys, "executable", "/bin/false")
    with pytest.raises(ServiceError, match=r"database could not be made.*migrate\.log"):
        services.up(settings)
    assert not (settings.home_dir / "airflow" / "migrated").exists()
