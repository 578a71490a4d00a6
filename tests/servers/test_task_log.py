"""Contents of a task's log, from its file or through Airflow's API."""

from __future__ import annotations

from pathlib import Path

import pytest

from skumatch.errors import ServiceError
from skumatch.servers import airflow_api
from skumatch.servers.airflow_api import ServedLog, WrittenLog, crash, marked


def test_markers_are_read_and_other_lines_left() -> None:
    lines = [
        {"event": "hello skumatch-progress {}"},
        {"event": 'skumatch-progress {"done": 1}'},
        {"event": 'skumatch-error {"exit_code": 2}'},
        {},
    ]
    assert marked(lines, "progress") == [{"done": 1}]
    assert marked(lines, "error") == [{"exit_code": 2}]


def test_a_task_log_is_read_on_line_by_whole_line(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "attempt=1.log")
    assert log.progress() == {}
    log.path.write_text('{"event": "skumatch-progress {\\"done\\": 1}"}\n{"event": "skumatch-pro')
    assert log.progress() == {"done": 1}
    assert log.progress() == {"done": 1}
    with log.path.open("a") as stream:
        stream.write('gress {\\"done\\": 2}"}\n')
    assert log.progress() == {"done": 2}
    assert len(log.all()) == 2


def test_a_crash_is_told_in_the_exceptions_words() -> None:
    lines = [
        {"event": "a"},
        {
            "event": "Task failed",
            "error_detail": [{"exc_value": "The stage ended with signal SIGKILL and no result."}],
        },
    ]
    assert crash(lines) == "The stage ended with signal SIGKILL and no result."
    assert "without a word" in crash([])


def test_a_served_log_is_asked_for_now_and_then_and_its_absence_only_hides_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request_count = 0

    def ask() -> list[object]:
        nonlocal request_count
        request_count += 1
        if request_count == 1:
            raise ServiceError("Airflow answers 404; there is none yet.")
        return [
            {"event": f'skumatch-progress {{"done": {request_count}}}'},
            "a line that Airflow could not read as JSON",
        ]

    monkeypatch.setattr(airflow_api, "ASK_SECONDS", 60.0)
    log = ServedLog(ask, "the page")
    assert log.progress() == log.progress() == {} and request_count == 1
    log.asked -= 60
    assert log.progress() == log.progress() == {"done": 2} and request_count == 2
    assert log.all()[1] == {"event": "a line that Airflow could not read as JSON"}
