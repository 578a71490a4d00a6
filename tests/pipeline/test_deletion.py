"""Guards of a clean-up one by one, on small stores, with a stub for MLflow and without any run."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from contextlib import chdir
from pathlib import Path

import pytest

from skumatch.cleanup import cleanup, leftovers
from skumatch.cleanup.cleanup import Limits, Pile, delete, piles
from skumatch.cleanup.references import path_of
from skumatch.cleanup.stores import ObjectStore
from skumatch.config import Settings
from skumatch.errors import CleaningRefused
from skumatch.pipeline.claims import Board, Claim, at_work
from skumatch.pipeline.repository import pointer
from skumatch.registry.holdings import Holding
from tests.conftest import commit, git
from tests.pipeline.world import FUTURE


class Place:
    """A home, and a remote with the objects of a run that MLflow knows, and with an unneeded file."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(
            project=root / "project",
            home=root / "home",
            remote=str(root / "remote"),
            mlflow="http://127.0.0.1:9",
        )
        self.remote, self.project = root / "remote", root / "project"
        self.project.mkdir()
        self.data, self.spare = self.put(b"data"), self.put(b"spare")
        self.inputs = self.put(archive(self.data))
        self.held = [Holding("Run kept", self.inputs, "")]
        patch.setattr(cleanup, "holdings", lambda *_: self.held)

    def put(self, data: bytes) -> str:
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        path = self.remote / path_of(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    def taken(self, limits: Limits = FUTURE) -> set[str]:
        (pile,) = (candidate for candidate in self.piles(limits) if candidate.kind == "remote")
        return {item.name for item in pile.items}

    def piles(self, limits: Limits = FUTURE) -> list[Pile]:
        return piles(self.settings, limits)

    def has(self, digest: str) -> bool:
        return (self.remote / path_of(digest)).is_file()

    def claim(self, working: bool, at: float) -> Claim:
        made = Claim(
            host="another",
            pid=7,
            at=at,
            run="r",
            task="train",
            working=working,
            lock=f"outs: [{{md5: {self.spare}}}]",
        )
        Board(self.settings.remote_url).write(made)
        return made


def archive(data: str) -> bytes:
    """An input set that points to an object."""
    buffer, text = io.BytesIO(), pointer(data, "data").encode()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("data.dvc")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_what_a_known_run_rests_on_stays_and_the_rest_goes(place: Place) -> None:
    assert place.taken() == {path_of(place.spare)}
    delete(place.settings, FUTURE, place.piles())
    assert place.has(place.data) and place.has(place.inputs) and not place.has(place.spare)


def test_what_is_young_stays(place: Place) -> None:
    assert place.taken(Limits(7, 90, time.time())) == set()


def test_what_git_knows_stays(place: Place) -> None:
    git(place.project, "init", "-q", "-b", "main")
    (place.project / "data.dvc").write_text(pointer(place.spare, "data"))
    commit(place.project, "an older data version")
    (place.project / "data.dvc").unlink()
    assert place.taken() == set()


CLAIMS = [(False, 1, True), (True, 25, True), (True, 27, False), (False, 25, False)]


@pytest.mark.parametrize(("working", "age_h", "kept"), CLAIMS)
def test_a_claim_keeps_what_it_names(place: Place, working: bool, age_h: float, kept: bool) -> None:
    """While it is young, or its task may be at work."""
    place.claim(working, FUTURE.now - age_h * 3600)
    assert (place.taken(Limits(0.1, 90, FUTURE.now)) == set()) is kept


def test_what_is_needed_by_the_time_of_deletion_stays(place: Place) -> None:
    shown = place.piles()
    place.claim(False, FUTURE.now)
    gone = delete(place.settings, FUTURE, shown)
    assert place.has(place.spare) and not any(gone.values())


def test_while_a_task_works_nothing_is_deleted(place: Place) -> None:
    shown = place.piles()
    with (
        at_work(place.settings, "busy", "train"),
        pytest.raises(CleaningRefused, match=r"Run busy is at work \(train, on"),
    ):
        delete(place.settings, FUTURE, shown)
    assert place.has(place.spare)


def test_a_clean_up_that_lost_its_turn_deletes_no_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another clean-up takes over after the last look; this one checks again before it deletes."""
    shown, look = place.piles(), cleanup.piles

    def looked(settings: Settings, limits: Limits) -> list[Pile]:
        result = look(settings, limits)
        Board(settings.remote_url).write_cleaning("another")
        return result

    monkeypatch.setattr(cleanup, "piles", looked)
    with pytest.raises(CleaningRefused, match="another one came in between"):
        delete(place.settings, FUTURE, shown)
    assert place.has(place.spare)


def test_an_mlflow_that_knows_nothing_of_the_remote_is_not_believed(place: Place) -> None:
    for place.held in ([], [Holding("Run of another remote", 32 * "9", "")]):
        with pytest.raises(CleaningRefused, match="knows of no run whose input set is in"):
            place.piles()


@pytest.mark.parametrize("name", ["cache", "remote"])
def test_a_store_of_ours_that_is_a_link_is_not_followed(place: Place, tmp_path: Path, name: str) -> None:
    settings = place.settings.model_copy(update={"remote": None})
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).symlink_to(place.remote)
    with pytest.raises(CleaningRefused, match="is a link, and a clean-up follows none"):
        piles(settings, FUTURE)


def test_links_in_a_store_are_none_of_its_files(place: Place, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (place.remote / path_of(32 * "e")).parent.mkdir()
    (place.remote / path_of(32 * "e")).symlink_to(tmp_path / "precious")
    assert path_of(32 * "e") not in ObjectStore(str(place.remote)).files()


def test_a_folder_in_which_a_process_is_stays(tmp_path: Path) -> None:
    left = tmp_path / "workspaces/killed/train-a1b2c3d4"
    left.mkdir(parents=True)
    later = time.time() + 49 * 3600
    with chdir(left):
        assert os.getcwd() == str(left) and left not in leftovers.leftovers(tmp_path, later)
    assert left in leftovers.leftovers(tmp_path, later)
    assert left not in leftovers.leftovers(tmp_path, later - 2 * 3600)
