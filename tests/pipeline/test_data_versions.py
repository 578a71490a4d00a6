"""Changes of the data with a real remote: whole or not at all, recorded, and undone."""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from skumatch import config
from skumatch.config import Settings
from skumatch.data import deltas, shards
from skumatch.data.delivery.additions import add
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import columns_of, images, read_manifest
from skumatch.data.products import read_products, retired
from skumatch.data.shards import ShardStore
from skumatch.data.version import Make, Version, read_version
from skumatch.errors import DataError, StorageError
from skumatch.files import md5, read_json, write_json
from skumatch.pipeline import data_versions
from skumatch.pipeline.data_record import DataRecord
from skumatch.pipeline.data_versions import Changed, Reason, begin_import, change, settle, undo
from skumatch.pipeline.erasure_record import ErasureRecord
from skumatch.pipeline.repository import Repository, md5_of
from tests.conftest import ROOT, draw
from tests.data.test_importer import hashes
from tests.proving import count

WHO = Reason("Ada", "a test", "week 48")


class Shop:
    """A project whose data/ is under DVC, with a home and a remote of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.project, self.remote = root, root / "project", root / "remote"
        self.data, self.pointer_file = self.project / "data", self.project / "data.dvc"
        self.settings = Settings(project=self.project, home=root / "home", remote=str(self.remote))

    @classmethod
    def make(cls, root: Path) -> Shop:
        shop = cls(root)
        shop.project.mkdir(parents=True)
        for sku in ("Cola", "Tea", "Soap"):
            for name in ("train/{}/0.png", "train/{}/1.png", "test/{}/0.png"):
                draw(root / "first/all" / name.format(sku), name.format(sku))
        import_data(root / "first", shop.data)
        begin_import(shop.settings, "", WHO, "9 images of 3 SKUs")
        Repository(shop.project, shop.settings).add("data")
        settle(shop.settings)
        return shop

    @property
    def version(self) -> str:
        return md5_of(self.pointer_file.read_text())

    @property
    def record(self) -> DataRecord:
        return DataRecord(self.settings)

    def change(self, make: Make, action: Any = "retire") -> Changed:
        return change(self.settings, action, make, WHO, ("others",))

    def retire(self, *skus: str) -> Changed:
        return self.change(lambda version, _: deltas.retire(version, dict.fromkeys(skus, "a test")))

    def bring_back(self, *skus: str) -> Changed:
        names = dict.fromkeys(skus, "a test")
        return self.change(lambda version, _: deltas.bring_back(version, names), "bring back")

    def remove(self, *ids: str) -> Changed:
        return self.change(lambda version, _: deltas.remove(version, ids), "remove")

    def add(self, name: str, *pictures: str) -> Changed:
        for picture in pictures:
            draw(self.root / name / picture, f"{name} {picture}")
        return self.change(lambda version, store: add(version, self.root / name, store, "train", 32), "add")

    def undo(self) -> Changed:
        return undo(self.settings, WHO)

    def only_tables(self) -> None:
        """As where a version was fetched in part."""
        shutil.rmtree(self.data / "shards")

    def fresh(self, name: str) -> Shop:
        """Another machine that has data.dvc, and nothing else."""
        folder = self.root / name
        other = Shop(folder)
        other.remote = self.remote
        other.project.mkdir(parents=True)
        shutil.copyfile(self.pointer_file, other.pointer_file)
        other.settings = Settings(project=other.project, home=folder / "home", remote=str(self.remote))
        return other

    def checkout(self, name: str) -> Path:
        """The version that data.dvc names, fetched anew out of the remote alone."""
        other = self.fresh(name)
        Repository(other.project, other.settings).pull("data.dvc")
        return other.data

    def actions(self) -> list[str]:
        """The actions that led to the version, newest first."""
        return [change.action for change in self.record.chain(self.version)]

    def objects(self) -> dict[str, int]:
        """The remote's files with their sizes."""
        folder = self.remote / "files"
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.stat().st_size for path in paths}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop.make(tmp_path)


