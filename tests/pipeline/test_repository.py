"""Behaviour of DVC that the pipeline relies on, in a bare folder with a cache that may be empty."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dvc_objects.fs.generic import copy

from skumatch.config import Settings
from skumatch.errors import DataError, StageFailed, StorageError
from skumatch.pipeline import repository as repositories
from skumatch.pipeline import run_cache
from skumatch.pipeline.repository import Repository, md5_of, pointer
from tests.conftest import git

PIPELINE = """
stages:
  double:
    cmd: mkdir -p out && cat in/a in/a > out/double && echo double >> ran
    deps: [in]
    outs: [out/double]
  count:
    cmd: wc -c < out/double > out/count && echo count >> ran
    deps: [out/double]
    outs: [out/count]
  broken:
    cmd: exit 3
    deps: [out/count]
    outs: [out/broken]
"""


class Place:
    """Folders of one test that share a remote; each has a home, so a cache, of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, name: str, pointer_text: str = "", lock: str = "") -> Repository:
        folder = self.root / name
        folder.mkdir()
        (folder / "dvc.yaml").write_text(PIPELINE)
        if pointer_text:
            (folder / "in.dvc").write_text(pointer_text)
        if lock:
            (folder / "dvc.lock").write_text(lock)
        return Repository(
            folder,
            Settings(project=folder, home=self.root / f"home-{name}", remote=str(self.root / "remote")),
        )

    def again(self, name: str, home: str) -> Repository:
        """The folder `name` with another home."""
        settings = Settings(project=self.root / name, home=self.root / home, remote=str(self.root / "remote"))
        return Repository(self.root / name, settings)

    def inputs(self, name: str, text: str) -> str:
        repository = self.open(name)
        (repository.folder / "in").mkdir()
        (repository.folder / "in/a").write_text(text)
        return repository.add("in")


