"""Equal results of the pipeline: a retrain and a refresh, on one machine, on two, or with `dvc repro`.

Two machines share only a remote and MLflow; they are killed, repeat each other's work, and have full disks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from skumatch.cleanup.leftovers import leftovers
from skumatch.config import apply_overrides
from skumatch.errors import StorageError
from skumatch.files import md5, sha256
from skumatch.stages.runner import STAGES, TRAINING
from tests.conftest import commit, draw, make_project, wait_until
from tests.pipeline.home import SMOKE, Home, marker
from tests.pipeline.test_refresh import NEW, OLD, deliver
from tests.proving import IN_PROOF

# Every day tests/e2e/test_loop.py kills a training, and tests/model a save of vectors and of checkpoints.
pytestmark = [pytest.mark.live, IN_PROOF]
Task = tuple[str, ...]  # the stages that it does
LONG = ("train.epochs=12", "runtime.checkpoint_seconds=0")  # long enough to be killed half-way
# 8 rounds x 9 tasks x 3 kills = 216 for a retrain, 8 x 7 x 3 = 168 for a refresh; doubled tasks: 72 and 56.
ROUNDS, KILLS = 8, 3
# What a stage saves on its way: folder in the remote, and pattern of its files.
SAVED = {"train": ("checkpoints", "*-*.json"), "embed": ("vectors", "[0-9a-f]*.json")}


@dataclass(frozen=True)
class Course:
    """How a kind of run is done and disturbed.

    hit: stages that are killed while they work, besides kills at any time. bundle: the folder of the result.
    """

    tasks: tuple[Task, ...]
    hit: tuple[str, ...]
    bundle: str


COURSES = {
    "retrain": Course(tuple((stage,) for stage in STAGES), ("train",), "model"),
    "refresh": Course(
        # as dags/retrain.py has them, and a test of it
        (("validate",), ("split",), (*TRAINING, "embed"), ("evaluate",), ("bundle",), ("gate",), ("report",)),
        ("embed", "evaluate", "bundle"),
        "refreshed",
    ),
}


@dataclass(frozen=True)
class Undisturbed:
    """Seconds of each task (by its last stage) with nothing in between, the outs, and the bundle's hash."""

    seconds: dict[str, float]
    outs: dict[str, object]
    bundle: str