def assert_sound(root: Path) -> None:
    """Every row finds the bytes that its hash names, in shards that the manifest names and no others."""
    rows = read_manifest(root)
    pictures = images(root, rows)
    digests = [hashlib.sha256(pictures.read_bytes(place)).hexdigest() for place in range(len(rows))]
    assert digests == rows["sha256"].tolist()
    assert {path.name for path in (root / "shards").iterdir()} == set(rows["shard"])


def test_only_changed_files_are_written_and_sent(shop: Shop) -> None:
    """The shards aren't even here."""
    shop.only_tables()
    before = shop.objects()
    changed = shop.add("week", "Juice/0.png")
    new = shop.objects().keys() - before.keys()
    tables = 2  # manifest.parquet and import.json; quarantine.json is as it was
    assert changed.changed and len(new) == 1 + tables + 1, "a shard, the tables, the list of files"
    assert len(list((shop.data / "shards").iterdir())) == 1
    before = shop.objects()
    shop.retire("Tea")
    assert len(shop.objects().keys() - before.keys()) <= 3, "products.parquet, import.json, the list of files"
    root = shop.checkout("elsewhere")
    assert_sound(root)
    assert retired(read_products(root)) == {"Tea"} and "Juice" in read_version(root).skus


def test_a_change_needs_no_data_here(shop: Shop) -> None:
    other = shop.fresh("clone")
    other.root = shop.root
    other.retire("Tea")
    assert not any((other.data / "shards").iterdir()) and retired(read_products(other.data)) == {"Tea"}
    assert_sound(other.checkout("clone/elsewhere"))


def test_products_back_on_sale_leave_the_version_as_it_was(shop: Shop) -> None:
    first = shop.version
    shop.only_tables()
    shop.retire("Tea")
    assert shop.bring_back("Tea").after == first == shop.version
    assert_sound(shop.checkout("elsewhere"))


def test_a_removed_picture_leaves_the_shards_here_and_there(shop: Shop) -> None:
    row = read_manifest(shop.data).set_index("id").loc["train/Tea/0.png"]
    count = len(read_manifest(shop.data)["shard"].unique())
    shop.only_tables()
    shop.remove("train/Tea/0.png")
    assert len(list((shop.data / "shards").iterdir())) == 1 < count - 1, "one was fetched, and written anew"
    root = shop.checkout("elsewhere")
    assert_sound(root)
    assert not (root / "shards" / row["shard"]).exists()
    assert row["sha256"] not in set(read_manifest(root)["sha256"])


# Undo.


def test_undo_goes_back_step_by_step_to_the_first_version(shop: Shop) -> None:
    first = shop.version
    files = hashes(shop.data)
    second = shop.retire("Tea").after
    third = shop.add("week", "Juice/0.png").after
    shop.remove("train/Cola/0.png")
    assert shop.undo().after == third and shop.undo().after == second
    assert retired(read_products(shop.data)) == {"Tea"}
    changed = shop.undo()
    assert (changed.after, changed.back, shop.version) == (first, ["Tea"], first)
    assert hashes(shop.data) == files
    with pytest.raises(DataError, match="can't be undone: it is the first; `git checkout REF"):
        shop.undo()
    assert hashes(shop.data) == files and shop.version == first


def test_undo_where_the_version_is_here_in_part(shop: Shop) -> None:
    first = shop.version
    shop.remove("train/Tea/0.png")
    shop.only_tables()
    shop.undo()
    assert shop.version == first and not (shop.data / "shards").exists()
    assert "train/Tea/0.png" in set(read_manifest(shop.data)["id"])
    assert_sound(shop.checkout("elsewhere"))


def test_undo_goes_the_way_that_the_data_came(shop: Shop) -> None:
    """A product that was retired and is sold again leaves a version that came about twice."""
    first = shop.version
    second = shop.retire("Tea").after
    assert shop.bring_back("Tea").after == first
    assert [change.action for change in shop.record.chain(first)] == ["bring back", "retire", "import"]
    assert shop.undo().after == second
    assert [change.action for change in shop.record.chain(second)] == ["retire", "import"]
    assert shop.undo().after == first
    assert [change.action for change in shop.record.chain(first)] == ["import"]
    with pytest.raises(DataError, match="it is the first"):
        shop.undo()
    assert shop.retire("Tea").after == second
    assert [change.action for change in shop.record.chain(second)] == ["retire", "import"]


