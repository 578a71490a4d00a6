"""A separate project with live servers: Airflow's scheduler, MLflow, and a worker that fails on request."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from shlex import quote
from typing import Any

import yaml
from PIL import Image, ImageEnhance
from rich.console import Console

from skumatch.config import Settings, apply_overrides
from skumatch.errors import RunFailed
from skumatch.registry.registry import ModelRef, Registry
from skumatch.registry.tracking import EXPERIMENT, Tracking
from skumatch.servers import services
from skumatch.servers.airflow_api import RETRAIN, Airflow
from skumatch.servers.follow import follow
from tests.conftest import commit, draw, free_port, make_project
from tests.data.zips import mojibake
from tests.pipeline.home import HIDDEN, SMOKE, Home

BREAKER = Path(__file__).parent / "breaker"
PLACE = "søren 100% #1, données 店 [x]?;&='q"  # a folder that a whole run must bear
DELAY = "timedelta(seconds=10)"
# No run starts by itself: a test counts runs. Those of test_refresh.py are started by events.
BY_HAND = ("schedule.retrain=none", "schedule.refresh=none", "schedule.on_new_data=false")
SPOKEN = "a word of the environment"  # a task that is broken says it
PROXY_PASSWORD = f"secret{token_hex(12)}"
NO_PROXY_HERE = f"http://someone:{PROXY_PASSWORD}@127.0.0.1:9"  # a port that nobody listens on
HOSTILE = {
    **dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy"), NO_PROXY_HERE),
    "ALL_PROXY": NO_PROXY_HERE.replace("http", "socks5"),
    "NO_PROXY": "[::1],fd00::/8",
}
HEEDED = (  # what each command says of it, before its own words
    "ALL_PROXY is not used: a SOCKS proxy needs two more packages, pip install socksio PySocks.\n"
    "NO_PROXY is read without 'fd00::/8': not every client here can read that.\n"
)


@dataclass(frozen=True)
class Ended:
    """A skumatch command that ended: its exit code and its output."""

    code: int
    out: str
    err: str

    def fact(self, name: str) -> str:
        """Return the value of `name` in the summary's grid."""
        match = re.search(rf"^[│ ]*{name}\s\s+(.*?)[│ ]*$", self.out, re.MULTILINE)
        assert match, self.out
        return match[1]


