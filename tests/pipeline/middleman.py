"""A proxy between a worker and MLflow that forwards requests, until a test loses one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx

OF_ONE_CONNECTION = {
    "connection",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "host",
    "accept-encoding",
}


class Middleman(ThreadingHTTPServer):
    """Proxy that can lose requests, so that they never reach MLflow and get no answer.

    lost: called with `METHOD path` of each request; True loses it. asked: all requests so far.
    """

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lost: Callable[[str], bool] = lambda _: False
        self.asked: list[str] = []
        self.upstream = httpx.Client(base_url=target, timeout=60, trust_env=False)

    @property
    def writes(self) -> list[str]:
        """Those of `asked` that may change anything."""
        return [
            request
            for request in self.asked
            if not request.startswith("GET ") and not request.endswith("/search")
        ]


class Handler(BaseHTTPRequestHandler):
    server: Middleman

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = f"{self.command} {self.path}"
        self.server.asked.append(request)
        if self.server.lost(request):
            return
        response = self.server.upstream.request(
            self.command, self.path, content=body, headers=kept(dict(self.headers))
        )
        self.send_response(response.status_code)
        for name, value in (
            kept(dict(response.headers)) | {"Content-Length": str(len(response.content))}
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 the names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def kept(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in OF_ONE_CONNECTION}


@contextmanager
def between(target: str) -> Iterator[Middleman]:
    """Serve on loopback, in a thread, for as long as the block lasts."""
    with Middleman(target) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
            server.upstream.close()
