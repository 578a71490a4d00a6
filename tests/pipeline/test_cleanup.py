"""Clean-up of a real remote and cache with a real MLflow, in a far future.

Registered versions stay complete, wherever the clean-up is killed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import uuid
from contextlib import chdir
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skumatch.audit.chain import links
from skumatch.audit.collect import collect
from skumatch.cleanup import cleanup, leftovers
from skumatch.cleanup.cleanup import DAY, Limits, Pile, delete, piles
from skumatch.cleanup.references import Objects, closure, in_history, named, path_of
from skumatch.cleanup.retention import stored
from skumatch.cleanup.stores import File, ObjectStore
from skumatch.errors import CleaningRefused, RegistryUnavailable, StorageError
from skumatch.pipeline.claims import Board
from skumatch.pipeline.inputs import members
from skumatch.pipeline.repository import Repository, md5_of, pointer
from skumatch.registry.journal import Journal, MoveRequest
from skumatch.registry.tracking import Tracking
from tests.conftest import commit, git
from tests.pipeline.world import FLOOR, FUTURE, World, hashes
from tests.proving import IN_PROOF

RESULT = re.compile(r"runs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")
NOW, OLD = 1_000_000_000.0, 500_000_000.0


def needed_paths(world: World) -> set[str]:
    """Objects that the registered version needs, as the test itself reads them from lock and input set."""
    ref = world.registry.resolve("champion")
    lock = world.registry.artifact(ref.run_id, "dvc.lock").decode()
    inputs = ref.tags["skumatch.inputs"]
    digests = named(lock, "lock") | {inputs}
    for name, data in members(world.remote / path_of(inputs)).items():
        if name.endswith(".dvc"):
            digests |= {md5_of(data.decode())}
    for digest in [
        entry for entry in digests if entry.endswith(".dir") and (world.remote / path_of(entry)).is_file()
    ]:
        digests |= {part["md5"] for part in json.loads((world.remote / path_of(digest)).read_text())}
    return {path_of(digest) for digest in digests}


def by_kind(listed: list[Pile]) -> dict[str, set[str]]:
    return {pile.kind: {item.name for item in pile.items} for pile in listed}


def whole(world: World) -> None:
    """Assert that the registered version can be fetched completely and passes `audit --verify`."""
    folder = world.root / f"dossier-{uuid.uuid4().hex}"
    dossier = collect(world.settings, world.registry, world.registry.resolve("champion"), folder)
    assert dossier.facts.missing == ()
    assert [link.name for link in links(dossier, verify=True) if link.verdict == "broken"] == []


def test_today_nothing_is_taken(world: World) -> None:
    names_by_kind = by_kind(piles(world.settings, Limits(7, 90, time.time())))
    assert names_by_kind == {
        kind: set() for kind in ("workspaces", "cache", "remote", "checkpoints", "vectors", "claims")
    }


def test_in_a_year_what_only_the_refused_run_needed_is_taken_and_the_version_stays_whole(
    world: World,
) -> None:
    needed, before = needed_paths(world), hashes(world.root)
    shown = piles(world.settings, FUTURE)
    assert hashes(world.root) == before, "looking writes nothing"
    names_by_kind = by_kind(shown)
    refused = {path_of(digest) for digest in named(world.refused_lock, "lock")} & set(world.remote_files())
    assert (
        refused - needed
        and refused - needed <= names_by_kind["remote"]
        and refused - needed <= names_by_kind["cache"]
    )
    assert all(RESULT.fullmatch(name) or name.startswith("files/") for name in names_by_kind["remote"])
    assert not needed & (names_by_kind["remote"] | names_by_kind["cache"])
    assert any(name.endswith("owner.json") for name in names_by_kind["checkpoints"])
    assert_only_of_refused(world, names_by_kind["vectors"])
    assert sorted(name.partition("-")[0] for name in names_by_kind["claims"]) == [
        "claims/first.json",
        "claims/import",
        "claims/refused.json",
    ]
    gone = delete(world.settings, FUTURE, shown)
    assert {kind: {item.name for item in items} for kind, items in gone.items()} == names_by_kind
    assert needed & before.keys() <= set(world.remote_files())
    assert by_kind(piles(world.settings, FUTURE)) == {kind: set() for kind in names_by_kind}
    whole(world)


def assert_only_of_refused(world: World, taken: set[str]) -> None:
    """Vectors of the encoder that only the refused run trained go.

    Those of the version and of base weights stay.
    """
    paths = (world.remote / "vectors").glob("*/used-*.json")
    notes = {path.parent.name: path.stem.removeprefix("used-") for path in paths}
    needed = {path.split("/")[2] + path.split("/")[3] for path in needed_paths(world)}
    gone = {name.split("/")[1] for name in taken}
    assert gone == {key for key, digest in notes.items() if digest not in needed}
    assert 0 < len(gone) < len(notes)


@IN_PROOF
def test_runs_go_on_after_a_clean_up_and_make_anew_what_is_gone(world: World) -> None:
    delete(world.settings, FUTURE, piles(world.settings, FUTURE))
    message = world.home.pull("again", *FLOOR)
    assert world.home.stages(message, "validate", "split", "frozen")["cached"] == ["validate", "split"]


def test_wherever_it_is_killed_nothing_needed_is_gone_and_the_next_one_ends_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed, shown = needed_paths(world) & set(world.remote_files()), piles(world.settings, FUTURE)
    drop, gone = ObjectStore._drop, list[str]()
    deadly = sum(len(pile.items) for pile in shown) // 2

    def dropping(store: ObjectStore, name: str) -> None:
        drop(store, name)
        gone.append(name)
        assert needed <= set(world.remote_files())
        for root in (world.remote, world.home.home / "cache"):
            assert_sound(root)
        if len(gone) == deadly:
            raise KeyboardInterrupt

    monkeypatch.setattr(ObjectStore, "_drop", dropping)
    with pytest.raises(KeyboardInterrupt):
        delete(world.settings, FUTURE, shown)
    assert Board(str(world.remote)).cleaning() is None, "runs need not wait"
    delete(world.settings, FUTURE, piles(world.settings, FUTURE))
    assert len(gone) > deadly
    assert not any(by_kind(piles(world.settings, FUTURE)).values())
    whole(world)


def assert_sound(root: Path) -> None:
    """Assert that no .dir object lacks a member, no result an object, and no result folder is empty."""
    for path in (root / "files/md5").rglob("*.dir"):
        parts = {path_of(part["md5"]) for part in json.loads(path.read_text())}
        assert all((root / part).is_file() for part in parts), path
    for path in (root / "runs").rglob("*"):
        if RESULT.fullmatch(path.relative_to(root).as_posix()):
            assert all((root / path_of(out["md5"])).exists() for out in _outs(path)), path
        elif root.name == "cache" and len(path.relative_to(root).parts) == 3:
            assert list(path.iterdir()), path


def _outs(path: Path) -> list[dict[str, str]]:
    import yaml

    return list(yaml.safe_load(path.read_text())["outs"])


def test_without_mlflow_nothing_is_taken(world: World) -> None:
    before = hashes(world.root)
    shown = piles(world.settings, FUTURE)
    away = world.settings.model_copy(update={"mlflow": "http://127.0.0.1:9"})
    with pytest.raises(RegistryUnavailable):
        piles(away, FUTURE)
    with pytest.raises(RegistryUnavailable):
        delete(away, FUTURE, shown)
    assert hashes(world.root) == before


def test_an_mlflow_that_knows_nothing_of_the_remote_is_not_believed(world: World, other_mlflow: str) -> None:
    with pytest.raises(CleaningRefused, match="knows of no run whose input set is in"):
        piles(world.settings.model_copy(update={"mlflow": other_mlflow}), FUTURE)


def test_a_version_whose_lock_is_gone_stops_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skumatch.registry.holdings._lock", lambda client, run: "")
    with pytest.raises(CleaningRefused, match=r"rests on what nobody knows: .* has no dvc\.lock"):
        piles(world.settings, FUTURE)


def test_a_damaged_folder_object_stops_all(world: World) -> None:
    data = md5_of((world.home.project / "data.dvc").read_text())
    for root in (world.remote, world.home.home / "cache"):
        path = root / path_of(data)
        path.chmod(0o644)
        path.write_text("[]")
    with pytest.raises(CleaningRefused, match="is damaged, so what it refers to isn't known"):
        piles(world.settings, FUTURE)


def test_foreign_files_and_links_are_left_alone(world: World, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    stranger, linked = path_of(32 * "e"), path_of(32 * "d")
    for folder in (elsewhere / "md5", elsewhere / "run/split-abcdefgh", elsewhere):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "precious").write_text("x")
    (elsewhere / Path(stranger).name).write_text("x")
    for root in (world.remote, world.home.home / "cache"):
        (root / "files/md5/notes.txt").write_text("mine")
        (root / "mine").mkdir()
        (root / "mine/photo.png").write_text("x")
        (root / stranger).parent.symlink_to(elsewhere)
        (root / linked).parent.mkdir(exist_ok=True)
        (root / linked).symlink_to(elsewhere / "precious")
    spaces = world.home.home / "workspaces"
    (spaces / "linked").symlink_to(elsewhere / "run")
    (spaces / "run").mkdir()
    (spaces / "run/train-abcdefgh").symlink_to(elsewhere)
    (spaces / "run/my-notes").mkdir()
    (spaces / "run/my-notes/precious").write_text("x")
    before = hashes(elsewhere)
    delete(world.settings, FUTURE, piles(world.settings, FUTURE))
    assert hashes(elsewhere) == before
    assert (
        (spaces / "linked").is_symlink()
        and (spaces / "run/train-abcdefgh").is_symlink()
        and (spaces / "run/my-notes/precious").is_file()
    )
    for root in (world.remote, world.home.home / "cache"):
        assert (root / "files/md5/notes.txt").is_file() and (root / "mine/photo.png").is_file()
        assert (root / stranger).is_file() and (root / linked).is_symlink()


@pytest.mark.parametrize("name", ["cache", "files"])
def test_a_cache_that_is_a_link_is_not_followed(world: World, tmp_path: Path, name: str) -> None:
    cache = world.home.home / "cache"
    place = cache if name == "cache" else cache / name
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    if name == "cache":
        with pytest.raises(CleaningRefused, match="is a link, and a clean-up follows none"):
            piles(world.settings, FUTURE)
    else:
        assert not any(path.startswith("files/") for path in by_kind(piles(world.settings, FUTURE))["cache"])


def test_workspaces_go_when_their_process_is_gone_and_two_days_old(world: World) -> None:
    home = world.home.home
    left, pulled, audit = (
        home / "workspaces/killed/train-a1b2c3d4",
        home / "workspaces/tmpa1b2c3d4",
        home / "audit-a1b2c3d4",
    )
    for folder in (left, pulled, audit):
        folder.mkdir(parents=True)
        (folder / "file").write_text("12345")
    now = time.time()
    assert not {left, pulled, audit} & leftovers.leftovers(home, now + 47 * 3600).keys()
    folders = leftovers.leftovers(home, now + 49 * 3600)
    assert {left: 5, pulled: 5, audit: 5}.items() <= folders.items()
    with chdir(left):
        assert left not in leftovers.leftovers(home, now + 49 * 3600)
    leftovers.remove([left, pulled, audit])
    assert home / "workspaces/killed" in leftovers.leftovers(home, now + 49 * 3600), (
        "a run's folder goes when nothing is in it"
    )


def test_a_run_in_progress_keeps_what_it_rests_on_however_old_that_is(world: World) -> None:
    board, (claim,) = (
        Board(str(world.remote)),
        [entry for entry in Board(str(world.remote)).claims().values() if entry.run == "refused"],
    )
    assert claim.lock == world.refused_lock and not claim.working
    refused = {path_of(entry) for entry in named(claim.lock, "lock")}
    assert refused & by_kind(piles(world.settings, FUTURE))["remote"]
    shown = piles(world.settings, FUTURE)
    board.write(claim.model_copy(update={"at": FUTURE.now - 6 * DAY}))
    assert not refused & by_kind(piles(world.settings, FUTURE))["remote"]
    before = refused & set(world.remote_files())
    delete(world.settings, FUTURE, shown)  # which was made before the run said so
    assert before <= set(world.remote_files())


def test_every_data_version_that_git_knows_is_kept(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    kept = []
    for number, branch in enumerate(("one", "two")):
        git(tmp_path, "checkout", "-q", "-b", branch)
        for digit in "ab":
            kept.append(f"{number}{31 * digit}.dir")
            (tmp_path / "data.dvc").write_text(pointer(kept[-1], "data"))
            commit(tmp_path, kept[-1])
    git(tmp_path, "checkout", "-q", "one")
    git(tmp_path, "tag", "release", "two")
    git(tmp_path, "branch", "-q", "-D", "two")
    (tmp_path / "data.dvc").write_text(pointer(32 * "9", "data"))
    assert in_history(tmp_path) == {*kept, 32 * "9"}
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{tmp_path}", str(tmp_path / "shallow"))
    with pytest.raises(CleaningRefused, match="only a part of its history"):
        in_history(tmp_path / "shallow")


def test_a_project_within_a_repository_keeps_its_versions_under_every_name_it_had(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    kept = [f"{digit}{31 * 'a'}.dir" for digit in "123"]
    for name, digest in zip(("old", "apps/shelf", "apps/shelf"), kept, strict=True):
        project = tmp_path / name
        project.mkdir(parents=True, exist_ok=True)
        (project / "data.dvc").write_text(pointer(digest, "data"))
        commit(tmp_path, digest)
        shutil.rmtree(tmp_path / "old", ignore_errors=True)
    (project / "data.dvc").unlink()
    assert in_history(project) == set(kept)


def test_data_versions_that_git_cannot_tell_refuse_a_clean_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With git's own reason, whether it refuses, is missing, or passes over a repository further up."""
    project = tmp_path / 'apps/\u00e4 "shelf"\n'
    project.mkdir(parents=True)
    (project / "data.dvc").write_text(pointer(32 * "a", "data"))
    git(tmp_path, "init", "-q", "-b", "main")
    commit(tmp_path, "one")
    (project / "data.dvc").unlink()
    assert in_history(project) == {32 * "a"}, "whatever the folder is called"
    with monkeypatch.context() as other:
        other.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        with pytest.raises(CleaningRefused, match=r"detected dubious ownership .* safe\.directory"):
            in_history(project)
    with monkeypatch.context() as without:
        without.setenv("PATH", "/nowhere")
        with pytest.raises(CleaningRefused, match="there is no git here"):
            in_history(project)
    (tmp_path / ".git/HEAD").unlink()
    with pytest.raises(CleaningRefused, match=rf"it passes over {tmp_path}/\.git"):
        in_history(project)
    shutil.rmtree(tmp_path / ".git")
    (project / "dvc.lock").write_bytes(b"outs: \xff " + b"b" * 32)
    assert in_history(project) == set()
    (project / "dvc.lock").write_text(f"outs: [{32 * 'b'}]")
    assert in_history(project) == {32 * "b"}


