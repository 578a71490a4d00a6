"""Client for the parts of Airflow's REST API that are used here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import httpx

from skumatch import network
from skumatch.config import Settings
from skumatch.errors import ParameterError, ServiceError
from skumatch.files import read_json
from skumatch.started import check_airflow

Lines = list[dict[str, Any]]
ASK_SECONDS = 5.0


class TaskLog(Protocol):
    """Log of one try of a task.

    Attributes:
        place: Path or URL at which a person reads it.
    """

    place: str

    def progress(self) -> dict[str, Any]:
        """Return the fields of the newest progress line; empty before the first."""

    def all(self) -> Lines:
        """Return every line; none if the task has written nothing.

        Raises:
            ServiceError: Airflow can't deliver the log.
        """


class WrittenLog:
    """Log of the embedded Airflow: a file of JSON lines.

    Attributes:
        path: Path of the file.
        place: The same as text.
        read: Bytes of the file that are read.
        newest: Fields of the newest progress line; empty before the first.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.place, self.read = path, str(path), 0
        self.newest: dict[str, Any] = {}

    def new(self) -> Lines:
        """Return the complete lines since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.read)
            text = stream.read()
        complete = text[: text.rfind(b"\n") + 1]
        self.read += len(complete)
        return [json.loads(line) for line in complete.splitlines()]

    def progress(self) -> dict[str, Any]:
        """Return the fields of the newest progress line; empty before the first."""
        self.newest = (marked(self.new(), "progress") or [self.newest])[-1]
        return self.newest

    def all(self) -> Lines:
        """Return every line."""
        self.read = 0
        return self.new()


class ServedLog:
    """Log of an Airflow elsewhere.

    Each call reads the whole log, so progress is fetched only once in ASK_SECONDS.

    Attributes:
        ask: Fetches the log's lines.
        place: URL at which a person reads the log.
        asked: Monotonic time of the last fetch for progress, in seconds.
        newest: Fields of the newest progress line; empty before the first.
    """

    def __init__(self, ask: Callable[[], list[Any]], place: str) -> None:
        self.ask, self.place, self.asked = ask, place, -ASK_SECONDS
        self.newest: dict[str, Any] = {}

    def progress(self) -> dict[str, Any]:
        """Return the fields of the newest progress line, at most ASK_SECONDS old; empty before the first."""
        if time.monotonic() - self.asked >= ASK_SECONDS:
            with suppress(ServiceError):  # the log may not exist yet, and only the bar needs it
                self.newest = (marked(self.all(), "progress") or [self.newest])[-1]
            self.asked = time.monotonic()
        return self.newest

    def all(self) -> Lines:
        """Return every line; plain text becomes the field `event`."""
        return [line if isinstance(line, dict) else {"event": line} for line in self.ask()]


def crash(lines: Iterable[dict[str, Any]]) -> str:
    """Return the message of the exception that ended a task without an error line of its own."""
    details = [line["error_detail"] for line in lines if line.get("error_detail")]
    return str(details[-1][0]["exc_value"]) if details else "It ended without a word."


def marked(lines: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the fields of each `skumatch-KIND {json}` line."""
    parts = [str(line.get("event", "")).partition(" ") for line in lines]
    return [json.loads(text) for word, _, text in parts if word == f"skumatch-{kind}"]


RETRAIN, REFRESH = "skumatch_retrain", "skumatch_refresh"  # the DAGs of dags/retrain.py
SERVICE_USER = "skumatch"  # our own commands' user, where Airflow has users
SECONDS = 15.0
# A training on all cores may keep the API server from answering for a while.
PATIENCE_SECONDS, POLL_SECONDS = 120.0, 0.5
T = TypeVar("T")


class Airflow:
    """A session with Airflow's API server, as a context manager; the first call fetches a token.

    Attributes:
        url: URL of the server.

    Raises:
        ServiceError: The server is away or refuses.
        ParameterError: The server refuses a user's input (400, 422).
    """

    def __init__(self, settings: Settings, timeout_s: float = SECONDS) -> None:
        self.url, self._settings = settings.airflow_url, settings
        self._client = network.http_client(self.url, timeout_s, base_url=self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of a GET request to a path below /api/v2."""
        return self._call("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send a POST request to a path below /api/v2, and return the JSON of the answer."""
        return self._call("POST", path, json=body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Send a PATCH request to a path below /api/v2, and return the JSON of the answer."""
        return self._call("PATCH", path, json=body)

    def _call(self, method: str, path: str, **content: Any) -> Any:
        try:
            if "Authorization" not in self._client.headers:
                check_airflow(self._settings)
                self._client.headers["Authorization"] = f"Bearer {self._token()}"
            answer = self._client.request(method, f"/api/v2{path}", **content)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            cure = (
                "check SKUMATCH_AIRFLOW and its user and password"
                if self._settings.airflow
                else "start it with `skumatch up`"
            )
            how = network.through(self.url)
            raise ServiceError(f"Airflow at {self.url} does not answer{how} ({why}); {cure}.") from error
        if answer.is_success:
            return answer.json() if answer.content else None
        detail = _words(answer)
        if answer.status_code in (400, 422):
            raise ParameterError(f"Airflow refuses this run: {detail}")
        raise ServiceError(f"Airflow answers {answer.status_code} to {method} {path}: {detail}")

    def _token(self) -> str:
        account = _account(self._settings)
        answer = (
            self._client.post("/auth/token", json=account) if account else self._client.get("/auth/token")
        )
        if answer.status_code in (401, 403):
            variable = "SKUMATCH_AIRFLOW" if self._settings.airflow else "SKUMATCH_AIRFLOW_USERS"
            why = f"refuses the user {account['username']}" if account else "wants a user and password"
            raise ServiceError(
                f"Airflow at {self.url} {why}; check {variable}, which its servers were started with too."
            )
        if answer.status_code in (404, 405) or (answer.is_success and "access_token" not in answer.text):
            raise ServiceError(
                f"What answers at {self.url} is not Airflow; "
                "choose another port (SKUMATCH_AIRFLOW_PORT) or address."
            )
        return str(answer.raise_for_status().json()["access_token"])


def _account(settings: Settings) -> dict[str, str] | None:
    """Return user and password to sign in with; None where Airflow needs none."""
    if settings.airflow:
        url = httpx.URL(settings.airflow)
        return {"username": url.username, "password": url.password} if url.username else None
    if settings.airflow_users:
        return {"username": SERVICE_USER, "password": read_json(settings.passwords_file)[SERVICE_USER]}
    return None


def _words(answer: httpx.Response) -> str:
    """Return the server's error message on one line of at most 500 characters."""
    try:
        detail = answer.json().get("detail", answer.text)
    except ValueError:
        detail = answer.text
    return " ".join(str(detail).split())[:500]


def patiently(call: Callable[[], T]) -> T:
    """Return the result of `call`, retrying on ServiceError for PATIENCE_SECONDS.

    Args:
        call: An idempotent function, as it may run several times.

    Raises:
        ServiceError: Airflow still doesn't answer, or still fails.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except ServiceError:
            if time.monotonic() > end:
                raise
            time.sleep(POLL_SECONDS)
