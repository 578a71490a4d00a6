from __future__ import annotations

import json

import pytest

from skumatch import progress
from skumatch.progress import emit, track


def test_silent_where_nobody_follows(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SKUMATCH_EVENTS", raising=False)
    with track("embed", 3) as advance:
        advance(3)
    emit("result", a=1)
    assert capfd.readouterr() == ("", "")


def test_a_follower_reads_lines_at_most_every_two_seconds_and_always_the_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKUMATCH_EVENTS", "1")
    clock = iter([100.0 + step * 0.5 for step in range(100)])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with track("embed", 20) as advance:
        for _ in range(20):
            advance(1, "fast")
    lines = [json.loads(line.removeprefix("skumatch-progress ")) for line in capfd.readouterr().out.splitlines()]
    assert lines[-1] == {"stage": "embed", "done": 20, "total": 20, "unit": "images", "text": "fast"}
    assert 3 <= len(lines) <= 12
