"""A stage's process: start in a session of its own, here or in a container, and stop with all descendants."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import container
from recipe import PROJECT, path_of, variable

log = logging.getLogger(__name__)
GRACE_SECONDS = 3.0
CLIENT_LOST = 125  # docker's own exit code, also if it lost a container that still runs
PR_SET_PDEATHSIG = 1
PLACES = ("HOME", "REMOTE", "SIGNING_KEY", "OPENLINEAGE")  # a relative one lies in the project's folder


def start(words: Sequence[str], name: str | None = None, gpu: bool = False) -> subprocess.Popen[str]:
    """Start `python -m skumatch worker WORDS`.

    Args:
        words: Arguments of the worker.
        name: Name of a container to start it in; None: no container.
        gpu: Whether the container gets GPUs.

    Raises:
        AirflowFailException: As in `container.command`.
    """
    env = environment()
    python = str(path_of(variable("SKUMATCH_PYTHON") or sys.executable))
    worker = ["-m", "skumatch", "worker", *words]
    return subprocess.Popen(
        [*container.command(name, env, gpu), "python", *worker] if name else [python, *worker],
        cwd=PROJECT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        preexec_fn=end_with_parent(os.getpid()) if sys.platform == "linux" else None,
    )


def environment() -> dict[str, str]:
    """Return a stage's environment: this process's without the servers' secrets, with absolute paths.

    The paths are absolute because a container has another home folder than this process.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW__")}
    variables = {name: variable(name) for name in (f"SKUMATCH_{place}" for place in PLACES)}
    local = {name: value for name, value in variables.items() if value and "://" not in value}
    paths = {name: str((PROJECT / path_of(value)).absolute()) for name, value in local.items()}
    paths["SKUMATCH_PROJECT"] = str(PROJECT.absolute())
    read_here = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    return kept | paths | read_here | {"SKUMATCH_EVENTS": "1"}


def end_with_parent(parent: int) -> Callable[[], None]:
    """Return a preexec function that gives the child SIGTERM when this task dies, even by SIGKILL."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: a forked child must not load libraries

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def stop(process: subprocess.Popen[str], name: str | None = None) -> None:
    """Stop the stage's process group with SIGTERM, then SIGKILL; do nothing if all has ended.

    The container gets the SIGTERM through docker's client, and is killed if the client did not see its end.

    Args:
        process: The stage's process, or docker's client.
        name: Name of the container; None: no container.
    """
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("The stage did not stop within %s s and is killed.", GRACE_SECONDS)
    code = process.poll()
    if name and (code is None or code < 0 or code == CLIENT_LOST):
        container.kill(name)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
