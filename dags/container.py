"""docker's command line for a stage.

Values stay out of it, as whoever lists the machine's processes reads it.
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
    """What the container of this try of a task is called."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"skumatch-{ti.run_id}-{ti.task_id}-{ti.try_number}")


def command(name: str, env: Mapping[str, str], gpu: bool) -> list[str]:
    """`docker run ...

    IMAGE` with what `env` asks for: SKUMATCH_IMAGE, and SKUMATCH_DOCKER_NETWORK, _GPUS and _ARGS.

    Raises AirflowFailException where there is no image named or no docker.
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
    """The folders that a stage works in, which are the same inside: project, home, and the remote where it is a folder."""
    remote = variable("SKUMATCH_REMOTE", env)
    folders = [PROJECT, PROJECT / (variable("SKUMATCH_HOME", env) or ".skumatch")]
    folders += [PROJECT / remote] if remote and "://" not in remote else []
    for place in folders:
        place.mkdir(parents=True, exist_ok=True)  # docker would make it root's
    return [place.absolute() for place in folders]


def mount(place: Path) -> str:
    """The value of `--mount` for a folder that has the same path inside.

    It is a line of CSV, so that any character may stand in the path; `-v` would part it at a colon.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(["type=bind", f"source={place}", f"target={place}"])
    return line.getvalue()


def kill(name: str) -> None:
    """End the container, whatever it does.

    The log says where it had ended already, or where docker does not answer.
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