class Live:
    """One project's folder, home and ports; `command` runs the real command line.

    Its own params.yaml has the tiny encoder. Its environment names dead proxies, and a NO_PROXY that not
    every client reads. `said` is all terminal output.
    """

    def __init__(
        self, root: Path, users: str | None = None, overrides: tuple[str, ...] = (), mlflow: str | None = None
    ) -> None:
        self.root, self.plan, self.users, self.said = root, root / "plan.json", users, list[str]()
        self.events = root / "lineage.jsonl" if users else None  # OpenLineage
        self.project = make_project(root / "project {x}")
        self._hurry(overrides)
        places = {
            "airflow_port": free_port(),
            "mlflow_port": free_port(),
            "airflow_users": users,
            "mlflow": mlflow,
        }
        self.settings = Settings(project=self.project, home=root / "home", **places)  # type: ignore[arg-type]
        self.delivery = pack(deliver(root / "delivery"))
        self.mend()

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SKUMATCH_", "AIRFLOW_"))
        }
        kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")} | HOSTILE
        ports = {"AIRFLOW_PORT": self.settings.airflow_port, "MLFLOW_PORT": self.settings.mlflow_port}
        variables = {
            "PROJECT": self.project,
            "HOME": self.settings.home_dir,
            "PYTHON": self._python(),
            **ports,
        }
        more = (("AIRFLOW_USERS", self.users), ("MLFLOW", self.settings.mlflow), ("OPENLINEAGE", self.events))
        variables |= {name: given for name, given in more if given}
        return (
            kept
            | {"COLUMNS": "300", "SPOKEN": SPOKEN}
            | {f"SKUMATCH_{name}": str(value) for name, value in variables.items()}
        )

    def command(self, *words: str) -> Ended:
        """`skumatch WORDS` in the project's folder."""
        done = subprocess.run(
            [sys.executable, "-m", "skumatch", *words],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.said += done.stdout, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr.removeprefix(HEEDED))

    def break_(self, task: str, error: str) -> None:
        self.plan.write_text(json.dumps({"task": task, "error": error}))

    def mend(self) -> None:
        self.plan.write_text("{}")

    @property
    def worker(self) -> Home:
        """The machine the tasks run on, to drive one by hand."""
        return Home(
            self.project, self.settings.home_dir, self.settings.home_dir / "remote", self.settings.mlflow_url
        )

    def versions(self) -> list[ModelRef]:
        return Registry(self.settings.mlflow_url).versions()

    def runs(self) -> list[Any]:
        """MLflow's runs, newest first."""
        with Tracking(self.settings.mlflow_url).client() as client:
            return list(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]))

    def artifacts(self, folder: Path) -> Path:
        """All artifacts of MLflow's newest run, in `folder`."""
        with Tracking(self.settings.mlflow_url).client() as client:
            return Path(client.download_artifacts(self.runs()[0].info.run_id, "", str(folder)))

    def newest(self) -> dict[str, Any]:
        """Airflow's newest run."""
        with Airflow(self.settings) as airflow:
            return dict(
                airflow.get(f"/dags/{RETRAIN}/dagRuns", order_by="-run_after", limit=1)["dag_runs"][0]
            )

    def states(self) -> tuple[str, dict[str, str]]:
        """Of the newest run: its state, and that of each task."""
        run = self.newest()
        with Airflow(self.settings) as airflow:
            tasks = airflow.get(f"/dags/{RETRAIN}/dagRuns/{run['dag_run_id']}/taskInstances")[
                "task_instances"
            ]
        return str(run["state"]), {task["task_id"]: str(task["state"]) for task in tasks}

    def go_on(self) -> Ended:
        """Clear the failed tasks of the newest run, as in Airflow after a fix, and follow it to its end."""
        run, console = self.newest()["dag_run_id"], Console(file=io.StringIO(), width=200)
        self.clear(RETRAIN, run)
        try:
            follow(self.settings, run, console)
        except RunFailed as error:
            return Ended(error.exit_code, console.file.getvalue(), f"✗ {error}\n")  # type: ignore[attr-defined]
        return Ended(0, console.file.getvalue(), "")  # type: ignore[attr-defined]

    def clear(self, dag: str, run: str) -> None:
        """Have Airflow try again the failed tasks of a run, and the tasks that waited for them."""
        with Airflow(self.settings) as airflow:
            wanted = {"dag_run_id": run, "only_failed": True, "reset_dag_runs": True, "dry_run": False}
            airflow.post(f"/dags/{dag}/clearTaskInstances", wanted)

    def tasks(self, dag: str) -> set[str]:
        """The tasks of a DAG, as Airflow has read it."""
        with Airflow(self.settings) as airflow:
            return {task["task_id"] for task in airflow.get(f"/dags/{dag}/tasks")["tasks"]}

    def _hurry(self, overrides: tuple[str, ...]) -> None:
        dag, params = self.project / "dags/retrain.py", self.project / "params.yaml"
        text = dag.read_text("utf-8")
        assert text.count(DELAY) == 1
        dag.write_text(text.replace(DELAY, "timedelta(seconds=1)"), "utf-8")
        params.write_text(
            yaml.safe_dump(
                apply_overrides(yaml.safe_load(params.read_text("utf-8")), [*SMOKE, *BY_HAND, *overrides])
            ),
            "utf-8",
        )
        commit(self.project, "Train little, try again soon")

    def _python(self) -> Path:
        python = self.root / "python"
        variables = f"PYTHONPATH={BREAKER}:{HIDDEN} SKUMATCH_TEST_PLAN={quote(str(self.plan))}"
        python.write_text(f'#!/bin/sh\nexport {variables}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        return python


@contextmanager
def serving(
    root: Path, users: str | None = None, overrides: tuple[str, ...] = (), mlflow: str | None = None
) -> Iterator[Live]:
    live = Live(root, users, overrides, mlflow)
    started = live.command("up")
    try:
        assert started.code == 0, started.err
        yield live
    finally:
        stopped = live.command("down")
    assert stopped.code == 0, stopped.err
    assert services.running(live.settings) == set()


# Names as RP2K has them; they are garbled on their way through the zip.
NAMES = (
    "味全每日C橙汁",
    "东方树叶乌龙茶500ml",
    "café crème",
    "可口可乐330ml",
    "康师傅 冰红茶",
    "蒙牛 纯牛奶",
    "乐事薯片（黄瓜味）",
    "奥利奥饼干",
)


def pack(folder: Path) -> Path:
    """Zip the folder like the published zip: names in UTF-8 without the flag for UTF-8."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return mojibake(
        folder.with_suffix(".zip"), ((str(path.relative_to(folder)), path.read_bytes()) for path in files)
    )


def deliver(folder: Path, train: int = 4, test: int = 2) -> Path:
    """Products in RP2K's layout: each looks the same in all its pictures, but for the light.

    One query shows another product.
    """
    for sku in NAMES:
        for number in range(train + test):
            side, wrong = "train" if number < train else "test", (sku, number) == (NAMES[0], train)
            path = draw(folder / "all" / side / sku / f"{number}.png", NAMES[1] if wrong else sku)
            with Image.open(path) as picture:
                ImageEnhance.Brightness(picture).enhance(0.6 + 0.1 * number - 0.05 * wrong).save(path)
    return folder