@pytest.mark.parametrize(
    ("where", "spoil", "ignored"),
    [
        ("project", "", True),
        ("project/.skumatch/workspaces/run", "", False),
        ("nothing", "", False),
        ("project", "another owner", False),
        ("project", "no git", False),
        ("project", "broken", False),
    ],
)
def test_dvc_looks_for_git_where_it_may(
    tmp_path: Path,
    where: str,
    spoil: str,
    ignored: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a project, wherever in its repository, it writes .gitignore; elsewhere it does without git."""
    (tmp_path / "many/project").mkdir(parents=True)
    if where != "nothing":
        git(tmp_path / "many", "init", "-q")
    folder = tmp_path / "many" / where
    (folder / "in").mkdir(parents=True)
    (folder / "in/a").write_text("a")
    if spoil == "another owner":
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    if spoil == "no git":
        monkeypatch.setenv("PATH", "/nowhere")
    if spoil == "broken":
        (tmp_path / "many/.git/HEAD").unlink()
    project = folder if where == "nothing" else tmp_path / "many/project"
    repository = Repository(folder, Settings(project=project, home=tmp_path / "home"))
    assert md5_of(repository.add("in")).endswith(".dir")
    assert (folder / ".gitignore").is_file() is ignored


def ran(repository: Repository) -> list[str]:
    path = repository.folder / "ran"
    return path.read_text().split() if path.is_file() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def finished(place: Place, given: str) -> Repository:
    repository = place.open("first", given)
    repository.reproduce("double")
    repository.reproduce("count")
    assert ran(repository) == ["double", "count"]
    return repository


def test_a_finished_stage_costs_no_run_and_no_inputs_elsewhere(place: Place) -> None:
    given = place.inputs("source", "abc")
    first = finished(place, given)
    second = place.open("second", given, first.lock)
    second.reproduce("double")
    second.reproduce("count")
    assert ran(second) == [] and second.lock == first.lock
    assert not (second.folder / "in").exists()


def test_a_changed_input_that_is_absent_is_noticed(place: Place) -> None:
    lock = finished(place, place.inputs("source", "abc")).lock
    second = place.open("second", place.inputs("changed", "abcd"), lock)
    second.reproduce("double")
    second.reproduce("count")
    assert ran(second) == ["double", "count"]
    assert (second.folder / "out/count").read_text().strip() == "8"


def test_a_stage_goes_on_where_another_machine_ended(place: Place) -> None:
    given = place.inputs("source", "abc")
    first = place.open("first", given)
    first.reproduce("double")
    second = place.open("second", given, first.lock)
    second.reproduce("count")
    assert ran(second) == ["count"]


def test_without_a_lock_the_run_cache_still_knows(place: Place) -> None:
    given = place.inputs("source", "abc")
    first = finished(place, given)
    second = place.open("second", given)
    second.reproduce("double")
    second.reproduce("count")
    assert ran(second) == [] and second.lock == first.lock


def test_an_entry_of_the_run_cache_crosses_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []

    def counted(from_fs: Any, source: str, to_fs: Any, target: str) -> None:
        copied.append(Path(target).relative_to(place.root).parts[0])
        copy(from_fs, source, to_fs, target)

    monkeypatch.setattr(run_cache, "copy", counted)
    given = place.inputs("source", "abc")
    finished(place, given)
    assert copied == ["remote", "remote"], "each stage's own, when it ended"
    copied.clear()
    (place.root / "remote/runs/notes.txt").write_text("none of DVC's")
    second = place.open("second", given)
    second.reproduce("double")
    second.reproduce("count")
    assert ran(second) == [] and copied == ["home-second", "home-second"], "both at once, and neither back"


def test_a_stage_that_fails_leaves_the_lock_alone(place: Place) -> None:
    first = finished(place, place.inputs("source", "abc"))
    lock = first.lock
    with pytest.raises(StageFailed, match="broken"):
        first.reproduce("broken")
    assert first.lock == lock


def test_what_the_remote_lacks_is_said(place: Place) -> None:
    repository = place.open("first", pointer("0" * 32, "in"))
    with pytest.raises((StorageError, DataError), match=r"in"):
        repository.pull("in.dvc")


def test_a_remote_that_cannot_be_written_is_a_storage_error(place: Place) -> None:
    (place.root / "remote").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="check the"):
        place.inputs("source", "abc")


HOLD = """
import sys, time
from dvc.lock import Lock
with Lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    open(sys.argv[3], "w").close()
"""


@contextmanager
def held(repository: Repository, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Another process holds DVC's lock for so long; right before it lets go it leaves a file `let-go`."""
    lock, mark = repository.folder / ".dvc/tmp/lock", repository.folder / "let-go"
    words = [sys.executable, "-c", HOLD, str(lock), str(seconds), str(mark)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.terminate()


def test_a_lock_that_another_process_holds_is_waited_for(place: Place) -> None:
    first = place.open("first", place.inputs("source", "abc"))
    with held(first, 5) as holder:  # longer than DVC waits by itself
        first.reproduce("double")
        assert (first.folder / "let-go").exists() and holder.wait(60) == 0
    assert ran(first) == ["double"] and "double" in first.lock


def test_a_lock_that_is_held_too_long_is_said_and_left_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finished(place, place.inputs("source", "abc"))
    monkeypatch.setattr(repositories, "LOCK_SECONDS", 1.0)
    with held(first, 600) as holder:
        for again in (
            lambda: first.reproduce("count", force=True),
            lambda: first.pull("in.dvc"),
            lambda: first.add("in"),
        ):
            with pytest.raises(
                StorageError,
                match="another process has held DVC's lock for 1 s; wait for its end, then run again",
            ):
                again()
        assert holder.poll() is None and (first.folder / ".dvc/tmp/lock").exists()
    first.pull("in.dvc")
    assert ran(first) == ["double", "count"]


def stored(place: Place) -> set[Path]:
    return {path for path in (place.root / "remote/files").rglob("*") if path.is_file()}


def test_adding_again_sends_what_the_remote_lost(place: Place) -> None:
    """Whichever object it is: a file, the folder's listing, or all."""
    place.inputs("source", "abc")
    repository = place.again("source", "home-source")
    objects = stored(place)
    assert len(objects) == 2 and sum(path.suffix == ".dir" for path in objects) == 1
    for lost in (*[{path} for path in objects], objects):
        for path in lost:
            path.unlink()
        repository.add("in")
        assert stored(place) == objects
    for path in objects:
        path.unlink()
    assert repository.restore("in") == 2 and stored(place) == objects
    assert repository.restore("in") == 0


def test_a_cached_stage_sends_what_the_remote_lost(place: Place) -> None:
    """Else another machine, which has no such cache, would go on without it."""
    first = finished(place, place.inputs("source", "abc"))
    objects = {path for path in stored(place) if path.read_text().strip() in ("abcabc", "6")}
    for path in objects:
        path.unlink()
    first.reproduce("double")
    first.reproduce("count")
    assert len(objects) == 2 and objects <= stored(place) and ran(first) == ["double", "count"]


@pytest.mark.parametrize(
    ("kind", "words"), [(".dir", "neither here nor in the DVC remote"), ("", "lacks 1 file of in")]
)
def test_what_neither_the_cache_nor_the_remote_has_is_said(place: Place, kind: str, words: str) -> None:
    place.inputs("source", "abc")
    next(path for path in stored(place) if path.suffix == kind).unlink()
    shutil.rmtree(place.root / "home-source/cache")
    with pytest.raises(StorageError, match=words):
        place.again("source", "home-source").restore("in")


def test_pointers_name_their_hash(place: Place) -> None:
    text = place.inputs("source", "abc")
    assert md5_of(text).endswith(".dir")
    assert md5_of(pointer("a" * 32, "x.tar")) == "a" * 32


def test_odd_paths_work_and_a_users_own_settings_stay(tmp_path: Path) -> None:
    folder = tmp_path / "a #b, 100% c"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config.local").write_text("[core]\n    autostage = true\n")
    (folder / "x").write_text("x")
    settings = Settings(project=folder, home=folder / "home", remote=str(folder / "remote"))
    text = Repository(folder, settings).add("x")
    assert (folder / "remote/files/md5" / md5_of(text)[:2] / md5_of(text)[2:]).read_text() == "x"
    assert "autostage = true" in (folder / ".dvc/config.local").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\nouts:\n=======\n", "outs: []\n", "outs: 3\n", "- a\n"])
def test_a_pointer_that_a_merge_spoilt_is_one_sentence(text: str) -> None:
    with pytest.raises(DataError, match="restore it with `git checkout -- data.dvc`"):
        md5_of(text)
