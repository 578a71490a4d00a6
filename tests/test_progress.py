from __future__ import annotations

import json
import sys

import pytest

from skumatch import progress
from skumatch.progress import emit, track


def test_silent_where_nobody_follows(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SKUMATCH_EVENTS", raising=False)
    with track("embed", 3) as advance:
        advance(3)
    emit("result", a=1)
    assert capfd.readouterr() == ("", "")


def test_a_log_gets_a_line_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SKUMATCH_EVENTS", raising=False)
    clock = iter(10.0 * step for step in range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with track("import", 10) as advance:
        for _ in range(10):
            advance()
    with track("hash", None, "bytes") as advance:
        for number in range(4):
            advance(1_000, f"part {number}")
    assert capfd.readouterr().err.splitlines() == [
        "import: 3 of 10 images, about 1 min left",
        "import: 6 of 10 images, about 1 min left",
        "import: 9 of 10 images, about 1 min left",
        "hash: 3,000 bytes (part 2)",
    ]


def test_a_bar_shows_brackets_and_braces_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SKUMATCH_EVENTS", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with track("gc", 1, "files") as advance:
        advance(1, "[red] {x} [/no]")
    assert "[red] {x} [/no]" in capfd.readouterr().err


def test_a_follower_reads_lines_at_most_every_two_seconds_and_always_the_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKUMATCH_EVENTS", "1")
    clock = iter([100.0 + step * 0.5 for step in range(100)])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with track("embed", 20) as advance:
        for _ in range(20):
            advance(1, "fast")
    lines = [
        json.loads(line.removeprefix("skumatch-progress ")) for line in capfd.readouterr().out.splitlines()
    ]
    assert lines[-1] == {"stage": "embed", "done": 20, "total": 20, "unit": "images", "text": "fast"}
    assert 3 <= len(lines) <= 12
