"""Runs and clean-ups on one remote: mutual waiting, and claims left by killed tasks."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from skumatch.cleanup.references import named
from skumatch.config import Settings
from skumatch.errors import CleaningRefused
from skumatch.pipeline import claims
from skumatch.pipeline.claims import Board, Claim, at_work, cleaning, here
from tests.conftest import wait_until
from tests.pipeline.test_tasks import shapes
from tests.pipeline.world import World


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project with an empty remote."""
    return Settings(project=tmp_path, home=tmp_path / "home", remote=str(tmp_path / "remote"))


def test_a_clean_up_is_refused_while_a_task_or_another_is_at_work(settings: Settings) -> None:
    with at_work(settings, "busy", "train"):
        with pytest.raises(CleaningRefused, match=r"Run busy is at work \(train, on"), cleaning(settings):
            pytest.fail("it was let in")
        assert Board(settings.remote_url).cleaning() is None, "who was refused holds nobody up"
    with cleaning(settings), pytest.raises(CleaningRefused, match="Another clean-up"), cleaning(settings):
        pytest.fail("it was let in")


def test_a_task_claims_before_it_waits_for_a_clean_up(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the other order, each could look before the other has said that it is there."""
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.01)
    began, board = threading.Event(), Board(settings.remote_url)
    with cleaning(settings):
        task = threading.Thread(target=lambda: working(settings, began))
        task.start()
        wait_until(lambda: "waiting.json" in board.claims(), 60)
        assert not began.wait(0.3)
    task.join(60)
    assert began.is_set()


def test_a_try_that_ends_late_leaves_a_newer_claim(settings: Settings) -> None:
    board = Board(settings.remote_url)
    with at_work(settings, "tried-twice", "train", lock="old"):
        newer = Claim(
            host="another", pid=7, at=time.time(), run="tried-twice", task="train", working=True, lock="new"
        )
        board.write(newer)
    assert board.claims()["tried-twice.json"] == newer
    with at_work(settings, "tried-once", "train") as rest_on:
        rest_on("inputs", "lock")
    claim = board.claims()["tried-once.json"]
    assert (claim.working, claim.inputs, claim.lock) == (False, "inputs", "lock")


def test_a_claim_lasts_as_long_as_a_task_may_work(settings: Settings) -> None:
    (settings.project / "params.yaml").write_text("runtime: {timeout_hours: {embed: 90}}")
    with at_work(settings, "long", "embed"):
        (claim,) = Board(settings.remote_url).claims().values()
    assert claim.lasts_hours == 90
    elsewhere = claim.model_copy(update={"host": "another", "working": True})
    assert elsewhere.at_work(time.time() + 91 * 3600) and not elsewhere.at_work(time.time() + 93 * 3600)


def working(settings: Settings, began: threading.Event) -> None:
    with at_work(settings, "waiting", "split"):
        began.set()


def test_an_import_claims_what_it_stores_and_waits_for_a_clean_up(world: World, tmp_path: Path) -> None:
    board, photos = Board(str(world.remote)), shapes(tmp_path / "delivery")
    before = board.claims().keys()
    with cleaning(world.settings):
        words = [sys.executable, "-m", "skumatch", "data", "import", str(photos)]
        importing = subprocess.Popen(
            words, cwd=world.home.project, env=world.home.environment, stdout=subprocess.DEVNULL
        )
        wait_until(lambda: board.claims().keys() - before, 120)
        [name] = board.claims().keys() - before
        assert board.claims()[name].at_work(time.time())
        with pytest.raises(subprocess.TimeoutExpired):
            importing.wait(5)
    assert importing.wait(120) == 0
    claim = board.claims()[name]
    assert (
        claim.task == "import"
        and not claim.working
        and claim.lock == (world.home.project / "data.dvc").read_text()
    )
    assert named(claim.lock, "claim")


def test_the_dead_hold_nobody_up(settings: Settings) -> None:
    dead = {"host": here(), "pid": 2**22 + 1}
    board = Board(settings.remote_url)
    claim = Claim(run="dead", task="train", working=True, at=time.time(), **dead)
    board.write(claim)
    with cleaning(settings):
        assert not claim.at_work(time.time())
        elsewhere = claim.model_copy(update={"host": "another"})
        assert elsewhere.at_work(time.time()) and not elsewhere.at_work(time.time() + 27 * 3600)
    Path(board.cleaning_file).write_text(json.dumps(dead | {"at": time.time(), "name": "x"}))
    assert board.cleaning() is None
    Path(board.cleaning_file).write_text(
        json.dumps(dead | {"host": "another", "at": time.time() - 60, "name": "x"})
    )
    assert board.cleaning() is not None
    assert socket.gethostname() in here()


@pytest.mark.parametrize(("slept_s", "stops"), [(500, False), (700, True), (1300, True)])
def test_a_clean_up_that_slept_too_long_stops(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    slept_s: float,
    stops: bool,
) -> None:
    """Long before its record counts as that of a dead one, after 20 minutes: a run may look in between."""
    now = [time.time()]
    clock = SimpleNamespace(time=lambda: now[0], monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(claims, "time", clock)
    with cleaning(settings) as still:
        still()
        now[0] += slept_s
        if not stops:
            still()
            return
        with pytest.raises(CleaningRefused, match="held up for minutes"):
            still()


def test_of_two_clean_ups_at_once_the_first_one_stops(settings: Settings) -> None:
    board = Board(settings.remote_url)
    with pytest.raises(CleaningRefused, match="another one came in between"), cleaning(settings) as still:
        board.write_cleaning("the second")
        still()
    assert (flag := board.cleaning()) and flag.name == "the second"
    board.end_cleaning("the second")
    assert board.cleaning() is None


def test_a_claim_that_can_not_be_read_stops_all(settings: Settings) -> None:
    board = Board(settings.remote_url)
    Path(board.folder).mkdir(parents=True)
    (Path(board.folder) / "x.json").write_text("{}")
    with pytest.raises(CleaningRefused, match=r"claims/x\.json is no claim of a run"):
        board.claims()
