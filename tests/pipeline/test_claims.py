"""Runs and clean-ups on one remote: who waits for whom, and what the dead leave."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from skumatch.config import Settings
from skumatch.errors import CleaningRefused
from skumatch.pipeline import claims
from skumatch.pipeline.claims import Board, Claim, at_work, cleaning, here
from skumatch.pipeline.cleanup import delete, piles
from skumatch.pipeline.references import named
from tests.conftest import wait_until
from tests.pipeline.test_tasks import shapes
from tests.pipeline.world import FUTURE, World


def test_while_a_task_works_nothing_is_deleted_and_a_task_waits_for_a_clean_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, before = piles(world.settings, FUTURE), set(world.remote_files())
    with at_work(world.settings, "busy", "train"), pytest.raises(CleaningRefused, match=r"Run busy is at work \(train, on"):
        delete(world.settings, FUTURE, shown)
    assert set(world.remote_files()) - before == {"claims/busy.json"}
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.01)
    with cleaning(world.settings):
        with pytest.raises(CleaningRefused, match="Another clean-up"), cleaning(world.settings):
            pass
        began = threading.Event()
        task = threading.Thread(target=lambda: working(world.settings, began))
        task.start()
        assert not began.wait(0.3)
    task.join(10)
    assert began.is_set()


def test_a_try_that_ends_late_leaves_the_claim_of_the_one_that_took_over(world: World) -> None:
    board = Board(str(world.remote))
    with at_work(world.settings, "tried-twice", "train", lock="old"):
        newer = Claim(host="another", pid=7, at=time.time(), run="tried-twice", task="train", working=True, lock="new")
        board.write(newer)
    assert board.claims()["tried-twice.json"] == newer
    with at_work(world.settings, "tried-once", "train") as rest_on:
        rest_on("inputs", "lock")
    found = board.claims()["tried-once.json"]
    assert (found.working, found.inputs, found.lock) == (False, "inputs", "lock")


def working(settings: Settings, began: threading.Event) -> None:
    with at_work(settings, "waiting", "split"):
        began.set()


def test_an_import_claims_what_it_stores_and_waits_for_a_clean_up(world: World, tmp_path: Path) -> None:
    board, photos = Board(str(world.remote)), shapes(tmp_path / "delivery")
    before = board.claims().keys()
    with cleaning(world.settings):
        words = [sys.executable, "-m", "skumatch", "data", "import", str(photos)]
        importing = subprocess.Popen(words, cwd=world.home.project, env=world.home.environment, stdout=subprocess.DEVNULL)
        wait_until(lambda: board.claims().keys() - before, 120)
        [name] = board.claims().keys() - before
        assert board.claims()[name].at_work(time.time())
        with pytest.raises(subprocess.TimeoutExpired):
            importing.wait(5)
    assert importing.wait(120) == 0
    claim = board.claims()[name]
    assert claim.task == "import" and not claim.working and claim.lock == (world.home.project / "data.dvc").read_text()
    assert named(claim.lock, "claim")


def test_the_dead_hold_nobody_up(world: World) -> None:
    dead = {"host": here(), "pid": 2**22 + 1}
    board = Board(str(world.remote))
    claim = Claim(run="dead", task="train", working=True, at=time.time(), **dead)
    board.write(claim)
    with cleaning(world.settings):
        assert not claim.at_work(time.time())
        elsewhere = claim.model_copy(update={"host": "another"})
        assert elsewhere.at_work(time.time()) and not elsewhere.at_work(time.time() + 27 * 3600)
    Path(board.cleaning_file).write_text(json.dumps(dead | {"at": time.time(), "name": "x"}))
    assert board.cleaning() is None
    Path(board.cleaning_file).write_text(json.dumps(dead | {"host": "another", "at": time.time() - 60, "name": "x"}))
    assert board.cleaning() is not None
    assert socket.gethostname() in here()


def test_a_clean_up_that_slept_too_long_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CleaningRefused, match="held up for minutes"), cleaning(world.settings) as still:
        still()
        monkeypatch.setattr(claims, "EXPIRY_SECONDS", -1.0)
        still()


def test_of_two_clean_ups_that_started_at_once_the_first_one_stops_and_runs_wait_for_the_second(world: World) -> None:
    board = Board(str(world.remote))
    with pytest.raises(CleaningRefused, match="another one came in between"), cleaning(world.settings) as still:
        board.write_cleaning("the second")
        still()
    assert (found := board.cleaning()) and found.name == "the second"
    board.end_cleaning("the second")
    assert board.cleaning() is None


def test_a_claim_that_can_not_be_read_stops_all(world: World) -> None:
    (world.remote / "claims/x.json").write_text("{}")
    with pytest.raises(CleaningRefused, match=r"claims/x\.json is no claim of a run"):
        piles(world.settings, FUTURE)
