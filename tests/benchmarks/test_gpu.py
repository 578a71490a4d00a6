"""`python -m benchmarks gpu`: tiny sizes, parts bounded in time, few packages, no network."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import psutil
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from benchmarks import commands, gpu, limited
from benchmarks.limited import LeftOut, Part, PartOutcome, run_parts
from benchmarks.measure import Row
from skumatch.config import load_params
from skumatch.errors import ParameterError
from tests.benchmarks import timed_parts
from tests.conftest import ROOT, wait_until
from tests.test_readme import commands as commands_in

TRAINING = (ROOT / "docs/training.md").read_text("utf-8")
# Hides modules and cuts the network off in each process of a command.
BARE = """
import socket, sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in HIDDEN:  # but for copies that setuptools brings
            path = [entry for entry in path or sys.path if not entry.endswith("site-packages")]
        return PathFinder.find_spec(name, path, target)

def refuse(*_):
    raise OSError("the network was asked for")

class Socket(socket.socket):
    def connect(self, address):
        return super().connect(address) if self.family == socket.AF_UNIX else refuse()

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
socket.socket, socket.getaddrinfo = Socket, refuse
"""


def listed_packages() -> list[str]:
    [sentence] = re.findall(r"PyTorch\sapart\sit\sneeds\s([^.]+)\.", TRAINING)
    return ["torch", *re.findall(r"`([^`]+)`", sentence)]


def with_needs(names: list[str]) -> set[str]:
    """The packages and, without extras, all that they need, by normalised names."""
    known, waiting = set[str](), list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in known:
            known.add(name)
            needs = map(Requirement, distribution(name).requires or [])
            waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return known


def run_bare(folder: Path, hidden: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command where no card, no network and none of the hidden modules is at hand."""
    (folder / "sitecustomize.py").write_text(f"HIDDEN = {hidden!r}\n{BARE}", "utf-8")
    env = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    env["TORCH_COMPILE_DISABLE"] = "1"  # compiling takes minutes on a CPU; tests/model/test_tower.py does it
    command = [sys.executable, "-m", "benchmarks", "gpu", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_tiny_runs_every_part_with_the_listed_packages_alone(tmp_path: Path) -> None:
    allowed = with_needs(listed_packages())
    hidden = [
        module
        for module, names in packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & {*allowed, "skumatch"}
    ]
    assert {"pandas", "mlflow", "faiss", "pyarrow", "pytest"} <= set(hidden)
    done = run_bare(tmp_path, hidden, "--tiny", "--json", "card.json")
    assert done.returncode == 0, done.stderr
    tree = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert tree["machine"]["tiny"] and tree["machine"]["card"] is None
    assert [part["state"] for part in tree["parts"]] == ["done"] * 8, tree
    rows = {row["name"]: row for part in tree["parts"] for row in part["rows"]}
    for way in ("training", "training, compiled"):
        assert rows[f"{way}, share of the products"]["bound"] == 45
        assert rows[f"{way} with the input pipeline, share of the products"]["bound"] == 45
        assert rows[f"{way}, share of the time spent waiting for pictures"]["bound"] == 5
    for way in ("embedding", "embedding, compiled"):
        assert rows[f"{way}, share of the products"]["bound"] == 60
        assert rows[f"{way} with the input pipeline, share of the products"]["bound"] == 60
        assert rows[f"{way}, share of the time that the input pipeline adds"]["bound"] == 5
    assert all(row["measured"] > 0 for name, row in rows.items() if "share of the products" in name)
    for kind in ("loss", "gradient"):  # the card is the CPU here
        assert rows[f"{kind} of a step in float32, difference to the CPU's"]["measured"] == 0
    assert [row["measured"] for name, row in rows.items() if "same answers" in name] == [100, 100]
    assert all(name in done.stdout for name in ("training, compiled", "exact search of 1,500"))


def has_ended(file: Path) -> bool:
    """Whether the process whose id stands in the file has ended."""
    number = int(file.read_text("utf-8"))
    return not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def test_without_a_card_it_says_that_it_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = CliRunner().invoke(commands.app, ["gpu", "--json", str(tmp_path / "card.json")])
    assert isinstance(ended.exception, ParameterError) and list(tmp_path.iterdir()) == []
    assert "NVIDIA card" in str(ended.exception) and "--tiny" in str(ended.exception)


def test_missing_packages_are_named_in_one_sentence(tmp_path: Path) -> None:
    done = run_bare(tmp_path, ["typer", "open_clip", "simplejpeg"], "--json", "card.json")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "open-clip-torch, simplejpeg, typer" in done.stderr and "torchvision" not in done.stderr


def test_help_lists_the_packages_of_the_document() -> None:
    shown = CliRunner().invoke(commands.app, ["gpu", "--help"], env={"COLUMNS": "400"}).stdout
    [line] = [line for line in shown.splitlines() if "Needs of packages" in line]
    assert sorted(re.split(r",\s+", line.partition(":")[2].strip(" ."))) == sorted(listed_packages())


def test_a_part_over_its_time_is_ended_and_keeps_its_rows(tmp_path: Path) -> None:
    parts = [
        Part("endless", 3, timed_parts.endless, (tmp_path / "child",)),
        Part("quick", 60, timed_parts.quick),
    ]
    endless, quick = run_parts(parts, 600, "fork")
    assert endless.state == "over its time" and "3 s" in endless.reason
    assert [row.name for row in endless.rows] == ["before"] and quick.state == "done"
    assert has_ended(tmp_path / "child")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_part_ends_with_the_command(tmp_path: Path, how: signal.Signals) -> None:
    child = tmp_path / "child"
    lines = (
        "import pathlib, signal, sys",
        "from benchmarks.limited import Part, run_parts",
        "from tests.benchmarks.timed_parts import endless",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "list(run_parts([Part('endless', 60, endless, (pathlib.Path(sys.argv[1]),))], 60, 'fork'))",
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "\n".join(lines), str(child)]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: child.exists() and child.read_text("utf-8"), 60, 0.1)
        process.send_signal(how)
        process.wait()
    wait_until(lambda: has_ended(child), 20, 0.1)


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_a_part_that_is_done_has_its_rows(start: str) -> None:
    [quick] = run_parts([Part("quick", 60, timed_parts.quick)], 600, start)
    assert (quick.state, quick.reason, [row.measured for row in quick.rows]) == ("done", "", [1.0])


