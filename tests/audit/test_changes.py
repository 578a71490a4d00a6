"""The record of the data's changes, as an audit tells it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from skumatch.audit import facts
from skumatch.files import write_json
from skumatch.pipeline.data_record import DataChange


def change(number: int, **more: Any) -> dict[str, Any]:
    facts = {
        "action": "add",
        "after": f"v{number}",
        "before": None,
        "pointer": "",
        "who": "ann",
        "why": "",
        "summary": "2 pictures added",
    }
    when = datetime(2026, 11, 1, 8, tzinfo=UTC) + timedelta(days=number)
    return DataChange.model_validate(facts | {"when": when} | more).model_dump(mode="json")


def data_link(folder: Path) -> dict[str, str]:
    (folder / "workspace/data").mkdir(parents=True, exist_ok=True)
    record = SimpleNamespace(inputs=SimpleNamespace(data="md5:abc.dir"))
    dossier: Any = SimpleNamespace(
        there=lambda *parts: folder.joinpath(*parts),
        path=lambda *parts: folder.joinpath(*parts),
        record=record,
    )
    digest, sentence = facts.data(dossier)
    assert digest == "abc.dir"
    return sentence


def test_who_changed_the_data_when_and_why_is_told_newest_first(tmp_path: Path) -> None:
    write_json(
        tmp_path / "data.changes.json",
        [change(2, action="retire", summary="1 product retired", why="delisted"), change(1)],
    )
    assert list(data_link(tmp_path).items())[1:] == [
        ("2026-11-03 08:00 UTC", "retire by ann, 1 product retired: delisted"),
        ("2026-11-02 08:00 UTC", "add by ann, 2 pictures added"),
    ]


def test_many_changes_are_counted_and_those_of_one_minute_told_together(tmp_path: Path) -> None:
    write_json(tmp_path / "data.changes.json", [change(number) for number in range(9, 0, -1)])
    assert data_link(tmp_path)["earlier"] == "4 more changes"
    write_json(tmp_path / "data.changes.json", [change(1, who="bob"), change(1)])
    assert (
        data_link(tmp_path)["2026-11-02 08:00 UTC"]
        == "add by bob, 2 pictures added; add by ann, 2 pictures added"
    )


def test_a_version_without_a_record_says_nothing_of_changes(tmp_path: Path) -> None:
    assert list(data_link(tmp_path)) == ["files"]
