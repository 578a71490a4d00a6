"""Fixtures for all tests: small real pictures in RP2K's layout, and a separate project for pipeline runs."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image, ImageEnhance
from xdist.scheduler import LoadScopeScheduling

from skumatch import network
from skumatch.config import Settings
from skumatch.files import write_json
from tests import warm
from tests.proving import load_profile

load_profile()
# Hundreds of processes run the same code, many in copies of this project: each copy is compiled once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
network.settle()  # the tests' own clients ask their servers directly, too
ROOT = Path(__file__).resolve().parents[1]
PROJECT_FILES = (
    "skumatch",
    "dags",
    "dvc.yaml",
    "params.yaml",
    ".dvcignore",
    ".dvc",
    ".gitignore",
    "requirements",
    "pyproject.toml",
)
Delivery = Callable[..., Path]
PATIENCE = 3
# Folders whose tests take the longest: they come first, so that no process ends alone.
LONG = ("e2e", "servers", "audit", "pipeline", "release", "stages")
SHARED = {
    "audit": r"tests/audit/",
    "world": r"tests/pipeline/test_(claims|cleanup|gc_command)",
}  # group -> how its files' paths begin


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of warm Pythons beside the collection, where many processes will share it."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        warm.prepare()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=place)


class TogetherWhatShares(LoadScopeScheduling):
    """Runs all tests of a file in one process, and all tests that share a slow session fixture, too."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((group for group, files in SHARED.items() if re.match(files, file)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TogetherWhatShares:
    return TogetherWhatShares(config, log)


def draw(path: Path, seed: str, size: tuple[int, int] = (48, 72)) -> Path:
    """A picture of coloured blocks, another one for each seed."""
    colours = random.Random(seed)  # noqa: S311 no secret
    image = Image.new("RGB", (4, 6))
    image.putdata(
        [(colours.randrange(256), colours.randrange(256), colours.randrange(256)) for _ in range(24)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize(size, Image.Resampling.NEAREST).save(path)
    return path


def make_shelf(root: Path, skus: int, train: int, test: int) -> Path:
    """Products that look the same in all pictures but for the light.

    One query of a product the gallery lacks.
    """
    for sku in range(skus):
        for number in range(train + test):
            path = draw(
                root / "all" / ("train" if number < train else "test") / f"sku {sku}" / f"{number}.png",
                f"sku {sku}",
            )
            with Image.open(path) as picture:
                ImageEnhance.Brightness(picture).enhance(1 - 0.1 * number).save(path)
    draw(root / "all/test/unknown/0.png", "unknown")
    return root


@pytest.fixture
def delivery(tmp_path: Path) -> Delivery:
    """Make a folder in RP2K's layout: `skus` products with `train` and `test` pictures each."""

    def make(skus: int = 4, train: int = 4, test: int = 2, name: str = "delivery") -> Path:
        root = tmp_path / name
        for sku in range(skus):
            for side, count in (("train", train), ("test", test)):
                for number in range(count):
                    draw(root / "all" / side / f"sku {sku}" / f"{number}.png", f"{sku} {side} {number}")
        return root

    return make


def make_project(folder: Path) -> Path:
    """A clone of this project in `folder`, all in one commit, so that runs in it come from clean code."""
    words = ("-z", "--cached", "--others", "--exclude-standard")
    for name in git(ROOT, "ls-files", *words, "--", *PROJECT_FILES).split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "project")
    return folder


def commit(folder: Path, message: str) -> None:
    """Commit all of `folder`; equal content gives an equal commit at any time."""
    git(folder, "add", "-A")
    git(
        folder,
        "-c",
        "user.name=Test",
        "-c",
        "user.email=test@example.org",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        message,
    )


def git(folder: Path, *words: str) -> str:
    dates = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
    return subprocess.run(
        ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, env=os.environ | dates
    ).stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@contextmanager
def serving_mlflow(folder: Path, port: int) -> Iterator[str]:
    """A real MLflow server on loopback with all it keeps in `folder`; yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", "sqlite:///mlflow.db"]
    command += ["--artifacts-destination", (folder / "artifacts").as_uri()]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("a") as log:
        server = subprocess.Popen(
            command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def record_as_started(settings: Settings, *names: str) -> None:
    """Record this process as servers that `skumatch up` started in the settings' home."""
    me = {"pid": os.getpid(), "created": psutil.Process().create_time(), "origin": "test"}
    write_json(settings.servers_file, [{"name": name, **me} for name in names])


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(condition: Callable[[], object], seconds: float, pause_s: float = 1.0) -> None:
    """Ask until it is so, soon at first, then every `pause_s`, so that what answers can work meanwhile.

    `seconds` is ample on a quiet machine; a busy one gets PATIENCE times as long.
    """
    end, pause = time.monotonic() + PATIENCE * seconds, min(0.05, pause_s)
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen in time"
        time.sleep(pause)
        pause = min(pause_s, 1.3 * pause)


@pytest.fixture(scope="session")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `mlflow_url`: its database mlflow.db, its artifacts/."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def mlflow_url(mlflow_home: Path) -> Iterator[str]:
    """One MLflow server for all tests of a process.

    Tests take a registered model of their own (`release.model_name`).
    """
    with serving_mlflow(mlflow_home, free_port()) as url:
        yield url


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An object store on loopback, named in the environment, with a bucket `shop`; yields boto3's client."""
    import boto3
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # another test's knows another store's address
    server = ThreadedMotoServer("127.0.0.1", port := free_port(), verbose=False)
    server.start()
    httpx.post(f"http://127.0.0.1:{port}/moto-api/reset")  # one process has one state, whatever its servers
    named = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "eu-west-1"}
    for name, value in {**named, "ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="shop", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    yield client
    server.stop()
    S3FileSystem.clear_instance_cache()