def test_undo_says_what_the_remote_lost(shop: Shop) -> None:
    shop.retire("Tea")
    version, files = shop.version, hashes(shop.data)
    before = shop.record.changes(version)[0].before
    assert before
    (shop.remote / "files/md5" / before[:2] / before[2:]).unlink()
    with pytest.raises(StorageError, match=f"The remote no longer has data version {before[:12]}"):
        shop.undo()
    assert (shop.version, hashes(shop.data)) == (version, files)


def test_undo_without_a_record_is_refused(shop: Shop) -> None:
    shutil.rmtree(shop.remote / "records")
    with pytest.raises(DataError, match="no change that led to it is on record"):
        shop.undo()
    assert shop.record.chain(shop.version) == []


# The record.


def test_the_record_says_who_when_why_and_which(shop: Shop) -> None:
    first = shop.version
    shop.add("week", "Juice/0.png", "Cola/0.png")
    (change,) = shop.record.changes(shop.version)
    assert (change.action, change.who, change.why, change.source) == ("add", "Ada", "a test", "week 48")
    assert (change.before, change.after) == (first, shop.version)
    assert change.summary == "2 pictures added, 1 product new"
    assert change.products == {"new": ["Juice"]} and len(change.pictures["added"]) == 2
    shop.change(lambda version, _: deltas.rename(version, "Tea", "Cola", merge=True), "rename")
    change = shop.record.chain(shop.version)[0]
    assert change.summary == "3 pictures relabelled, 1 product gone" and change.products == {"gone": ["Tea"]}
    shop.retire("Soap")
    assert shop.record.chain(shop.version)[0].products == {"retired": ["Soap"]}
    assert shop.actions() == ["retire", "rename", "add", "import"]


def test_a_record_keeps_the_first_names_and_counts_all(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_versions, "LISTED", 2)
    shop.add("week", *(f"Juice/{number}.png" for number in range(4)))
    change = shop.record.chain(shop.version)[0]
    assert change.summary == "4 pictures added, 1 product new"
    assert change.pictures["added"] == ["train/Juice/0.png", "train/Juice/1.png"]


def test_a_change_that_changes_nothing_is_not_recorded(shop: Shop) -> None:
    before, objects = shop.version, shop.objects()
    changed = shop.change(lambda version, _: version)
    assert not changed.changed and changed.after == before == shop.version
    assert shop.actions() == ["import"] and shop.objects() == objects


def test_a_damaged_record_is_one_sentence(shop: Shop) -> None:
    (path,) = (shop.remote / "records").rglob("*.json")
    path.write_text("{}")
    with pytest.raises(StorageError, match="A record of data version .* is damaged; restore it"):
        shop.undo()


# Killed, refused, at the same time.


def identity(version: Version, _: ShardStore) -> Version:
    """A command that changes nothing but finishes a killed one."""
    return version


def add_and_retire(shop: Shop) -> Changed:
    """A change that writes a new shard and every table."""
    draw(shop.root / "week/Juice/0.png", "juice")

    def make(version: Version, store: ShardStore) -> Version:
        version = deltas.remove(version, ["train/Cola/1.png"])
        return deltas.retire(add(version, shop.root / "week", store, "train", 32), {"Tea": "a test"})

    return shop.change(make, "add")


CHANGES: dict[str, Callable[[Shop], Changed]] = {"add": add_and_retire, "undo": Shop.undo}
WATCHED = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}


