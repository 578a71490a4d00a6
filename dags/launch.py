"""A stage's process: started in a session of its own, here or in a container, and ended with all it started."""

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
CLIENT_LOST = 125  # docker's own exit code, also where it lost sight of a container that goes on
PR_SET_PDEATHSIG = 1
PLACES = ("HOME", "REMOTE", "SIGNING_KEY", "OPENLINEAGE")  # a relative one lies in the project's folder


def start(words: Sequence[str], name: str | None = None, gpu: bool = False) -> subprocess.Popen[str]:
    """Start `python -m skumatch worker WORDS`; with a `name` in a container that is called so.

    Raises as `container.command`.
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
    """A stage's environment: this process's without the servers' secrets, with our paths absolute.

    A container has another home folder than this process.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW__")}
    variables = {name: variable(name) for name in (f"SKUMATCH_{place}" for place in PLACES)}
    given = {name: value for name, value in variables.items() if value and "://" not in value}
    paths = {name: str((PROJECT / path_of(value)).absolute()) for name, value in given.items()}
    paths["SKUMATCH_PROJECT"] = str(PROJECT.absolute())
    read_here = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    return kept | paths | read_here | {"SKUMATCH_EVENTS": "1"}


def end_with_parent(parent: int) -> Callable[[], None]:
    """What the child does before its first instruction: ask for SIGTERM when this task dies, even by SIGKILL."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: a forked child must not load libraries

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def stop(process: subprocess.Popen[str], name: str | None = None) -> None:
    """End the stage's process group: SIGTERM, then SIGKILL for what is left.

    Nothing happens where all has ended.

    The container `name` gets the SIGTERM through docker's client, and is killed where the client did not see
    its end.
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
