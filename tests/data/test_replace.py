"""Imports that are killed, and imports at the same time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skumatch.data.delivery.importer import import_data
from skumatch.data.delivery.replace import exclusive
from skumatch.errors import StorageError
from tests.conftest import Delivery, draw
from tests.data.test_importer import hashes

# Kills a child at its n-th change of a file at `root`'s level or below, for n = 1, 2, ... until one comes
# through; after
# each, a second child imports again. Children are forked from a process that has imported everything and
# started no thread.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from skumatch.data.delivery.importer import import_data

place, before, delivery = (Path(word) for word in sys.argv[1:])
WATCHED = {"open", "os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}

def child(step):
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    seen = 0
    def hook(event, args):
        nonlocal seen
        is_path = bool(args) and isinstance(args[0], (str, bytes))
        if event in WATCHED and is_path and os.fsdecode(args[0]).startswith(str(place)):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    if step:
        sys.addaudithook(hook)
    import_data(delivery, place / "data")
    os._exit(0)

step = 0
while True:
    step += 1
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(before, place / "data")
    ended = child(step)
    left = place / "data" if (place / "data").exists() else place / ".data.old"
    print(step, ended, (left / "import.json").read_text().count("quarantined"), flush=True)
    assert child(0) == 0
    shutil.copytree(place, place.with_name("seen") / str(step))
    if ended == 0:
        break
    assert ended == -signal.SIGKILL, ended
"""


def test_an_import_killed_at_any_step_is_put_right_by_the_next(delivery: Delivery, tmp_path: Path) -> None:
    folder = delivery()
    import_data(folder, tmp_path / "before")
    draw(folder / "all/train/sku 1/new.png", "new")
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    import_data(folder, tmp_path / "after")
    words = [sys.executable, "-c", KILLED, tmp_path / "place", tmp_path / "before", folder]
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    steps = sorted((tmp_path / "seen").iterdir())
    assert len(steps) > 15, "there is more than one place to be killed at"
    for step in steps:
        assert [path.name for path in step.iterdir()] == ["data"]
        assert hashes(step / "data") == hashes(tmp_path / "after")


def test_a_second_import_at_the_same_time_is_told_to_wait(delivery: Delivery, tmp_path: Path) -> None:
    folder, root = delivery(), tmp_path / "data"
    code = "import sys; from pathlib import Path; from skumatch.data.delivery.replace import exclusive\n"
    code += "with exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout and other.stdout.readline() == "held\n"
    with pytest.raises(StorageError, match="Another import into .* is running"):
        import_data(folder, root)
    other.communicate()
    assert import_data(folder, root).images == 24
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".data")] == []


def test_the_holder_may_import(delivery: Delivery, tmp_path: Path) -> None:
    with exclusive(tmp_path / "data"):
        assert import_data(delivery(), tmp_path / "data").images == 24
        assert (tmp_path / ".data.lock").exists(), "still held"
