"""The few calls to Airflow's REST API that starting, triggering and following need."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from skumatch import network
from skumatch.config import Settings
from skumatch.errors import ParameterError, ServiceError
from skumatch.files import read_json

RETRAIN, REFRESH = "skumatch_retrain", "skumatch_refresh"  # the DAGs of dags/retrain.py
SERVICE_USER = "skumatch"  # as whom our own commands sign in where people have names
SECONDS = 15.0
PATIENCE_SECONDS, POLL_SECONDS = (
    120.0,
    0.5,
)  # a training on all cores may keep the API server from answering for a while
T = TypeVar("T")


class Airflow:
    """A session with the server of `settings`, as a context manager; fetches its token with the first call.

    Raises ServiceError where the server is away or refuses, ParameterError where it refuses what a user typed
    (400, 422).
    """

    def __init__(self, settings: Settings, seconds: float = SECONDS) -> None:
        self.url, self._settings = settings.airflow_url, settings
        self._client = network.http_client(self.url, seconds, base_url=self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._call("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, json=body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("PATCH", path, json=body)

    def _call(self, method: str, path: str, **content: Any) -> Any:
        try:
            if "Authorization" not in self._client.headers:
                self._client.headers["Authorization"] = f"Bearer {self._token()}"
            answer = self._client.request(method, f"/api/v2{path}", **content)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            what = (
                "check SKUMATCH_AIRFLOW and its user and password"
                if self._settings.airflow
                else "start it with `make up`"
            )
            how = network.through(self.url)
            raise ServiceError(f"Airflow at {self.url} does not answer{how} ({why}); {what}.") from error
        if answer.is_success:
            return answer.json() if answer.content else None
        said = _words(answer)
        if answer.status_code in (400, 422):
            raise ParameterError(f"Airflow refuses this run: {said}")
        raise ServiceError(f"Airflow answers {answer.status_code} to {method} {path}: {said}")

    def _token(self) -> str:
        account = _account(self._settings)
        answer = (
            self._client.post("/auth/token", json=account) if account else self._client.get("/auth/token")
        )
        if answer.status_code in (401, 403):
            where = "SKUMATCH_AIRFLOW" if self._settings.airflow else "SKUMATCH_AIRFLOW_USERS"
            who = f"refuses the user {account['username']}" if account else "wants a user and password"
            raise ServiceError(
                f"Airflow at {self.url} {who}; check {where}, which its servers were started with too."
            )
        if answer.status_code in (404, 405) or (answer.is_success and "access_token" not in answer.text):
            raise ServiceError(
                f"What answers at {self.url} is not Airflow; choose another port (SKUMATCH_AIRFLOW_PORT) or address."
            )
        return str(answer.raise_for_status().json()["access_token"])


def _account(settings: Settings) -> dict[str, str] | None:
    """As whom to sign in; None where everybody is let in."""
    if settings.airflow:
        url = httpx.URL(settings.airflow)
        return {"username": url.username, "password": url.password} if url.username else None
    if settings.airflow_users:
        return {"username": SERVICE_USER, "password": read_json(settings.passwords_file)[SERVICE_USER]}
    return None


def _words(answer: httpx.Response) -> str:
    """The server's own words as one line."""
    try:
        detail = answer.json().get("detail", answer.text)
    except ValueError:
        detail = answer.text
    return " ".join(str(detail).split())[:500]


def patiently(call: Callable[[], T]) -> T:
    """Return what `call` does, asking again for two minutes where Airflow does not answer or fails.

    Only for what may be done twice.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except ServiceError:
            if time.monotonic() > end:
                raise
            time.sleep(POLL_SECONDS)
