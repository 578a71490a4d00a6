"""The broker and its workers: a real Redis with a password, and Celery workers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from skumatch.config import Settings
from skumatch.doctor import servers
from tests.conftest import free_port, wait_until
from tests.doctor.asking import ask

needs_clients = pytest.mark.skipif(
    not (find_spec("celery") and find_spec("redis")),
    reason="needs the extra deployment; `make test-deployment` has it",
)


@contextmanager
def running(*words: str, log: Path) -> Iterator[None]:
    with (
        log.open("wb") as stream,
        subprocess.Popen(words, cwd=log.parent, stdout=stream, stderr=stream) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


def test_where_no_broker_is_known_none_is_asked(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(servers.BROKER, raising=False)
    assert ask(servers.broker, here).verdict == ask(servers.workers, here).verdict == "skipped"
    monkeypatch.setenv(servers.BROKER, "redis://127.0.0.1/0")
    for lacking in ("celery", "redis"):
        monkeypatch.setattr(servers, "find_spec", lambda name, lacking=lacking: name != lacking)
        finding = ask(servers.broker, here)
        assert (
            finding.verdict == "skipped"
            and lacking in finding.found
            and "skumatch[deployment]" in finding.fix
        )


@needs_clients
def test_a_broker_that_is_away_is_told_without_its_password(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(servers.BROKER, f"redis://:s3cr3t@127.0.0.1:{free_port()}/0")
    finding = ask(servers.broker, here)
    assert finding.verdict == "failed" and "refused" in finding.found and "s3cr3t" not in str(finding)


@needs_clients
@pytest.mark.live
def test_every_queue_that_a_stage_needs_has_a_worker_or_not(
    here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("redis-server"):
        pytest.skip("needs redis-server; on Debian: apt install redis-server")
    port = free_port()
    url = f"redis://:s3cr3t@127.0.0.1:{port}/0"
    monkeypatch.setenv(servers.BROKER, url)
    monkeypatch.setattr(servers, "SECONDS", 1.0)
    redis = (
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--requirepass",
        "s3cr3t",
        "--save",
        "",
    )
    worker = (
        sys.executable,
        "-m",
        "celery",
        "--broker",
        url,
        "worker",
        "--pool",
        "solo",
        "--without-mingle",
        "--queues",
    )
    with running(*redis, log=tmp_path / "redis.log"):
        wait_until(lambda: ask(servers.broker, here).verdict == "ok", 60)
        finding = ask(servers.workers, here)
        assert (
            finding.verdict == "failed"
            and finding.found == "no worker answers"
            and "--queues default,gpu" in finding.fix
        )
        with running(*worker, "default", log=tmp_path / "default.log"):
            wait_until(lambda: ask(servers.workers, here).found == "no worker serves the queue gpu", 60)
            with running(*worker, "gpu", "--hostname", "two@here", log=tmp_path / "gpu.log"):
                wait_until(lambda: ask(servers.workers, here).found == "2 workers, serving default, gpu", 60)
        monkeypatch.setenv(servers.BROKER, url.replace("s3cr3t", "n0t1t"))
        finding = ask(servers.broker, here)
        assert finding.verdict == "failed" and "password" in finding.fix and "n0t1t" not in str(finding)
