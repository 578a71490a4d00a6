"""Background processes: started in sessions of their own, recorded, and stopped with all descendants."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import psutil

from skumatch.files import write_json
from skumatch.started import Server, identity, recorded

STOP_SECONDS = 4.0  # Airflow takes 2 to 4 s to end by itself


def spawn(
    record: Path, name: str, command: list[str], env: dict[str, str], cwd: Path, log: Path, origin: str
) -> None:
    """Start a process as the leader of a new session, and add it to the record.

    Args:
        record: File that lists the started servers.
        name: Name of the server.
        command: Its command line.
        env: Its environment.
        cwd: Its working folder.
        log: File for its output, overwritten.
        origin: Description of its settings.
    """
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
    threading.Thread(target=process.wait, daemon=True).start()  # so that its end leaves no zombie
    home = record.parent.resolve()
    started = Server(name, process.pid, created, origin, folder=identity(home), home=str(home))
    write_json(record, [asdict(server) for server in (*recorded(record), started)])


def stop(record: Path) -> None:
    """Stop every recorded server with its session and descendants, then delete the record.

    SIGTERM comes first, and SIGKILL after 4 s.
    """
    family = _family(recorded(record))
    for process in family:
        _send(process, kill=False)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    left = {*alive, *_family(recorded(record))}  # includes processes that were started meanwhile
    for process in left:
        _send(process, kill=True)
    psutil.wait_procs(left, timeout=STOP_SECONDS)
    record.unlink(missing_ok=True)


def _family(servers: Iterable[Server]) -> list[psutil.Process]:
    """Return servers, then their descendants in any session, then orphans in their sessions."""
    leaders = [process for server in servers if (process := server.process())]
    family = list(leaders)
    for leader in leaders:
        family += _descendants(leader)
    born = {server.pid: server.created for server in servers}
    for process in psutil.process_iter(["create_time"]):
        if process.info["create_time"] >= born.get(_session(process.pid), float("inf")) - 1:
            family.append(process)
    return list(dict.fromkeys(family))


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
