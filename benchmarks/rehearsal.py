"""A rehearsal at size: the whole workflow on a made archive, phase by phase, with the cost of each part.

Each phase is a command as a user types it, in a project of its own with live Airflow and MLflow. Commands and
the tasks that Airflow starts run under benchmarks/meter.py, so each has its own figures. What the servers
themselves use is read from /proc before and after a phase, less what the tasks used. After each phase the
state file is written whole, and a later call goes on after the last phase in it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks import crops, meter
from skumatch.errors import ParameterError, RunFailed
from skumatch.files import read_json, write_json, write_text
from skumatch.git import run_git
from skumatch.recipe.overrides import apply_overrides
from skumatch.stages.runner import machine
from skumatch.started import Server, recorded

ROOT = Path(__file__).resolve().parents[1]
PROJECT_FILES = (
    "skumatch", "dags", "dvc.yaml", "params.yaml", ".dvcignore", ".dvc", ".gitignore", "requirements",
    "pyproject.toml",
)  # fmt: skip
# The encoder is tiny, since the plumbing is measured. Nothing starts by itself.
RECIPE = (
    "encoder.model=smoke", "encoder.weights=none", "encoder.height=64", "encoder.width=32",
    "train.epochs=1", "train.batch=64", "gate.floor_top1=0.0",
    "validate.max_sparse_share=0.99", "validate.max_without_query_share=0.99",
    "validate.max_without_gallery_share=0.99",
    "schedule.retrain=none", "schedule.refresh=none", "schedule.on_new_data=false",
)  # fmt: skip
AUTHOR = ("-c", "user.name=rehearsal", "-c", "user.email=rehearsal@localhost")
OTHER_ENCODER = ("--set", "encoder.resize=pad")
REFUSED = 40  # the gate's: the workflow itself worked


@dataclass(frozen=True)
class Usage:
    """What a command, a task of Airflow or a server used.

    Attributes:
        name: of the task or server, or `command`.
        wall_s: time from start to end.
        cpu_s: processor time of all its processes.
        peak_mib: largest memory of all its processes together.
        read_mb: bytes that it read from files and pipes, in millions.
        written_mb: bytes that it wrote, in millions.
        silent_s: longest time in which it printed nothing; 0 for a server.
    """

    name: str
    wall_s: float
    cpu_s: float
    peak_mib: float
    read_mb: float
    written_mb: float
    silent_s: float = 0.0


@dataclass(frozen=True)
class Phase:
    """A phase of a rehearsal.

    Attributes:
        name: what is done.
        words: arguments of Python; `{folder}` is the rehearsal's folder.
        commit: whether data.dvc is committed after it.
        accepted: exit codes that mean the workflow worked.
    """

    name: str
    words: tuple[str, ...]
    commit: bool = False
    accepted: tuple[int, ...] = (0,)


def skumatch(*words: str) -> tuple[str, ...]:
    """Return the arguments of Python for a skumatch command."""
    return ("-m", "skumatch", *words)


UP, DOWN = "up", "down"
CLEANING = ("gc", "--age", "1", "--keep-runs", "1")
PHASES = (
    Phase(UP, skumatch("up")),
    Phase("import", skumatch("data", "import", "{folder}/deliveries/archive.zip"), commit=True),
    Phase("first champion", skumatch("retrain")),
    Phase("compared retrain", skumatch("retrain", *OTHER_ENCODER), accepted=(0, REFUSED)),
    Phase("cached retrain", skumatch("retrain", *OTHER_ENCODER), accepted=(0, REFUSED)),
    Phase("data add of 1 %", skumatch("data", "add", "{folder}/deliveries/week.zip"), commit=True),
    Phase("refresh", skumatch("refresh")),
    Phase(
        "match of 2,000",
        skumatch("match", "{folder}/deliveries/questions", "--out", "{folder}/matches.parquet"),
    ),
    Phase("audit --verify", skumatch("audit", "champion", "--verify")),
    Phase("gc", skumatch(*CLEANING)),
    Phase("gc --delete", skumatch(*CLEANING, "--delete")),
    Phase(DOWN, skumatch("down")),
)


@dataclass(frozen=True)
class Plan:
    """What is rehearsed, and where.

    Attributes:
        share: of RP2K's 384,311 pictures.
        state: the state file.
        folder: working folder; needs about 40 KB a picture.
        names: a text file of SKU names, one a line; None: made-up ones.
    """

    share: float
    state: Path
    folder: Path
    names: Path | None = None

    @property
    def images(self) -> int:
        """Return the number of pictures of the first delivery."""
        return round(self.share * crops.IMAGES)

    @property
    def skus(self) -> int:
        """Return the number of SKUs of the first delivery."""
        return len(crops.skus_of(self.images, self.names))

    @property
    def project(self) -> Path:
        """Return the folder of the made project."""
        return self.folder / "project"

    @property
    def meters(self) -> Path:
        """Return the folder into which each measured process writes its cost."""
        return self.folder / "meters"

    def phases(self) -> tuple[Phase, ...]:
        """Return all phases in their order."""
        words = ["-m", "benchmarks.crops", "{folder}/deliveries", str(self.images)]
        names = [str(self.names.resolve())] if self.names else []
        return (Phase("archive", (*words, *names)), *PHASES)


def rehearse(plan: Plan) -> Iterator[dict[str, Any]]:
    """Run the phases that the state file lacks; yield the record of each as soon as it is written.

    Servers that an earlier call started and lost are started again, and none is left running.

    Args:
        plan: what is rehearsed.

    Raises:
        ParameterError: the state file is of another rehearsal.
        RunFailed: a command failed; its phase is tried again by the next call.
    """
    state = _state(plan)
    missing = plan.phases()[len(state["phases"]) :]
    if not missing:
        return
    if not plan.project.exists():
        make_project(plan.project)
    plan.meters.mkdir(parents=True, exist_ok=True)
    environment = _environment(plan, state["ports"])
    with ExitStack() as undo:
        before = signal.signal(
            signal.SIGTERM, signal.default_int_handler
        )  # as Ctrl-C: the servers are stopped
        undo.callback(signal.signal, signal.SIGTERM, before)
        undo.callback(_quietly, plan, environment, DOWN)
        if any(record["name"] == UP for record in state["phases"]):
            _quietly(plan, environment, UP)
        for phase in missing:
            state["tries"][phase.name] = state["tries"].get(phase.name, 0) + 1
            write_json(plan.state, state)
            record = run_phase(plan, phase, environment)
            state["phases"].append(record | {"tries": state["tries"][phase.name]})
            write_json(plan.state, state)
            yield state["phases"][-1]


def _state(plan: Plan) -> dict[str, Any]:
    """Read the state file, or begin one.

    Raises:
        ParameterError: it is of another rehearsal.
    """
    wanted = {
        "share": plan.share,
        "images": plan.images,
        "skus": plan.skus,
        "folder": str(plan.folder.resolve()),
    }
    if not plan.state.is_file():
        ports = {"SKUMATCH_AIRFLOW_PORT": free_port(), "SKUMATCH_MLFLOW_PORT": free_port()}
        return wanted | {"machine": machine(), "ports": ports, "tries": {}, "phases": []}
    state = read_state(plan.state)
    differing = [name for name, value in wanted.items() if state.get(name) != value]
    if differing:
        name = differing[0]
        fault = f"{plan.state} is of a rehearsal with {name} {state.get(name)}, not {wanted[name]}"
        raise ParameterError(f"{fault}; give another file to --json, or the same --{name} again.")
    return state


def read_state(path: Path) -> dict[str, Any]:
    """Read the state file of a rehearsal.

    Raises:
        ParameterError: the file is none.
    """
    with suppress(OSError, ValueError):
        state = read_json(path)
        if isinstance(state, dict) and {"images", "skus", "machine", "phases"} <= state.keys():
            return state
    raise ParameterError(f"{path} is no file of a rehearsal; give one that `--json` of a rehearsal wrote.")


def make_project(folder: Path) -> None:
    """Copy this project's files into a new folder, all in one commit, with the rehearsal's parameters."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        aside = Path(work) / folder.name
        words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PROJECT_FILES)
        listed = subprocess.run(
            ["git", "-C", ROOT, *words], check=True, capture_output=True, text=True
        ).stdout
        for name in listed.split("\0"):
            if (ROOT / name).is_file():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, aside / name)
        params = aside / "params.yaml"
        tree = apply_overrides(yaml.safe_load(params.read_text("utf-8")), RECIPE)
        write_text(params, yaml.safe_dump(tree, allow_unicode=True))
        run_git(aside, "init", "--quiet", "--initial-branch", "main")
        _commit(aside, "A project to rehearse with")
        aside.rename(folder)


