"""Background processes of ours: started in sessions of their own, recorded in a file, stopped with all they started."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from skumatch.files import read_json, write_json

STOP_SECONDS = 4.0  # Airflow takes 2 to 4 s to end by itself


@dataclass(frozen=True)
class Server:
    """A process we started: `created` (seconds since 1970) tells it from a later process with the same pid.

    `origin` says what it was started with, for a caller that wants something else.
    """

    name: str
    pid: int
    created: float
    origin: str

    def process(self) -> psutil.Process | None:
        """The process, or None where it has ended."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created) < 1 and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return found if same else None


def recorded(record: Path) -> list[Server]:
    """The servers that `record` lists, running or not."""
    return [Server(**fields) for fields in read_json(record)] if record.exists() else []


def ended(record: Path) -> list[str]:
    """Names of the recorded servers that have ended though nobody stopped them."""
    return [server.name for server in recorded(record) if not server.process()]


def spawn(
    record: Path, name: str, command: list[str], env: dict[str, str], cwd: Path, log: Path, origin: str
) -> None:
    """Start `command` as the leader of a new session, output to `log`, and add it to `record`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    created = psutil.Process(process.pid).create_time()
    threading.Thread(target=process.wait, daemon=True).start()  # so that its end leaves no zombie of ours
    write_json(
        record, [asdict(one) for one in (*recorded(record), Server(name, process.pid, created, origin))]
    )


def stop(record: Path) -> None:
    """Stop every recorded server with its session and descendants: SIGTERM, then SIGKILL after 4 s.

    Forget them.
    """
    ours = _family(recorded(record))
    for process in ours:
        _send(process, kill=False)
    _, alive = psutil.wait_procs(ours, timeout=STOP_SECONDS)
    left = {*alive, *_family(recorded(record))}  # also what was started meanwhile
    for process in left:
        _send(process, kill=True)
    psutil.wait_procs(left, timeout=STOP_SECONDS)
    record.unlink(missing_ok=True)


def _family(servers: Iterable[Server]) -> list[psutil.Process]:
    """Servers first, then their descendants in any session, then members of their sessions whose parents have ended."""
    leaders = [process for server in servers if (process := server.process())]
    found = list(leaders)
    for leader in leaders:
        found += _descendants(leader)
    born = {server.pid: server.created for server in servers}
    for process in psutil.process_iter(["create_time"]):
        if process.info["create_time"] >= born.get(_session(process.pid), float("inf")) - 1:
            found.append(process)
    return list(dict.fromkeys(found))


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _send(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return