def test_a_new_data_version_keeps_the_old_shards_it_shares(world: World) -> None:
    """Uncommitted, of no run: its folder object is young, its unchanged members are not."""
    project = world.home.project
    other = world.root / "other"
    (other / "data").mkdir(parents=True)
    shared = sorted((project / "data/shards").iterdir())[0]
    (other / "data/shard").write_bytes(shared.read_bytes())
    (other / "data/new").write_text("new")
    folder = md5_of(Repository(other, world.settings).add("data"))
    files = {
        name: File(1, NOW if name == path_of(folder) else OLD)
        for name in ObjectStore(str(world.remote)).files()
    }
    kept = closure(stored(files, NOW - 1), (), Objects([ObjectStore(str(world.remote))]))
    assert hashlib.md5(shared.read_bytes(), usedforsecurity=False).hexdigest() in kept and len(kept) == 3


def test_in_a_year_the_run_to_start_from_and_the_versions_are_held_and_before_that_every_run(
    world: World,
) -> None:
    held = cleanup.holdings(Tracking(world.mlflow), FUTURE.runs_since)
    assert {holding.who for holding in held} == {"Run first", f"Version 1 of '{world.model}'"}
    recent = cleanup.holdings(Tracking(world.mlflow), datetime(2020, 1, 1, tzinfo=UTC))
    assert {holding.who for holding in recent} == {
        "Run first",
        "Run refused",
        f"Version 1 of '{world.model}'",
    }


