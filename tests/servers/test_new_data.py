"""Messages of an import to Airflow and to people, against a server that answers as Airflow does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from skumatch.config import Settings
from skumatch.params import ScheduleParams
from skumatch.pipeline.repository import md5_of
from skumatch.servers import new_data, processes
from skumatch.servers.new_data import announce
from tests.cli import Cli
from tests.conftest import Delivery, free_port, git
from tests.dags.conftest import DAGS

MD5 = "0123456789abcdef0123456789abcdef.dir"
KNOWN = [{"id": 7, "name": "skumatch_data"}, {"id": 8, "name": "skumatch_data_of_another"}]
LATER = "the next scheduled refresh will see this version."


class Stub(BaseHTTPRequestHandler):
    """An Airflow with `assets`; `events` are those it got. A `status` other than 200 refuses an event."""

    assets: ClassVar[list[dict[str, Any]]] = []
    events: ClassVar[list[dict[str, Any]]] = []
    status: ClassVar[int] = 200

    def do_GET(self) -> None:
        self._answer(200, {"assets": self.assets} if "/assets" in self.path else {"access_token": "t"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/v2/assets/events":
            self.events.append(body)
            self._answer(self.status, {"detail": "the database is locked"})
        else:
            self._answer(200, {"access_token": f"of {body['username']}"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def airflow() -> Iterator[tuple[type[Stub], str]]:
    """The server's class and its address."""

    class Own(Stub):
        assets: ClassVar[list[dict[str, Any]]] = list(KNOWN)
        events: ClassVar[list[dict[str, Any]]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Thread(target=server.serve_forever, daemon=True).start()
    yield Own, f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(airflow: tuple[type[Stub], str], tmp_path: Path) -> Settings:
    return Settings(project=tmp_path, home=tmp_path / "home", airflow=f"http://ann:secret@{airflow[1]}")


def test_a_new_version_is_an_event_with_its_md5(airflow: tuple[type[Stub], str], settings: Settings) -> None:
    assert (
        announce(settings, ScheduleParams(), MD5)
        == "Airflow was told; a refresh starts once no import came for 5 min."
    )
    assert airflow[0].events == [{"asset_id": 7, "extra": {"data": MD5}}]
    assert (
        announce(settings, ScheduleParams(debounce_minutes=0), MD5) == "Airflow was told; a refresh starts."
    )


def test_no_event_is_posted_where_none_starts_anything(
    airflow: tuple[type[Stub], str], settings: Settings
) -> None:
    assert announce(settings, ScheduleParams(on_new_data=False), MD5) == ""
    assert airflow[0].events == []


def test_an_airflow_that_refuses_fails_no_import(airflow: tuple[type[Stub], str], settings: Settings) -> None:
    own, _ = airflow
    own.status = 500
    sentence = announce(settings, ScheduleParams(), MD5)
    assert sentence.startswith("No refresh starts now: Airflow answers 500") and sentence.endswith(LATER)
    own.status = 422
    assert "the database is locked; the next scheduled" in announce(settings, ScheduleParams(), MD5)
    own.assets = KNOWN[1:]
    sentence = announce(settings, ScheduleParams(refresh="none"), MD5)
    assert "does not know the data's asset skumatch_data yet" in sentence and sentence.endswith(
        "; `skumatch refresh` starts one."
    )
    away = settings.model_copy(update={"airflow": f"http://ann:secret@127.0.0.1:{free_port()}"})
    sentence = announce(away, ScheduleParams(), MD5)
    assert "does not answer" in sentence and "secret" not in sentence and sentence.endswith(LATER)


def test_another_program_on_airflows_port_is_told_nothing(
    airflow: tuple[type[Stub], str], settings: Settings
) -> None:
    """Of the embedded Airflow only a server that `skumatch up` started counts."""
    own, address = airflow
    here = settings.model_copy(update={"airflow": None, "airflow_port": int(address.partition(":")[2])})
    assert (
        announce(here, ScheduleParams(), MD5) == f"Airflow isn't running, so no refresh starts now; {LATER}"
    )
    assert own.events == []
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    processes.spawn(here.servers_file, "api-server", sleep, {}, here.project, here.home_dir / "log", "test")
    try:
        assert announce(here, ScheduleParams(), MD5).startswith("Airflow was told")
        assert len(own.events) == 1
        unknown = here.model_copy(update={"airflow_users": "ann:admin"})  # set after the servers were started
        assert announce(unknown, ScheduleParams(), MD5).startswith("No refresh starts now: ")
    finally:
        processes.stop(here.servers_file)


def test_the_asset_is_that_of_the_dags() -> None:
    code = "import events; print(events.DATA.name)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=DAGS, capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == [new_data.ASSET]


def test_an_import_tells_of_each_new_version_once(
    airflow: tuple[type[Stub], str], tmp_path: Path, delivery: Delivery
) -> None:
    own, address = airflow
    cli, url = Cli.make(tmp_path), f"http://ann:secret@{address}"
    first = cli("data", "import", delivery(skus=2, train=2, test=1), airflow=url)
    assert first.code == 0 and "Airflow was told; a refresh starts once" in first.out, first
    version = md5_of((cli.project / "data.dvc").read_text())
    again = cli("data", "import", delivery(skus=2, train=2, test=1), airflow=url)
    assert again.code == 0 and "Airflow" not in again.out
    assert [event["extra"] for event in own.events] == [{"data": version}]
    (cli.project / "data.dvc").write_text("<<<<<<< HEAD\n")
    cli.refuses(
        11,
        "restore it with `git checkout -- data.dvc`",
        "data",
        "import",
        delivery(skus=2, train=2, test=1),
        airflow=url,
    )
    (cli.project / "data.dvc").unlink()
    away = cli("data", "sample", "--skus", "2", "--train", "2", "--test", "1", airflow_port=free_port())
    assert away.code == 0 and f"Airflow isn't running, so no refresh starts now; {LATER}" in away.out, away
    assert git(cli.project, "status", "--short", "--", "data.dvc")
