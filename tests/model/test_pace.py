from __future__ import annotations

import json
from pathlib import Path

import pytest

from skumatch.model import pace as module
from skumatch.model.pace import Pace
from skumatch.pipeline.worker import _pace


def test_validation_is_no_part_of_the_time_in_which_pictures_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    pace = Pace(size=8, steps=4, first=0)

    def batches():  # type: ignore[no-untyped-def]
        for _ in range(2):
            now[0] += 1.0  # until it comes
            yield None

    for _ in pace.timed(batches()):
        now[0] += 3.0
    with pace.paused():
        now[0] += 8.0
    assert pace.figures(2) == {"images_per_second": 1.0, "waiting_share": 0.25, "seconds_left": 16.0}


def test_an_epoch_that_is_judged_after_a_resume_has_no_pace_yet(tmp_path: Path) -> None:
    live = tmp_path / "live.jsonl"
    Pace(size=8, steps=4, first=2, live=live).tell(2, {"epoch": 1, "top1": 0.5})
    assert json.loads(live.read_text("utf-8")) == {"epoch": 1, "step": 2, "top1": 0.5}
    assert _pace(live) == {}, "and the run says of it no more"