def _commit(project: Path, subject: str) -> None:
    run_git(project, "add", "--all")
    run_git(project, *AUTHOR, "commit", "--quiet", "--allow-empty", "--message", subject)


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _environment(plan: Plan, ports: Mapping[str, int]) -> dict[str, str]:
    """Return the environment of all commands: their own project, home and ports, and metered tasks."""
    python = plan.folder / "python"
    words = [sys.executable, "-I", meter.__file__, str(plan.meters.resolve())]
    write_text(python, f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    python.chmod(0o755)
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("SKUMATCH_", "AIRFLOW_"))
    }
    places = {"PROJECT": plan.project, "HOME": plan.folder / "home", "PYTHON": python}
    return (
        inherited
        | {"COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
        | {f"SKUMATCH_{name}": str(path.resolve()) for name, path in places.items()}
        | {name: str(port) for name, port in ports.items()}
    )


def _quietly(plan: Plan, environment: Mapping[str, str], word: str) -> None:
    """Run `skumatch up` or `down` outside any phase."""
    command = [sys.executable, *skumatch(word)]
    subprocess.run(command, cwd=plan.project, env=environment, check=False, capture_output=True)


def run_phase(plan: Plan, phase: Phase, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a phase's command, and return its record.

    Args:
        plan: what is rehearsed.
        phase: the phase.
        environment: of the command.

    Returns:
        name and words of the phase, `exit_code`, `wall_s`, `command` (Usage), `tasks` and `servers` (lists of
        Usage), and `disk_mb`, the size of each part of the folder afterwards.

    Raises:
        RunFailed: the command ended with an exit code that the phase doesn't accept.
    """
    log = plan.folder / "output" / f"{phase.name.replace(' ', '-')}.txt"
    log.parent.mkdir(exist_ok=True)
    words = [word.format(folder=plan.folder.resolve()) for word in phase.words]
    earlier, before, start = set(plan.meters.iterdir()), _servers(plan), time.monotonic()
    with log.open("wb") as stream:
        ended = subprocess.run(
            [environment["SKUMATCH_PYTHON"], *words],
            cwd=plan.project if "skumatch" in words else ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    wall_s = time.monotonic() - start
    if ended.returncode not in phase.accepted:
        fault = f"The phase '{phase.name}' ended with exit code {ended.returncode}; its output is {log}"
        raise RunFailed(f"{fault}. Mend what it names, and run the same command again.")
    costs = [read_json(path) for path in sorted(set(plan.meters.glob("*.json")) - earlier)]
    tasks = [cost for cost in costs if "worker" in cost["words"]]
    (command,) = [cost for cost in costs if cost not in tasks]
    if phase.commit:
        _commit(plan.project, f"After {phase.name}")
    return {
        "name": phase.name,
        "words": list(phase.words),
        "exit_code": ended.returncode,
        "wall_s": wall_s,
        "command": asdict(_usage("command", command)),
        "tasks": [asdict(_usage(_task_name(task["words"]), task)) for task in tasks],
        "servers": [asdict(usage) for usage in _used(before, _servers(plan), tasks, wall_s)],
        "disk_mb": disk_of(plan.folder),
    }


def _usage(name: str, cost: Mapping[str, Any]) -> Usage:
    return Usage(name, **{field: cost[field] for field in Usage.__dataclass_fields__ if field != "name"})


def _task_name(words: Sequence[str]) -> str:
    """Return the task of a worker's arguments, such as `split`, or `frozen train embed`."""
    after = list(words[words.index("worker") + 1 :])
    return " ".join(word for word in after if word != "stage")


Counts = dict[str, tuple[float, float, float, float]]  # server -> CPU s, peak MiB, MB read, MB written


def _servers(plan: Plan) -> Counts:
    """Return what each running server, with its descendants that live or were waited for, has used so far."""
    running = recorded(plan.folder / "home/services.json")
    return {server.name: _counts(server) for server in running if server.process()}


def _counts(server: Server) -> tuple[float, float, float, float]:
    cpu_s = peak_mib = read_mb = written_mb = 0.0
    process = server.process()
    for member in [process, *process.children(recursive=True)] if process else []:
        with suppress(psutil.Error):
            cpu_s += sum(member.cpu_times()[:4])
            peak_mib = max(peak_mib, member.memory_info().rss / (1 << 20), _high_water(member.pid))
            io = member.io_counters()
            read_mb, written_mb = read_mb + io.read_chars / 1e6, written_mb + io.write_chars / 1e6
    return cpu_s, peak_mib, read_mb, written_mb


def _high_water(pid: int) -> float:
    """Return the peak memory of a process in MiB; 0 if it has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
    return 0.0


def _used(
    before: Counts, after: Counts, tasks: Sequence[Mapping[str, Any]], wall_s: float
) -> Iterator[Usage]:
    """Yield what each server used between two readings; tasks are descendants of the scheduler."""
    of_tasks = (
        sum(task["cpu_s"] + task["meter_s"] for task in tasks),
        0.0,
        sum(task["read_mb"] for task in tasks),
        sum(task["written_mb"] for task in tasks),
    )
    for name, counts in after.items():
        start = before.get(name, (0.0, 0.0, 0.0, 0.0))
        theirs = of_tasks if name == "scheduler" else (0.0, 0.0, 0.0, 0.0)
        cpu_s, _, read_mb, written_mb = (
            now - then - task for now, then, task in zip(counts, start, theirs, strict=True)
        )
        yield Usage(name, wall_s, cpu_s, counts[1], read_mb, written_mb)


def disk_of(folder: Path) -> dict[str, float]:
    """Return the megabytes of each part of a rehearsal's folder; a file with several names counts once."""
    parts: dict[str, float] = {}
    seen: set[int] = set()
    for root, _, names in os.walk(folder):
        place = Path(root).relative_to(folder).parts
        part = "/".join(place[: 2 if place[:1] in (("home",), ("project",)) else 1]) or "."
        for name in names:
            with suppress(FileNotFoundError):  # of a server at work
                status = os.lstat(os.path.join(root, name))  # noqa: PTH118 - hundreds of thousands of files
                if status.st_ino not in seen:
                    seen.add(status.st_ino)
                    parts[part] = parts.get(part, 0.0) + status.st_blocks * 512 / 1e6
    return {part: round(size, 3) for part, size in sorted(parts.items())}
