"""A remote's password stays where its user put it: nothing that is said of the remote has it."""

from __future__ import annotations

import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.config import Settings, shown
from skumatch.errors import DataError, Relayed, SkumatchError, StorageError
from skumatch.model.checkpoint import Checkpoints
from skumatch.pipeline.repository import Repository, pointer
from skumatch.servers import services
from tests.conftest import free_port
from tests.e2e.needles import USER, places

PASSWORD = "hunter2andahalf"  # noqa: S105 a needle
WORDS = st.text(min_size=1).filter(lambda text: not any(mark.isspace() or mark == "/" for mark in text))


class Refusing(BaseHTTPRequestHandler):
    """A remote that refuses everybody and records the requests."""

    asked: list[str | None] = []  # noqa: RUF012 one for all requests

    def refuse(self) -> None:
        self.asked.append(self.headers["Authorization"])
        self.send_error(403)

    do_GET = do_HEAD = do_POST = do_PUT = refuse  # noqa: N815 the names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield address(server.server_port)
        server.shutdown()


def address(port: int) -> str:
    return f"http://{USER}:{PASSWORD}@127.0.0.1:{port}/store"


def told(call: Callable[[], object]) -> list[str]:
    """The sentence of the error that `call` raises, and all that led to it."""
    with pytest.raises((StorageError, DataError), match=r"check the") as caught:
        call()
    return [str(caught.value), *traceback.format_exception(caught.value)]


def test_a_remote_that_does_not_work_is_told_without_its_password(refusing: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    (tmp_path / "y.dvc").write_text(pointer("0" * 32, "y"))
    away, messages = address(free_port()), []
    for remote in (refusing, away):
        repository = Repository(tmp_path, Settings(project=tmp_path, home=tmp_path / "home", remote=remote))
        messages += [*told(lambda: repository.add("x")), *told(lambda: repository.pull("y.dvc"))]  # noqa: B023 called at once
    messages += told(lambda: Checkpoints(away, "key"))
    assert f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}" in Refusing.asked, "it was used"
    assert places([PASSWORD], tmp_path, messages) == {PASSWORD: {".dvc/config.local"}}
    assert (tmp_path / ".dvc/config.local").stat().st_mode & 0o077 == 0


def test_the_record_of_the_servers_has_no_password(tmp_path: Path) -> None:
    url = f"https://{USER}:{PASSWORD}@example.org"
    origin = services._origin(Settings(project=tmp_path, home=tmp_path, remote=f"{url}/store", mlflow=url))
    assert "https://example.org/store" in origin and PASSWORD not in origin


@given(WORDS, WORDS)
def test_no_error_tells_the_credentials_of_an_address(user: str, password: str) -> None:
    """For any characters in them, and any code that puts the address into the sentence."""
    sentence, clean = (
        f"There is no https://{user}:{password}@example.org/x; correct it.",
        "There is no https://example.org/x; correct it.",
    )
    errors: tuple[SkumatchError, ...] = (StorageError(sentence), Relayed(sentence, "StorageError", 21, True))
    assert (
        {str(error) for error in errors}
        == {str(error.as_dict()["sentence"]) for error in errors}
        == {shown(sentence)}
        == {clean}
    )
