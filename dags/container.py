"""docker's command line for a stage.

The command line holds no values of variables, since everybody who lists the machine's processes can read it.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowFailException
from recipe import PROJECT, variable

log = logging.getLogger(__name__)
PASSED = ("SKUMATCH_", "AWS_", "MLFLOW_", "OPENLINEAGE_", "PYTHONUNBUFFERED")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")  # in any case
KEPT_BACK = ("SKUMATCH_DOCKER_",)
KILL_SECONDS = 20
ASKED, INSTEAD = "runtime.execution is docker, but", "set runtime.execution to subprocess."


def name_of(ti: Any) -> str:
    """Return the name of the container for this try of a task."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"skumatch-{ti.run_id}-{ti.task_id}-{ti.try_number}")


def command(name: str, env: Mapping[str, str], gpu: bool) -> list[str]:
    """Return the command line `docker run ... IMAGE` for a stage.

    Args:
        name: Name of the container.
        env: Environment of the stage, with the settings SKUMATCH_IMAGE and SKUMATCH_DOCKER_NETWORK, _GPUS
            and _ARGS. The names of its variables that start with PASSED, and of proxies, are on the command
            line; docker reads their values from its own environment.
        gpu: Whether the stage gets the GPUs of SKUMATCH_DOCKER_GPUS.

    Raises:
        AirflowFailException: No image is named, or there is no docker.
    """
    image, gpus = variable("SKUMATCH_IMAGE", env), variable("SKUMATCH_DOCKER_GPUS", env)
    if not image:
        raise AirflowFailException(
            f"{ASKED} SKUMATCH_IMAGE names no image; set it where Airflow's worker starts, or {INSTEAD}"
        )
    if not shutil.which("docker", path=env.get("PATH")):
        raise AirflowFailException(
            f"{ASKED} there is no program `docker` here; install it on Airflow's worker, or {INSTEAD}"
        )
    network = variable("SKUMATCH_DOCKER_NETWORK", env) or "host"
    words = ["docker", "run", "--rm", "--init", "-i", "--name", name, "--network", network]
    if gpu and gpus:
        words += ["--gpus", gpus]
    words += ["--user", f"{os.getuid()}:{os.getgid()}", "-w", str(PROJECT.absolute())]
    words += [word for place in places(env) for word in ("--mount", mount(place))]
    words += [word for key in sorted(env) if _passed(key) for word in ("-e", key)]
    return [*words, *shlex.split(env.get("SKUMATCH_DOCKER_ARGS", "")), image]


def _passed(key: str) -> bool:
    return key.lower() in PROXIES or (key.startswith(PASSED) and not key.startswith(KEPT_BACK))


def places(env: Mapping[str, str]) -> list[Path]:
    """Return the folders that a stage needs, at the same paths inside: project, home, and a local remote."""
    remote = variable("SKUMATCH_REMOTE", env)
    folders = [PROJECT, PROJECT / (variable("SKUMATCH_HOME", env) or ".skumatch")]
    folders += [PROJECT / remote] if remote and "://" not in remote else []
    for place in folders:
        place.mkdir(parents=True, exist_ok=True)  # docker would make it root's
    return [place.absolute() for place in folders]


def mount(place: Path) -> str:
    """Return the value of `--mount` for a folder that has the same path inside.

    It is a line of CSV, so the path may have any character; `-v` would split it at a colon.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(["type=bind", f"source={place}", f"target={place}"])
    return line.getvalue()


def kill(name: str) -> None:
    """Kill the container.

    If it had ended already, or docker doesn't answer, the log says so.
    """
    try:
        ended = subprocess.run(
            ["docker", "kill", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=KILL_SECONDS,
            check=False,
        )
        log.info(
            "docker kill %s: %s", name, (ended.stderr or ended.stdout).decode("utf-8", "replace").strip()
        )
    except subprocess.TimeoutExpired:
        log.warning(
            "docker kill %s did not end within %s s; see whether the container is left.", name, KILL_SECONDS
        )
