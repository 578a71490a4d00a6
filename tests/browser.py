"""A headless Chromium driven over its pipe with the standard library alone: runs a page and measures it."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
)
SECONDS = 90


class Browser:
    """One page. `events` are all of Chromium's messages since the page was opened."""

    def __init__(self, words: int, answers: int) -> None:
        self._words, self._answers, self._rest, self._id = words, answers, b"", 0
        self.events: list[dict[str, Any]] = []
        self._session = ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for name in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{name}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": params} | (
            {"sessionId": self._session} if self._session else {}
        )
        os.write(self._words, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda reply: reply.get("id") == self._id)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def open(self, page: Path, width: int, media: str = "screen") -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self.ask("Emulation.setEmulatedMedia", media=media)
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        if "Page.loadEventFired" not in self.methods:
            self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def value(self, script: str) -> Any:
        """Return the value of the expression in the page."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    @property
    def methods(self) -> set[str]:
        return {event["method"] for event in self.events}

    @property
    def requests(self) -> list[str]:
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def _until(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                tree = json.loads(line)
                if "method" in tree:
                    self.events.append(tree)
                if wanted(tree):
                    return dict(tree)
            assert time.monotonic() < end and select.select([self._answers], [], [], SECONDS)[0], (
                "Chromium doesn't answer"
            )
            chunk = os.read(self._answers, 1 << 20)
            assert chunk, "Chromium ended"
            self._rest += chunk


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A Chromium with a profile of its own, that ends with the block."""
    (there, words), (answers, back) = (_high(os.pipe()) for _ in range(2))

    def connect() -> None:
        os.dup2(there, 3)
        os.dup2(back, 4)

    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    with (profile.parent / "chromium.log").open("w") as log:
        process = subprocess.Popen(
            command,
            preexec_fn=connect,
            pass_fds=(3, 4),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    os.close(there)
    os.close(back)
    try:
        yield Browser(words, answers)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        os.close(words)
        os.close(answers)


def _high(ends: tuple[int, int]) -> tuple[int, ...]:
    """The same pipe on numbers that the child's 3 and 4 can't meet."""
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends)
    for end in ends:
        os.close(end)
    return moved
