"""A rehearsal: the made archive, costs of commands, going on after a stop, and growth between sizes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from benchmarks import crops, meter, rehearsal
from benchmarks.rehearsal import Phase, Plan, disk_of, rehearse
from benchmarks.rehearsal_table import growth, table
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.errors import ParameterError, RunFailed
from skumatch.files import read_json, write_json
from tests.cli import Cli
from tests.proving import IN_PROOF


def test_archive_has_rp2ks_form_and_imports_with_its_broken_files_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "QUESTIONS", 20)
    crops.write_deliveries(tmp_path, 1300)
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        assert not any("清风" in name for name in archive.namelist())
    imported = import_data(tmp_path / "archive.zip", tmp_path / "data")
    manifest = read_manifest(tmp_path / "data")
    assert imported.images == len(manifest) == 1300 - 3
    reasons = Counter(row["reason"] for row in read_json(tmp_path / "data/import.json")["quarantined"])
    assert reasons == {"empty": 1, "truncated": 1, "no-image": 1}
    counts = manifest["sku"].value_counts()
    assert counts.index[0] == "others" and counts.iloc[1:].min() >= 1
    assert "清风330ml（0）" in counts.index and len(counts) == 1 + len(crops.skus_of(1300))
    assert (manifest["height"] >= 2 * manifest["width"] - 1).mean() > 0.9
    assert len(list((tmp_path / "questions").iterdir())) == 20


@pytest.mark.parametrize(("images", "skus"), [(crops.IMAGES, 2388), (19_216, 2388), (1_000, 485)])
def test_a_small_archive_keeps_all_skus_as_long_as_each_has_two_crops(images: int, skus: int) -> None:
    counts = Counter(crop.path.split("/")[2] for crop in crops.delivery(images, crops.skus_of(images)))
    assert sum(counts.values()) == images and len(counts) == skus + 1
    assert counts.most_common(1)[0][0] == "others" and min(counts.values()) == 2


def test_a_delta_goes_on_after_the_archive_and_has_a_few_new_skus() -> None:
    skus = crops.skus_of(20_000)
    week, first = crops.delta(20_000, skus), crops.delivery(20_000, skus)
    assert len(week) == 200 and not {crop.seed for crop in week} & {crop.seed for crop in first}
    of_week = {crop.path.split("/")[2] for crop in week}
    assert 0 < len(of_week - set(skus)) < len(of_week) / 5


def test_a_copy_shows_the_crop_before_it() -> None:
    planned = {crop.seed: crop for crop in crops.delivery(200, ["Cola"])}
    copied = [planned[seed] for seed in (99, 100, 101)]
    before, copy, after = (data for _, data in crops.encoded(copied))
    sides = {crop.path.split("/")[1] for crop in crops.delivery(20_000, ["Cola"]) if crop.seed % 99 == 1}
    assert sides == {"train", "test"}
    assert before == crops.draw("Cola", 99) and copy == crops.draw("Cola", 99, quality=60) != after


def metered(folder: Path, code: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    words = [sys.executable, "-I", meter.__file__, str(folder), "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    (path,) = folder.glob("*.json")
    return done, read_json(path)


def test_a_meter_counts_children_that_ended_and_orphans(tmp_path: Path) -> None:
    code = f"""
import os, subprocess, sys, time
burn = "import time; sum(range(4_000_000)); open(PATH, 'a').write(f'{{time.process_time()}} ')"
burn = burn.replace("PATH", repr({str(tmp_path / "times")!r}))
subprocess.run([sys.executable, "-c", burn])
held = b"x" * (150 << 20)
open({str(tmp_path / "large")!r}, "wb").write(held)
if not os.fork():
    if not os.fork():
        subprocess.run([sys.executable, "-c", burn])
    os._exit(0)
os.wait()
while len(open({str(tmp_path / "times")!r}).read().split()) < 2:
    time.sleep(0.05)
print("whole")
sys.exit(7)
"""
    done, cost = metered(tmp_path, code)
    assert (done.returncode, done.stdout, cost["exit_code"]) == (7, "whole\n", 7)
    assert cost["cpu_s"] >= sum(map(float, (tmp_path / "times").read_text().split())) > 0
    assert cost["peak_mib"] > 150 and 157 < cost["written_mb"] < 160
    assert cost["words"][0] == "-c" and cost["wall_s"] >= cost["silent_s"] > 0


def test_a_meter_ends_with_a_command_that_leaves_a_process(tmp_path: Path) -> None:
    code = "import os, sys; print(os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '60'), flush=True)"
    done, cost = metered(tmp_path, code)
    subprocess.run(["kill", done.stdout.strip()], check=True)
    assert cost["exit_code"] == 0


def test_a_killed_command_has_its_signals_exit_code(tmp_path: Path) -> None:
    done, cost = metered(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert (done.returncode, cost["exit_code"]) == (137, -9)


def test_a_command_ends_with_its_meter(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    words = [sys.executable, "-I", meter.__file__, str(tmp_path), "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        command = psutil.Process(int(process.stdout.readline()))
        process.kill()
        psutil.wait_procs([command], timeout=60)
    assert not command.is_running()


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A rehearsal of 192 pictures whose commands count their calls; the second one fails at first."""
    count = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"
    fail = "import os, sys; sys.exit(not os.path.exists(sys.argv[1]))"
    phases = (
        Phase("first", ("-c", count, "{folder}/calls", "a")),
        Phase("fails", ("-c", fail, "{folder}/mended")),
        Phase("last", ("-c", count, "{folder}/calls", "b")),
    )
    monkeypatch.setattr(rehearsal, "PHASES", phases)
    return Plan(0.0005, tmp_path / "state.json", tmp_path / "work")