def check_whole(shop: Shop, old: str, new: str, action: str) -> bool:
    """See that the next command leaves the old version or the new one, whole; return whether the new one."""
    assert not shop.change(identity).changed
    version, listing = shop.version, Repository(shop.project, shop.settings).listing("data")
    assert version in (old, new)
    for name in data_versions.TABLES:
        assert (shop.data / name).is_file() is (name in listing)
        assert name not in listing or md5(shop.data / name) == listing[name]
    assert [path.name for path in shop.project.iterdir() if path.name.startswith(".data")] == []
    assert not list((shop.root / "home").glob("data-change*"))
    actions = [change.action for change in shop.record.changes(version)]
    assert actions[0] == action if version == new else action not in actions
    assert_sound(shop.checkout("elsewhere"))
    return version == new


def die_at(step: int, places: Path) -> None:
    """Kill this process at its n-th change of a file below `places`; 0: count them."""
    seen = 0

    def hook(event: str, words: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in WATCHED and any(isinstance(word, str) and word.startswith(str(places)) for word in words):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 0:
                (places.parent / "count").write_text(str(seen))

    sys.addaudithook(hook)


def forked(work: Callable[[], object]) -> int:
    """Do something in a child process; return its exit code."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the child must not go on as the parent
        traceback.print_exc()
        os._exit(1)


def kill_everywhere(before: Path, action: str, old: str, new: str, most: int) -> None:
    """Kill a change at some `most` steps of it, and at the last ones, in a process that started no thread."""
    place, work = before.with_name("place"), CHANGES[action]

    def start(step: int) -> int:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(before, place)
        shards.SHARD_BYTES = 3000
        return forked(lambda: (die_at(step, place), work(Shop(place))))

    assert start(0) == 0
    total = int((place.parent / "count").read_text())
    outcomes = set()
    for step in sorted({*range(1, total + 1, max(1, total // most)), *range(total - 8, total + 1)}):
        assert start(step) == -signal.SIGKILL, step
        code = forked(lambda: os._exit(10 + check_whole(Shop(place), old, new, action)))
        assert code in (10, 11), (step, total)
        outcomes.add(code - 10)
        print(step, total, code - 10, flush=True)
    print("outcomes", sorted(outcomes))


@pytest.mark.parametrize("action", CHANGES)
def test_a_change_killed_at_any_step_is_whole_or_not_at_all(tmp_path: Path, action: str) -> None:
    """The next command ends with the old version or with the new one, in the remote, and on record."""
    shop = Shop.make(tmp_path / "before")
    if action == "undo":
        add_and_retire(shop)
    old = shop.version
    shutil.copytree(tmp_path / "before", tmp_path / "done")
    new = CHANGES[action](Shop(tmp_path / "done")).after
    code = f"from pathlib import Path; from {__name__} import kill_everywhere; import sys; sys.argv.pop(0); "
    code += f"kill_everywhere(Path(sys.argv[0]), *sys.argv[1:4], {count(3, 10_000)})"
    words = [sys.executable, "-c", code, str(tmp_path / "before"), action, old, new]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-1000:] + ended.stderr[-4000:]
    lines = ended.stdout.splitlines()
    assert len(lines) > 8 and lines[-1] == "outcomes [0, 1]", lines


def test_a_killed_change_is_recorded_before_an_import(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DataRecord, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.retire("Tea")
    assert shop.record.changes(shop.version) == []
    settle(shop.settings)
    assert [change.action for change in shop.record.changes(shop.version)] == ["retire"]
    settle(shop.settings)
    assert len(shop.record.changes(shop.version)) == 1


def test_the_next_change_records_a_killed_import(shop: Shop) -> None:
    """It was killed once data.dvc was written."""
    draw(shop.root / "first/all/train/Juice/0.png", "juice")
    import_data(shop.root / "first", shop.data)
    begin_import(shop.settings, shop.pointer_file.read_text(), WHO, "10 images of 4 SKUs")
    Repository(shop.project, shop.settings).add("data")
    assert shop.record.changes(shop.version) == []
    shop.retire("Juice")
    assert shop.actions() == ["retire", "import", "import"]


def test_an_import_that_data_dvc_does_not_name_is_not_recorded(shop: Shop) -> None:
    """The import was killed, so the next change removes its pictures from data/ again."""
    draw(shop.root / "first/all/train/Juice/0.png", "juice")
    import_data(shop.root / "first", shop.data)
    begin_import(shop.settings, shop.pointer_file.read_text(), WHO, "10 images of 4 SKUs")
    shop.retire("Tea")
    assert shop.actions() == ["retire", "import"]
    assert set(read_manifest(shop.data)["sku"]) == {"Cola", "Soap", "Tea"}


def test_the_next_change_records_a_killed_one(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DataRecord, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.retire("Tea")
    shop.add("week", "Juice/0.png")
    assert shop.actions() == ["add", "retire", "import"]


def test_a_note_of_what_did_not_come_through_is_dropped(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    first = shop.version
    with monkeypatch.context() as patch:
        patch.setattr(Repository, "_store_files", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.retire("Tea")
    assert list((shop.root / "home").glob("data-change*")), "the change was under way"
    settle(shop.settings)
    assert not list((shop.root / "home").glob("data-change*"))
    assert [change.action for change in shop.record.changes(first)] == ["import"] and shop.version == first


def test_a_remote_that_is_away_changes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    version, files = shop.version, hashes(shop.data)

    def away(*_: object, **__: object) -> None:
        shutil.move(shop.remote / "files", shop.root / "away")
        (shop.remote / "files").write_text("no folder")

    before = Repository._store_files

    def stored(self: Repository, folder: str, paths: list[str]) -> str:
        away()
        return before(self, folder, paths)

    with monkeypatch.context() as patch:
        patch.setattr(Repository, "_store_files", stored)
        with pytest.raises(StorageError, match="Could not store data.* then run again"):
            shop.remove("train/Tea/0.png")
    assert shop.version == version and hashes(shop.data) == files, "as it was at once"
    (shop.remote / "files").unlink()
    shutil.move(shop.root / "away", shop.remote / "files")
    shop.remove("train/Tea/0.png")
    assert_sound(shop.checkout("elsewhere"))


def test_a_remote_that_cannot_be_read_is_one_sentence(shop: Shop) -> None:
    version, files = shop.version, hashes(shop.data)
    shutil.move(shop.remote, shop.root / "away")
    shop.remote.write_text("no folder")
    works = (lambda: shop.retire("Tea"), shop.undo, shop.actions, shop.record.erasures)
    for work in (*works, ErasureRecord(shop.settings).read):
        with pytest.raises(StorageError, match="check the remote, then run again"):
            work()
    assert shop.version == version and hashes(shop.data) == files


@pytest.mark.parametrize("where", ["shard", "table", "pointer", "note"])
def test_a_full_disk_changes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def refused(*_: object, **__: object) -> None:
        raise StorageError("Could not write: No space left on device; free some space, then run again.")

    targets: dict[str, tuple[Any, str, Callable[..., None]]] = {
        "shard": (shards.ShardWriter, "add", full),
        "table": (pq, "write_table", full),
        "pointer": (Repository, "write_pointer", refused),
        "note": (data_versions, "write_text", refused),
    }
    version, files = shop.version, hashes(shop.data)
    with monkeypatch.context() as patch:
        patch.setattr(*targets[where])
        with pytest.raises(StorageError, match="No space left on device"):
            shop.add("week", "Juice/0.png")
    assert shop.version == version and hashes(shop.data) == files
    assert [path.name for path in shop.project.iterdir() if path.name.startswith(".data")] == []
    assert shop.add("week", "Juice/0.png").changed


def test_a_second_change_at_the_same_time_is_refused(shop: Shop) -> None:
    version, files = shop.version, hashes(shop.data)
    code = "import sys; from pathlib import Path; from skumatch.data.delivery.replace import exclusive\n"
    code += "with exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(shop.data)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        for work in (lambda: shop.retire("Tea"), shop.undo):
            with pytest.raises(StorageError, match="or a change of it, is running; wait for its end"):
                work()
        other.communicate()
    assert shop.version == version and hashes(shop.data) == files
    assert shop.retire("Tea").changed


def test_a_change_leaves_what_a_run_rests_on(shop: Shop) -> None:
    """A run has its own checkout; hard links to one cache must not let a change through to it."""
    run = shop.project / ".skumatch/workspaces/run"
    run.mkdir(parents=True)
    shutil.copyfile(shop.pointer_file, run / "data.dvc")
    Repository(run, shop.settings).pull("data.dvc")
    files = hashes(run)
    shop.add("week", "Juice/0.png")
    shop.remove("train/Tea/0.png")
    shop.undo()
    assert {name: files[name] for name in files if name.startswith("data")} == {
        name: digest for name, digest in hashes(run).items() if name.startswith("data")
    }
    assert_sound(run / "data")


def test_a_version_of_an_older_release_is_changed_and_its_change_undone(shop: Shop) -> None:
    """It has no record, no quarantine.json, and no groups in import.json."""
    shutil.rmtree(shop.remote / "records")
    summary = read_json(shop.data / "import.json")
    del summary["groups"]
    (shop.data / "import.json").unlink()
    write_json(shop.data / "import.json", summary)
    (shop.data / "quarantine.json").unlink()
    Repository(shop.project, shop.settings).add("data")
    first, files = shop.version, hashes(shop.data)
    shop.add("week", "Juice/0.png")
    shop.change(lambda version, _: deltas.rename(version, "Tea", "Green tea"), "rename")
    assert shop.actions() == ["rename", "add"]
    assert_sound(shop.checkout("elsewhere"))
    shop.undo()
    shop.undo()
    assert shop.version == first and hashes(shop.data) == files
    with pytest.raises(DataError, match="no change that led to it is on record"):
        shop.undo()


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\nouts:\n=======\n", "outs: 3\n"])
def test_a_pointer_that_is_none_is_refused(shop: Shop, text: str) -> None:
    files = hashes(shop.data)
    shop.pointer_file.write_text(text)
    for work in (lambda: shop.retire("Tea"), shop.undo):
        with pytest.raises(DataError, match="restore it with `git checkout -- data.dvc`"):
            work()
    assert hashes(shop.data) == files and shop.pointer_file.read_text() == text


def test_data_that_was_never_imported_is_refused(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    for work in (lambda: Shop(tmp_path).retire("Tea"), Shop(tmp_path).undo):
        with pytest.raises(DataError, match="There is no data yet; import some"):
            work()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_table_that_was_changed_by_hand_is_put_back(shop: Shop, in_place: bool) -> None:
    """Even where it was written through the link to DVC's cache."""
    path = shop.data / "manifest.parquet"
    rows = read_manifest(shop.data)
    if not in_place:
        path.unlink()
    else:
        path.chmod(0o644)
    pq.write_table(columns_of(rows.assign(sku="Wrong"), rows.columns.tolist()), path)
    (shop.data / "notes.txt").write_text("by hand")
    shop.retire("Tea")
    assert read_version(shop.data).skus == {"Cola", "Tea", "Soap"}
    assert not (shop.data / "notes.txt").exists()
    assert_sound(shop.checkout("elsewhere"))


def test_a_shard_that_was_changed_by_hand_goes_into_no_version(shop: Shop) -> None:
    path = min((shop.data / "shards").iterdir())
    path.unlink()
    path.write_bytes(b"by hand")
    shop.add("week", "Juice/0.png")
    shop.retire("Tea")
    assert_sound(shop.checkout("elsewhere"))


def test_a_remote_that_lost_a_shard_takes_no_new_version(shop: Shop) -> None:
    """Else data.dvc would name data that can't be fetched."""
    version = shop.version
    shard = next(digest for name, digest in shop_listing(shop).items() if name.startswith("shards/"))
    (shop.remote / "files/md5" / shard[:2] / shard[2:]).unlink()
    shutil.rmtree(shop.root / "home/cache")
    with pytest.raises(StorageError, match="lacks 1 file of data, and so does this machine's cache"):
        shop.retire("Tea")
    assert shop.version == version


def shop_listing(shop: Shop) -> dict[str, str]:
    return Repository(shop.project, shop.settings).listing("data")


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("none")])
def test_a_user_without_a_name_has_a_number(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", none)
    assert config.user() == f"user {os.getuid()}"