def test_a_run_whose_version_was_removed_but_the_journal_names_is_held(
    other_mlflow: str, tmp_path: Path
) -> None:
    tracking = Tracking(other_mlflow)
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    for run, version in (("served", "1"), ("never", "2"), ("last", "3")):
        tags = {"skumatch.run": run, "skumatch.inputs": 32 * "a", "skumatch.version": version}
        tracking.log_run(
            run, {"release.model_name": "removed"}, {}, tags, {"dvc.lock": tmp_path / "dvc.lock"}
        )
    assert {holding.who for holding in cleanup.holdings(tracking, FUTURE.runs_since)} == {"Run last"}
    since = datetime.now(UTC) - timedelta(days=1)  # a run counts from its end, however early it began
    began, files = since - timedelta(days=1), {"dvc.lock": tmp_path / "dvc.lock"}
    tracking.log_run("long", {}, {}, {"skumatch.inputs": 32 * "a"}, files, started=began)
    assert "Run long" in {holding.who for holding in cleanup.holdings(tracking, since)}
    tracking.log_run("last", {}, {}, {}, {})
    with (
        tracking.client() as client,
        Journal(client, "removed", lambda: None).turn(
            MoveRequest(action="promote", version=1, expected=None, who="somebody", why="it passed")
        ),
    ):
        pass
    assert {holding.who for holding in cleanup.holdings(tracking, FUTURE.runs_since)} == {
        "Run served",
        "Run last",
    }


@IN_PROOF  # an erasure of test_erasing.py deletes on S3 every day
def test_a_remote_on_s3_is_cleaned_the_same(world: World, s3: object) -> None:
    away = ObjectStore("s3://shop/remote")
    for name in world.remote_files():
        away.fs.pipe_file(f"{away.root}/{name}", (world.remote / name).read_bytes())
    away.fs.pipe_file("shop/remote/files/md5/notes.txt", b"mine")
    on_s3 = world.settings.model_copy(update={"remote": "s3://shop/remote"})
    shown = piles(on_s3, FUTURE)
    assert by_kind(shown) == by_kind(piles(world.settings, FUTURE))
    delete(on_s3, FUTURE, shown)
    assert not any(items for items in by_kind(piles(on_s3, FUTURE)).values())
    assert away.fs.exists("shop/remote/files/md5/notes.txt")
    whole(replace(world, settings=on_s3))


def test_an_unreadable_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("a file where a folder should be")
    store = ObjectStore(str(tmp_path))
    assert store.files() == {}
    with pytest.raises(StorageError, match="check the disk or the remote"):
        store.read(["files/md5/x"])