@pytest.fixture(scope="module", params=list(COURSES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def deliveries(kind: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The deliveries to import, the run's data last: a refresh has a champion of older data."""
    root = tmp_path_factory.mktemp("source")
    if kind == "refresh":
        return [deliver(root / "first", OLD), deliver(root / "second", (*OLD[:-1], *NEW))]
    sides = [*(("train", number) for number in range(8)), *(("test", number) for number in range(3))]
    for sku, (side, number) in product(range(4), sides):
        draw(root / "all" / side / f"sku {sku}" / f"{number}.png", f"sku {sku} {side} {number}")
    return [root]


@pytest.fixture(scope="module")
def undisturbed(
    kind: str,
    deliveries: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
    mlflow_url: str,
) -> Undisturbed:
    root = tmp_path_factory.mktemp("undisturbed")
    home = machine(kind, root, root / "remote", mlflow_url)
    for older in deliveries[:-1]:
        bring(home, older)
        first = home.task(pulled(home, "retrain", "first", "train.epochs=1"), "stage", *STAGES)
        assert home.task(first, "register")["decision"] == "first"
    bring(home, deliveries[-1])
    message, seconds = pulled(home, kind, "undisturbed"), {}
    for task in COURSES[kind].tasks:
        began = time.monotonic()
        message = home.task(message, "stage", *task)
        seconds[task[-1]] = time.monotonic() - began
    assert kind == "refresh" or not taken_up(kind, home.remote, message)
    return Undisturbed(seconds, hashes(message["lock"]), released(kind, home.remote, message["lock"]))


def machine(kind: str, root: Path, remote: Path, mlflow: str) -> Home:
    """A machine whose params.yaml has the values that other tests pass as overrides; all share one commit."""
    home = Home(make_project(root / "project"), root / "home", remote, mlflow)
    params, own = home.project / "params.yaml", f"release.model_name=two-homes-{kind}"
    tree = apply_overrides(yaml.safe_load(params.read_text("utf-8")), [*SMOKE, *LONG, own])
    params.write_text(yaml.safe_dump(tree), "utf-8")
    commit(home.project, "Tiny")
    return home


def bring(home: Home, delivery: Path) -> None:
    imported = home.command("data", "import", str(delivery))
    assert imported.returncode == 0, imported.stderr


def pulled(home: Home, kind: str, run: str, *overrides: str) -> dict[str, Any]:
    """The first message of a run that starts from no lock, whichever runs of other tests MLflow holds."""
    wanted = {"run": f"{kind}-{run}", "kind": kind, "overrides": overrides}
    return home.task(wanted, "pull") | {"lock": ""}


@pytest.fixture
def homes(
    kind: str,
    deliveries: list[Path],
    undisturbed: object,
    tmp_path: Path,
    mlflow_url: str,
) -> list[Home]:
    """Two machines, after the undisturbed run made the champion that a refresh needs."""
    made = [machine(kind, tmp_path / name, tmp_path / "remote", mlflow_url) for name in ("a", "b")]
    bring(made[0], deliveries[-1])
    return made


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_run_moves_between_homes_through_kills_and_doubles(
    kind: str,
    homes: list[Home],
    undisturbed: Undisturbed,
    round_: int,
) -> None:
    rng, course = random.Random(round_), COURSES[kind]  # noqa: S311 no secret
    message = pulled(homes[0], kind, "disturbed")
    for number, task in enumerate(course.tasks):
        there = homes[(number + 1) % 2]
        if task[-1] in course.hit:
            kill_at_work(there, message, task)
        for kill in range(KILLS):
            kill_after(rng.uniform(0, undisturbed.seconds[task[-1]]), homes[kill % 2], message, task)
        message = twins(homes, message, task)
    assert hashes(message["lock"]) == undisturbed.outs
    assert released(kind, homes[0].remote, message["lock"]) == undisturbed.bundle
    assert taken_up(kind, homes[0].remote, message)
    assert not damaged(homes[0].remote)
    assert not [name for home in homes for name in damaged(home.home / "cache")]
    for home in homes:  # what kills left lies where `gc` finds it, later
        (run,) = (home.home / "workspaces").glob(f"{kind}-*")
        assert set(leftovers(home.home, time.time() + 49 * 3600)) == (set(run.iterdir()) or {run})


@pytest.mark.timeout(3600)
def test_a_disk_that_fills_at_any_write_is_told_and_leaves_what_was_there(
    kind: str,
    homes: list[Home],
    undisturbed: Undisturbed,
) -> None:
    home, rng = homes[1], random.Random(4)  # noqa: S311 no secret
    home.home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(home.home)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        message = pulled(homes[0], kind, "full-disk")
        for task in COURSES[kind].tasks:
            full = [fills_up(home, message, task, rng) for _ in range(12)]
            assert any(full), f"{task[-1]} never met a full disk"
            message = home.task(message, "stage", *task)
        assert hashes(message["lock"]) == undisturbed.outs
        assert not damaged(home.remote) and not damaged(home.home / "cache")
    finally:
        subprocess.run(["umount", "-l", home.home], check=True)


def test_by_hand_the_hashes_are_those_of_the_tasks(
    kind: str,
    deliveries: list[Path],
    undisturbed: Undisturbed,
    tmp_path: Path,
    mlflow_url: str,
) -> None:
    hand = machine(kind, tmp_path, tmp_path / "remote", mlflow_url)
    bring(hand, deliveries[-1])
    inputs = hand.command("pull", *(["--refresh"] if kind == "refresh" else []))
    assert inputs.returncode == 0, inputs.stderr
    activated = hand.environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["dvc", "repro"],
        cwd=hand.project,
        env=activated,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_hand = hashes((hand.project / "dvc.lock").read_text("utf-8"))
    assert list(by_hand) == list(STAGES) and by_hand == undisturbed.outs


def fills_up(home: Home, message: dict[str, Any], task: Task, rng: random.Random) -> bool:
    """Do the task with a few pages of room; whether the disk was full, a typed error that may pass."""
    ballast = home.home / "ballast"
    free = os.statvfs(home.home)
    ballast.write_bytes(bytes(max(0, free.f_bavail - rng.randrange(1, 60)) * free.f_frsize))
    process = started(home, message, task)
    output = process.communicate(timeout=600)[0]
    ballast.unlink()
    error = marker(output, "error")
    assert process.returncode in (0, StorageError.exit_code), output
    assert process.returncode == 0 or error["retry"], output
    return bool(process.returncode)


def kill_at_work(home: Home, message: dict[str, Any], task: Task) -> None:
    """Kill all processes of the task with SIGKILL while its last stage works.

    By then its checkpoints lie in the remote, or else a part of its outs in its workspace.
    """
    stage = task[-1]
    folder, pattern = SAVED.get(stage, ("", ""))

    def half_done() -> list[Path]:
        if folder:
            return list((home.remote / folder).rglob(pattern))
        begun = (home.home / "workspaces").glob(f"*/{stage}-*/out/{stage}/**/*")
        return [path for path in begun if path.is_file()]

    assert not half_done(), "another one's"
    process = started(home, message, task)
    wait_until(lambda: half_done() or process.poll() is not None, 120, pause_s=0.01)
    assert process.poll() is None, process.stdout and process.stdout.read()
    kill(process)
    assert process.returncode == -signal.SIGKILL
    assert list((home.home / "workspaces").glob(f"*/{stage}-*")), "it had not ended"


def kill_after(seconds: float, home: Home, message: dict[str, Any], task: Task) -> None:
    process = started(home, message, task)
    time.sleep(seconds)
    kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    if process.stdout:
        process.stdout.close()


def started(home: Home, message: dict[str, Any], task: Task) -> subprocess.Popen[str]:
    process = home.start("stage", *task)
    assert process.stdin
    process.stdin.write(json.dumps(message))
    process.stdin.close()
    process.stdin = None
    return process


def twins(homes: list[Home], message: dict[str, Any], task: Task) -> dict[str, Any]:
    """Run the task twice at once: both give one result, or the loser ends with a typed error."""
    processes = [started(home, message, task) for home in homes]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    results, errors = [], []
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            errors.append(marker(output, "error"))
        else:
            results.append(marker(output, "result"))
    assert results and all(error["sentence"] for error in errors), outputs
    assert len({json.dumps(hashes(result["lock"])) for result in results}) == 1
    return results[0]


def outs(lock: str) -> dict[str, list[dict[str, Any]]]:
    return {stage: entry["outs"] for stage, entry in yaml.safe_load(lock)["stages"].items()}


def hashes(lock: str) -> dict[str, object]:
    return {stage: [[out["path"], out["md5"]] for out in made] for stage, made in outs(lock).items()}


def released(kind: str, remote: Path, lock: str) -> str:
    """The hash of the bundle that a run of this kind makes, as the remote holds it."""
    (folder,) = outs(lock)["bundle"]
    listed = json.loads(stored(remote, folder["md5"]).read_text("utf-8"))
    manifest = f"{COURSES[kind].bundle}/bundle.json"
    return sha256(next(stored(remote, entry["md5"]) for entry in listed if entry["relpath"] == manifest))


def stored(store: Path, digest: str) -> Path:
    """An object of a DVC cache or remote."""
    return store / "files/md5" / digest[:2] / digest[2:]


def damaged(store: Path) -> list[str]:
    """Objects of a DVC cache or remote whose bytes aren't those of their name."""
    files = [path for path in (store / "files/md5").rglob("*") if path.is_file()]
    objects = [path for path in files if len(path.name.removesuffix(".dir")) == 30]
    assert objects, f"{store} holds nothing"
    return [str(path) for path in objects if path.parent.name + path.name.removesuffix(".dir") != md5(path)]


def taken_up(kind: str, remote: Path, message: dict[str, Any]) -> bool:
    """Return whether a later attempt went on from checkpoints or vectors that a killed one had saved."""
    if kind == "refresh":
        return int(message["vectors"]["champion"]["known"]) > 0
    (owner,) = (remote / "checkpoints").rglob("owner.json")
    return int(json.loads(owner.read_text())["attempt"]) > 1
