"""skumatch doctor: each check where all is well, and where one thing is wrong; no secret shown, nothing left behind."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from skumatch.config import Settings
from skumatch.doctor import installation, servers, storage
from skumatch.doctor.finding import Check, Finding, Place, Problem, examine
from skumatch.params import Params, RuntimeParams
from tests.cli import Cli
from tests.conftest import commit, free_port

PARAMS = Params(runtime=RuntimeParams(device="cpu"))
DATA = "outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n  size: 10\n  nfiles: 2\n  hash: md5\n  path: data\n"


def ask(check: Check, settings: Settings, params: Params = PARAMS, seconds: float = 60) -> Finding:
    [found] = examine(Place(settings, params), [("it", check)], seconds)
    assert found.verdict == "ok" or found.found
    return found


@pytest.fixture
def here(project: Path, tmp_path: Path) -> Settings:
    return Settings(project=project, home=tmp_path / "home")


def test_packages_are_compared_with_the_lock(here: Settings) -> None:
    assert ask(installation.packages, here).verdict == "ok"
    lock = here.project / "requirements/constraints.txt"
    lock.write_text(re.sub(r"^typer==.*$", "typer==0.0.1", lock.read_text(), flags=re.MULTILINE))
    found = ask(installation.packages, here)
    assert found.verdict == "warning" and "typer" in found.found and "==0.0.1" in found.found
    assert ask(installation.packages, here.model_copy(update={"project": here.home_dir})).verdict == "failed"


def test_the_project_has_data_and_committed_code(here: Settings) -> None:
    assert "no data" in ask(installation.project, here).found
    (here.project / "data.dvc").write_text(DATA)
    commit(here.project, "Data")
    assert ask(installation.project, here).verdict == "ok"
    (here.project / "skumatch/errors.py").write_text("changed")
    assert "uncommitted" in ask(installation.project, here).found


def test_secrets_are_for_their_owner(here: Settings) -> None:
    assert ask(installation.secrets, here).found == "none here"
    here.home_dir.mkdir(parents=True)
    secret = here.home_dir / "airflow.secret"
    secret.write_text("x")
    secret.chmod(0o600)
    assert ask(installation.secrets, here).verdict == "ok"
    secret.chmod(0o640)
    found = ask(installation.secrets, here)
    assert found.verdict == "warning" and str(secret) in found.fix


def test_a_disk_without_room_is_told(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(6 * 2**30))
    assert ask(installation.disk, here).verdict == "ok"
    (here.project / "data.dvc").write_text(DATA.replace("size: 10", f"size: {4 * 2**30}"))
    found = ask(installation.disk, here)
    assert found.verdict == "warning" and "wants 8.0" in found.found


def test_a_gpu_that_is_wanted_and_not_there_is_a_failure(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert ask(installation.gpu, here).verdict in ("ok", "warning")
    assert ask(installation.gpu, here, Params(runtime=RuntimeParams(device="cuda"))).verdict == "failed"


def test_the_remote_is_written_and_read_and_nothing_stays(here: Settings, tmp_path: Path) -> None:
    assert ask(storage.remote, here).verdict == "ok"
    assert not list(Path(here.remote_url).iterdir())
    (tmp_path / "file").write_text("in the way")
    found = ask(storage.remote, here.model_copy(update={"remote": str(tmp_path / "file" / "remote")}))
    assert found.verdict == "failed" and "rights" in found.fix


def test_a_store_that_forgets_or_lies_is_told(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.cat_file", lambda *_: b"other")
    found = ask(storage.remote, here)
    assert found.verdict == "failed" and "something else" in found.found


def test_the_remote_has_the_data_or_not(here: Settings) -> None:
    assert ask(storage.data, here).verdict == "skipped"
    (here.project / "data.dvc").write_text(DATA)
    assert "lacks the data version 0123456789ab" in ask(storage.data, here).found
    there = Path(here.remote_url) / "files/md5/01/23456789abcdef0123456789abcdef.dir"
    there.parent.mkdir(parents=True)
    there.write_text("[]")
    assert ask(storage.data, here).verdict == "ok"


class Stand(BaseHTTPRequestHandler):
    """Airflow's and MLflow's answers, from `answers`: path -> JSON or text."""

    answers: ClassVar[dict[str, Any]] = {}
    date: str | None = None

    def do_GET(self) -> None:
        found = self.answers.get(self.path.split("?")[0])
        self.send_response_only(200 if found is not None else 404)
        self.send_header("Date", self.date or self.date_time_string())
        self.end_headers()
        self.wfile.write(found.encode() if isinstance(found, str) else json.dumps(found).encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def stand(here: Settings) -> Iterator[tuple[type[Stand], Settings]]:
    class Own(Stand):
        answers: ClassVar[dict[str, Any]] = {
            "/auth/token": {"access_token": "t"},
            "/api/v2/version": {"version": servers.version("apache-airflow-core")},
            "/api/v2/monitor/health": {"metadatabase": {"status": "healthy"}, "scheduler": {"status": "healthy"}, "triggerer": None},
            "/api/v2/importErrors": {"import_errors": []},
            "/api/v2/dags": {"dags": [{"dag_id": "skumatch_retrain", "is_paused": False}]},
            "/api/v2/pools": {"pools": [{"name": "gpu"}]},
            "/health": "OK",
        }

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    yield Own, here.model_copy(update={"airflow_port": port, "mlflow": f"http://127.0.0.1:{port}"})
    server.shutdown()
    server.server_close()


def test_airflow_and_its_parts(stand: tuple[type[Stand], Settings]) -> None:
    own, settings = stand
    assert "healthy: metadatabase, scheduler" in ask(servers.airflow, settings).found
    own.answers["/api/v2/monitor/health"] = {"metadatabase": {"status": "unhealthy"}, "scheduler": {"status": "healthy"}}
    assert "its metadatabase isn't healthy" in ask(servers.airflow, settings).found
    own.answers["/api/v2/monitor/health"] = {"scheduler": {"status": "healthy"}}
    own.answers["/api/v2/version"] = {"version": "2.0.0"}
    found = ask(servers.airflow, settings)
    assert found.verdict == "warning" and "2.0.0 there" in found.found


@pytest.mark.parametrize(("path", "answer", "said"), [
    ("/api/v2/importErrors", {"import_errors": [{"filename": "retrain.py", "stack_trace": "x\nSyntaxError: no"}]}, "SyntaxError: no"),
    ("/api/v2/dags", {"dags": []}, "no DAG skumatch_retrain"),
    ("/api/v2/dags", {"dags": [{"dag_id": "skumatch_retrain", "is_paused": True}]}, "paused"),
    ("/api/v2/pools", {"pools": []}, "no pool"),
])  # fmt: skip
def test_dags_that_would_not_run(stand: tuple[type[Stand], Settings], path: str, answer: Any, said: str) -> None:
    own, settings = stand
    assert ask(servers.dags, settings).verdict == "ok"
    own.answers[path] = answer
    assert said in ask(servers.dags, settings).found


def test_clocks_are_compared(stand: tuple[type[Stand], Settings]) -> None:
    own, settings = stand
    assert ask(servers.clocks, settings).verdict == "ok"
    own.date = "Sat, 01 Jan 2000 00:00:00 GMT"
    assert ask(servers.clocks, settings).verdict == "warning"
    away = settings.model_copy(update={"mlflow": f"http://127.0.0.1:{free_port()}"})
    assert ask(servers.clocks, away).verdict == "skipped"
    assert ask(servers.mlflow, away).verdict == "failed"


def test_without_a_broker_workers_are_not_looked_at_and_a_dead_one_fails(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(servers.BROKER, raising=False)
    assert ask(servers.workers, here).verdict == "skipped"
    pytest.importorskip("celery")
    monkeypatch.setenv(servers.BROKER, f"redis://:s3cr3t@127.0.0.1:{free_port()}/0")
    found = ask(servers.workers, here)
    assert found.verdict == "failed" and "doesn't answer" in found.found and "s3cr3t" not in found.found


def test_a_host_that_never_answers_does_not_hold_up_the_others(here: Settings) -> None:
    def sleeps(_: Place) -> str:
        time.sleep(3)
        raise Problem("late", "never told")

    began = time.monotonic()
    found = list(examine(Place(here, PARAMS), [("slow", sleeps), ("quick", lambda _: "well")], 0.2))
    assert [one.verdict for one in found] == ["failed", "ok"] and "no answer" in found[0].found
    assert time.monotonic() - began < 2.5


def test_the_command_says_what_is_wrong_and_keeps_secrets(project: Path, tmp_path: Path) -> None:
    places = {name: f"http://ann:s3cr3t@127.0.0.1:{free_port()}" for name in ("airflow", "mlflow")}
    done = Cli(project, tmp_path / "home")("doctor", "--json", str(tmp_path / "found.json"), **places)
    assert done.code == 43 and "MLflow" in done.err and "Airflow" in done.err
    verdicts = {one["name"]: one["verdict"] for one in json.loads((tmp_path / "found.json").read_text())}
    assert verdicts["DVC remote"] == verdicts["packages"] == "ok" and verdicts["MLflow"] == verdicts["Airflow"] == "failed"
    assert "s3cr3t" not in done.out + done.err + (tmp_path / "found.json").read_text()