@pytest.mark.parametrize(
    ("measure", "state", "reason", "rows"),
    [
        (timed_parts.failing, "failed", "RuntimeError: CUDA out of memory.", 1),
        (timed_parts.killed, "failed", "Its process ended with exit code 3.", 1),
        (timed_parts.unfit, "left out", "It needs more memory.", 0),
    ],
)
def test_a_part_that_is_not_done_says_why(measure: object, state: str, reason: str, rows: int) -> None:
    [outcome] = run_parts([Part("part", 60, measure)], 600, "fork")  # type: ignore[arg-type]
    assert (outcome.state, outcome.reason, len(outcome.rows)) == (state, reason, rows)


def test_a_part_that_finds_no_time_left_is_left_out() -> None:
    [outcome] = run_parts([Part("late", 60, timed_parts.quick)], 0, "fork")
    assert outcome.state == "left out" and outcome.rows == []


def test_the_file_is_written_after_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever interrupts the command keeps the parts before."""

    def broken_off(*_: object) -> Iterator[PartOutcome]:
        yield PartOutcome("first", "done", "", 1.0, [Row("figure", 1.5, 2.0, "s")])
        raise KeyboardInterrupt

    monkeypatch.setattr(limited, "run_parts", broken_off)
    monkeypatch.setattr(gpu, "write_pictures", lambda *_: None)
    ended = CliRunner().invoke(commands.app, ["gpu", "--tiny", "--json", str(tmp_path / "card.json")])
    [part] = json.loads((tmp_path / "card.json").read_text("utf-8"))["parts"]
    assert part["rows"][0] | {"measured": 1.5, "holds": True} == part["rows"][0] and ended.exit_code != 0


def test_all_parts_together_take_ten_minutes_at_most(tmp_path: Path) -> None:
    assert sum(part.limit_s for part in gpu.parts_of(gpu.CARD, tmp_path)) <= 590


def test_a_gallery_beyond_the_memory_is_left_out() -> None:
    with pytest.raises(LeftOut, match=r"needs 15360000\.0 GB of memory of this machine, where [\d.]+ GB are"):
        next(gpu.search(gpu.TINY, 10**14))


def test_it_trains_by_the_documents_recipe() -> None:
    [overrides] = [
        [word for word in words if "=" in word]
        for words in commands_in(TRAINING)
        if words[:2] == ["skumatch", "retrain"] and "encoder.model=ViT-B-16" in words
    ]
    assert gpu.CARD.params() == load_params(ROOT / "params.yaml", overrides)


def test_weights_that_differ_are_no_equal_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient's bounds leave room for rounding and not for another model."""
    sizes = replace(gpu.TINY, pictures=4)
    gpu.write_pictures(sizes, tmp_path)
    images = gpu._images(tmp_path)
    first = gpu._stepped(sizes, images, "cpu")
    monkeypatch.setattr(gpu, "SEED", 8)
    rows = list(gpu._differences("float32", gpu._stepped(sizes, images, "cpu"), first, (0.01, 20)))
    assert [row.holds for row in rows] == [False, False]