def test_a_rehearsal_goes_on_after_the_last_whole_phase(plan: Plan) -> None:
    records = []
    with pytest.raises(RunFailed, match=r"'fails' ended with exit code 1; its output is .*fails\.txt"):
        records += rehearse(plan)
    assert [phase["name"] for phase in read_json(plan.state)["phases"]] == ["archive", "first"]
    (plan.folder / "mended").touch()
    later = list(rehearse(plan))
    assert [phase["name"] for phase in later] == ["fails", "last"]
    state = read_json(plan.state)
    assert [phase["tries"] for phase in state["phases"]] == [1, 1, 2, 1]
    assert (plan.folder / "calls").read_text() == "ab" and list(rehearse(plan)) == []
    assert state["images"] == 192 and all(phase["command"]["cpu_s"] > 0 for phase in state["phases"])
    assert state["phases"][0]["disk_mb"]["deliveries"] > 0.1
    drawn = shown(table(state))
    assert all(name in drawn for name in ("192 pictures", "archive", "first", "fails*", "last"))


def test_a_file_of_another_rehearsal_is_refused(plan: Plan) -> None:
    write_json(plan.state, {"images": 5, "skus": 1, "machine": "m", "phases": [], "share": 0.1})
    with pytest.raises(ParameterError, match=r"a rehearsal with share 0\.1, not 0\.0005"):
        list(rehearse(plan))
    plan.state.write_text("[]")
    with pytest.raises(ParameterError, match="is no file of a rehearsal"):
        list(rehearse(plan))
    assert not plan.folder.exists()


def test_made_projects_are_committed_and_start_nothing_by_themselves(tmp_path: Path) -> None:
    rehearsal.make_project(tmp_path / "project")
    status = subprocess.run(
        ["git", "-C", tmp_path / "project", "status", "--porcelain"], check=True, capture_output=True
    )
    params = (tmp_path / "project/params.yaml").read_text("utf-8")
    assert status.stdout == b"" and "retrain: none" in params and "model: smoke" in params


def test_disk_counts_a_file_with_two_names_once(tmp_path: Path) -> None:
    (tmp_path / "home/cache/deep").mkdir(parents=True)
    (tmp_path / "home/remote").mkdir()
    (tmp_path / "home/cache/deep/shard").write_bytes(b"x" * 1_000_000)
    (tmp_path / "home/remote/shard").hardlink_to(tmp_path / "home/cache/deep/shard")
    parts = disk_of(tmp_path)
    assert sum(parts.values()) == pytest.approx(1, abs=0.1) and set(parts) <= {"home/cache", "home/remote"}


def usage(name: str, cpu_s: float, peak_mib: float) -> dict[str, Any]:
    return {"name": name, "wall_s": 1, "cpu_s": cpu_s, "peak_mib": peak_mib, "read_mb": 0} | {
        "written_mb": 0,
        "silent_s": 2.0,
    }


def state_of(images: int, cpu_s: float) -> dict[str, Any]:
    phase = {"name": "retrain", "wall_s": 9, "tries": 1, "disk_mb": {"home": 1.0}, "servers": []}
    phase |= {"command": usage("command", 1, 50), "tasks": [usage("split", cpu_s, images / 1024)]}
    return {"images": images, "skus": 5, "machine": "m", "phases": [phase]}


def shown(drawn: Any) -> str:
    console = Console(width=250, file=io.StringIO())
    console.print(drawn)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_growth_is_what_a_further_picture_costs_whatever_the_order_of_files() -> None:
    states = [state_of(20_000, 90.0), state_of(1_000, 5.0), state_of(10_000, 32.0)]
    drawn = shown(growth(states))
    (row,) = [line for line in drawn.splitlines() if "  split" in line]
    assert row.split()[1:7] == ["5", "0.977", "32", "9.77", "90", "19.5"]
    assert row.split()[7:] == ["3", "1", "5.8", "1"]
    (whole,) = [line for line in drawn.splitlines() if "retrain" in line]
    assert whole.split()[1] == "6"


def test_growth_between_one_size_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", state_of(1_000, 5.0))
    cli = Cli(tmp_path, tmp_path / "home", module="benchmarks")
    done = cli("growth", tmp_path / "a.json", tmp_path / "a.json")
    assert done.code == 10 and "two sizes" in done.err


@IN_PROOF
@pytest.mark.live
@pytest.mark.timeout(4 * 3600)
def test_the_whole_workflow_is_rehearsed_at_a_twentieth(tmp_path: Path) -> None:
    cli, state = Cli(tmp_path, tmp_path / "unused", module="benchmarks"), tmp_path / "five.json"
    done = cli("rehearsal", "--share", "0.05", "--json", state)
    assert done.code == 0, done.err
    phases = {phase["name"]: phase for phase in json.loads(state.read_text("utf-8"))["phases"]}
    assert next(iter(phases)) == "archive" and list(phases)[-1] == "down" and len(phases) == 13
    stages = [task["name"] for task in phases["first champion"]["tasks"]]
    assert stages[0] == "pull" and stages[-1] == "register" and "split" in stages and "evaluate" in stages
    assert "Cached" in (tmp_path / "five/output/cached-retrain.txt").read_text("utf-8")
    assert cli("rehearsal", "--share", "0.05", "--json", state).code == 0
