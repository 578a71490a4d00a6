"""A proxy in front of the object store that can refuse writes, as a store does whose rights were revoked."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OWN = {"transfer-encoding", "connection", "date", "server", "content-length"}
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Gate(ThreadingHTTPServer):
    """Forwards everything to `store` (its port); while `closed`, writing requests are answered with 403."""

    daemon_threads = True

    def __init__(self, port: int, store: int) -> None:
        super().__init__(("127.0.0.1", port), _Forward)
        self.store, self.closed, self.refused = store, False, 0


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def _forward(self) -> None:
        body = self._body()
        if self.server.closed and self.command != "GET" and self.command != "HEAD":
            self.server.refused += 1
            self._answer(403, [("Content-Type", "application/xml")], DENIED, len(DENIED))
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.server.store, timeout=60)
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("transfer-encoding", "expect")
        }
        behind.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        answer = behind.getresponse()
        content = answer.read()
        length = (
            int(answer.headers.get("Content-Length", len(content)))
            if self.command == "HEAD"
            else len(content)
        )
        self._answer(
            answer.status,
            [pair for pair in answer.getheaders() if pair[0].lower() not in OWN],
            content,
            length,
        )
        behind.close()

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is for the tests."""

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815


@contextmanager
def gated(port: int, store: int) -> Iterator[Gate]:
    gate = Gate(port, store)
    thread = threading.Thread(target=gate.serve_forever, daemon=True)
    thread.start()
    try:
        yield gate
    finally:
        gate.shutdown()
        gate.server_close()
        thread.join(10)
