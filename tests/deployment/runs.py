"""Runs of the deployment that tests watch and disturb: progress of training, outcome, and consistency."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import yaml

from skumatch.bundle import verify_bundle
from skumatch.config import apply_overrides
from skumatch.pipeline.worker import stages
from skumatch.registry.registry import Registry
from skumatch.registry.tracking import EXPERIMENT
from skumatch.servers.airflow_api import RETRAIN, Airflow, WrittenLog, marked, patiently
from skumatch.servers.follow import trigger
from tests.conftest import ROOT, commit, make_project, wait_until
from tests.deployment.gate import Gate
from tests.deployment.stack import START_SECONDS, Service, Stack
from tests.e2e.live import deliver
from tests.pipeline.home import SMOKE

PHOTOS = ROOT.parent / "shared/data/grocery-store/all"
SKUS = 8
# Long enough to be disturbed in; the tiny encoder, since weights and figures of any kind travel in the same
# way.
BY_HAND = (
    "schedule.retrain=none",
    "schedule.refresh=none",
    "schedule.on_new_data=false",
)  # these tests count runs
LONG = (
    *SMOKE,
    *BY_HAND,
    "train.epochs=150",
    "runtime.checkpoint_seconds=0.5",
    "runtime.threads=1",
    "runtime.parallel_runs=4",
)
RUN_SECONDS = 900
BUCKET = "dvc"


def make(root: Path) -> tuple[Path, Path]:
    """A project whose training takes a while, and a delivery of photos: real ones, or else rendered ones."""
    project = make_project(root / "project")
    params = project / "params.yaml"
    params.write_text(
        yaml.safe_dump(apply_overrides(yaml.safe_load(params.read_text("utf-8")), LONG)), "utf-8"
    )
    commit(project, "Train the tiny encoder for long")
    if not PHOTOS.is_dir():
        return project, deliver(root / "delivery")
    for sku in sorted(path.name for path in (PHOTOS / "train").iterdir())[:SKUS]:
        for side, count in (("train", 6), ("test", 3)):
            target = root / "delivery/all" / side / sku
            target.mkdir(parents=True)
            for photo in sorted((PHOTOS / side / sku).iterdir())[:count]:
                shutil.copyfile(photo, target / photo.name)
    return project, root / "delivery"


Homes = Callable[[Path], None]


@dataclass
class Deployment:
    """The stack with data in its store.

    Each run has a prefix and workers of its own, so it finds the store as it was.
    """

    stack: Stack
    gate: Gate
    project: Path

    def bucket(self) -> Any:
        return boto3.resource("s3", **self._account()).Bucket(BUCKET)

    def _account(self) -> dict[str, str]:
        store = self.stack.store
        return {
            "endpoint_url": f"http://127.0.0.1:{self.stack.ports['store']}",  # past the gate
            "aws_access_key_id": store["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": store["AWS_SECRET_ACCESS_KEY"],
            "region_name": store["AWS_DEFAULT_REGION"],
        }

    def keys(self, prefix: str) -> list[str]:
        return [item.key for item in self.bucket().objects.filter(Prefix=prefix)]

    @property
    def registry_url(self) -> str:
        return self.stack.person["SKUMATCH_MLFLOW"].replace(
            "://", f"://admin:{self.stack.secret('mlflow_admin')}@"
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`skumatch WORDS` of a person on a machine of their own."""
        return subprocess.run(
            [sys.executable, "-m", "skumatch", *words],
            cwd=self.project, env=self.stack.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    @contextmanager
    def run(
        self, name: str, queues: tuple[str, str] = ("default,gpu", "default,gpu"), homes: Homes | None = None
    ) -> Iterator[Run]:
        """Two workers with empty homes (which `homes` prepares) and a store that holds the data only.

        Then a run of theirs is started.
        """
        if homes:
            homes(self.stack.root / f"{name}-two" / "home")
        with self.workers(name, {"one": queues[0], "two": queues[1]}) as workers:
            run = trigger(self.stack.settings, {"overrides": [f"release.model_name={name}"]})
            yield Run(self, name, run, workers)

    @contextmanager
    def workers(self, prefix: str, queues: dict[str, str]) -> Iterator[dict[str, Service]]:
        """Workers by name, whose store is a copy of the data under `prefix`."""
        for key in self.keys("skumatch/files"):
            target = f"{prefix}/{key.removeprefix('skumatch/')}"
            self.bucket().Object(target).copy_from(CopySource={"Bucket": BUCKET, "Key": key})
        store = {
            "SKUMATCH_REMOTE": f"s3://{BUCKET}/{prefix}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.stack.ports['gate']}",
        }
        started = {
            name: self.stack.worker(f"{prefix}-{name}", queue, **store) for name, queue in queues.items()
        }
        try:
            wait_until(
                lambda: all(
                    " ready." in worker.log.read_text("utf-8", "replace") for worker in started.values()
                ),
                START_SECONDS,
            )
            yield started
        finally:
            for worker in started.values():
                worker.end(seconds=10)


@dataclass
class Run:
    deployment: Deployment
    name: str
    id: str
    workers: dict[str, Service]

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Of each task: state, try_number, hostname, as Airflow has them."""
        with Airflow(self.deployment.stack.settings) as airflow:
            response = patiently(
                lambda: airflow.get(f"/dags/{RETRAIN}/dagRuns/{self.id}/taskInstances", limit=100)
            )
        return {task["task_id"]: task for task in response["task_instances"]}

    def state(self) -> str:
        with Airflow(self.deployment.stack.settings) as airflow:
            return str(patiently(lambda: airflow.get(f"/dags/{RETRAIN}/dagRuns/{self.id}"))["state"])

    def checkpoints(self) -> list[str]:
        keys = self.deployment.keys(f"{self.name}/checkpoints/")
        return sorted(key for key in keys if key.endswith(".json") and not key.endswith("owner.json"))

    def steps(self) -> list[int]:
        """The steps that the checkpoints were saved after."""
        return [int(Path(key).name.split("-")[0]) for key in self.checkpoints()]

    def attempt(self) -> int:
        """How often the training was begun or taken up, as its checkpoints' owner file has it."""
        [key] = [
            key for key in self.deployment.keys(f"{self.name}/checkpoints/") if key.endswith("/owner.json")
        ]
        return int(json.loads(self.deployment.bucket().Object(key).get()["Body"].read())["attempt"])

    def trained(self, attempt: int) -> list[int]:
        """Numbers of images seen, as one try of the training task reported; the first is where it started."""
        log = (
            self.deployment.stack.root
            / f"airflow-logs/dag_id={RETRAIN}/run_id={self.id}/task_id=train/attempt={attempt}.log"
        )
        return [
            int(progress["done"])
            for progress in marked(WrittenLog(log).all(), "progress")
            if progress["stage"] == "train"
        ]

    def until_training(self) -> None:
        """Until a checkpoint of the training is there."""
        self.until(lambda: self.checkpoints())

    def until(self, condition: Any) -> None:
        def going_on() -> Any:
            assert self.state() in ("queued", "running"), self.words()
            return condition()

        wait_until(lambda: going_on() or time.sleep(0.2), RUN_SECONDS)

    def until_begun(self, task: str) -> None:
        self.until(lambda: self.tasks()[task]["state"] == "running")

    def trainer(self) -> Service:
        """The worker that does the training."""
        [worker_process] = [worker for worker in self.workers.values() if _pids(worker) & _training()]
        return worker_process

    def places(self) -> dict[str, str]:
        """Map each task to the worker that did it, from the workers' own logs."""
        logs = {name: worker.log.read_text("utf-8", "replace") for name, worker in self.workers.items()}
        return {
            task: name for task in self.tasks() for name, log in logs.items() if f"task_id='{task}'" in log
        }

    def ended(self) -> str:
        wait_until(lambda: self.state() in ("success", "failed") or time.sleep(0.5), RUN_SECONDS)
        return self.state()

    def go_on(self) -> None:
        """Clear the failed tasks, as users do after a fix."""
        with Airflow(self.deployment.stack.settings) as airflow:
            wanted = {"dag_run_id": self.id, "only_failed": True, "reset_dag_runs": True, "dry_run": False}
            airflow.post(f"/dags/{RETRAIN}/clearTaskInstances", wanted)
        self.until(lambda: True)

    def words(self) -> str:
        """Details for a failing test: states of tasks, and the ends of the workers' logs."""
        states = {name: (task["state"], task["try_number"]) for name, task in self.tasks().items()}
        return f"{states}\n" + "\n".join(
            worker.log.read_text("utf-8", "replace")[-1500:] for worker in self.workers.values()
        )

    def bundle(self) -> str:
        """The champion's bundle of this run's model.

        It is the only version, all that the run left is whole, and green is green.
        """
        tasks = self.tasks()
        assert {task["state"] for task in tasks.values()} == {"success"}, self.words()
        assert set(tasks) == {"pull", *stages(self.deployment.project), "register"}
        registry = Registry(self.deployment.registry_url, self.name)
        [version] = registry.versions()
        assert set(version.aliases) == {"champion", "challenger"}
        with registry.client() as client:
            experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
            runs = client.search_runs([experiment], f"tags.`skumatch.run` = '{self.id}'")
            assert [run.info.status for run in runs] == ["FINISHED"]
            page = f"{self.deployment.stack.person['SKUMATCH_MLFLOW']}/#/"
            assert page in client.get_model_version(self.name, str(version.version)).description, (
                "a worker knows it by another name"
            )
        with tempfile.TemporaryDirectory() as folder:
            assert verify_bundle(registry.download_bundle(version, Path(folder) / "bundle"), version.bundle)
        self._whole()
        return version.bundle

    def _whole(self) -> None:
        """Assert that each object of the remote matches the hash in its name, so none is half-written."""
        for key in self.deployment.keys(f"{self.name}/files/md5/"):
            body = self.deployment.bucket().Object(key).get()["Body"].read()
            head, tail = key.removesuffix(".dir").split("/")[-2:]
            assert hashlib.md5(body, usedforsecurity=False).hexdigest() == head + tail, key


def _pids(worker: Service) -> set[int]:
    import psutil

    assert worker.process
    return {process.pid for process in psutil.Process(worker.process.pid).children(recursive=True)}


def _training() -> set[int]:
    import psutil

    pids = set()
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[-2:] == ["stage", "train"]:
            pids.add(process.pid)
    return pids - {os.getpid()}
