"""Run a check as the command does, against servers with any answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from skumatch.config import Settings
from skumatch.doctor.finding import Finding, PartCheck, Place, examine
from skumatch.params import Params, RuntimeParams

PARAMS = Params(runtime=RuntimeParams(device="cpu"))
MD5 = "0123456789abcdef0123456789abcdef.dir"
DATA = f"outs:\n- md5: {MD5}\n  size: 10\n  nfiles: 2\n  hash: md5\n  path: data\n"
CURE = "What the check's own error does not say."


def ask(check: Callable[[Place], str], settings: Settings, params: Params | None = PARAMS) -> Finding:
    """Return the check's finding; assert that each finding that is not ok has a remedy."""
    [finding] = examine(Place(settings, params), [PartCheck("it", check, CURE, seconds=60)])
    assert finding.found and bool(finding.fix) == (finding.verdict != "ok"), finding
    return finding


class Stand(BaseHTTPRequestHandler):
    """Airflow's and MLflow's answers, from `answers`: path -> JSON, text, or the status of a refusal."""

    answers: ClassVar[dict[str, Any]] = {}
    date: str | None = None

    def do_GET(self) -> None:
        answer = self.answers.get(self.path.split("?")[0], 404)
        self.send_response_only(answer if isinstance(answer, int) else 200)
        self.send_header("Date", self.date or self.date_time_string())
        self.end_headers()
        self.wfile.write(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Quiet."""
