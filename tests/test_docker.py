"""Files in docker/: valid for linters and schemas, no open ports to others, secrets only in files."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.deployment.stack import CONTAINER_PORTS

DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
OURS = {"airflow", "mlflow", "worker"}
# The images in which a Python script is run.
RUN_IN = {
    "healthy": OURS,
    "make-buckets": {"worker"},
    "copy-buckets": {"worker"},
    "upgrade-mlflow": {"mlflow"},
}


def _read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / name).read_text("utf-8")))


COMPOSE = _read("compose.yaml")


def run(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **more)


def test_the_dockerfile_passes_its_linter() -> None:
    done = run(BIN / "hadolint", DOCKER / "Dockerfile")
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize("name", ["compose.yaml", "gpu.yaml", "spread.yaml", "elsewhere.yaml"])
def test_compose_files_follow_the_schema(name: str) -> None:
    done = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / name)
    assert done.returncode == 0, done.stdout


def test_every_script_is_shell_that_parses() -> None:
    for path in (
        DOCKER / name
        for name in (
            "entrypoint",
            "start-airflow",
            "start-mlflow",
            "make-secrets",
            "databases.sh",
            "dump-databases",
            "restore-databases",
        )
    ):
        assert os.access(path, os.X_OK) and run("sh", "-n", path).returncode == 0, path


def test_images_are_pinned_and_ours_run_as_nobody_special() -> None:
    for name, service in COMPOSE["services"].items():
        assert re.search(r":\$?\{?[\w.:-]*\d", service["image"]) and ":latest" not in service["image"], name
    stages = re.split(r"^FROM ", (DOCKER / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)[2:]
    assert {stage.split(" AS ")[1].split()[0] for stage in stages} == OURS
    assert all("USER 10001" in stage for stage in stages)


def test_nothing_listens_beyond_loopback() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_workers_elsewhere_know_every_server_that_is_opened_to_them_where_it_is_told() -> None:
    opened = {name: service["ports"] for name, service in _read("spread.yaml")["services"].items()}
    for name, [port] in opened.items():
        own = CONTAINER_PORTS[name]
        assert re.fullmatch(rf"\$\{{BIND:\?[^}}]+\}}:{own}:{own}", port), (
            "no address unless it is told, and the port that workers ask"
        )
    assert set(opened) == set(CONTAINER_PORTS)
    for name, worker in _read("elsewhere.yaml")["services"].items():
        assert name in ("worker", "gpu-worker") and {
            host.split(":")[0] for host in worker["extra_hosts"]
        } == set(opened)


def test_a_stage_may_wait_for_a_worker_as_long_as_a_training_may_take() -> None:
    environment = COMPOSE["services"]["scheduler"]["environment"]
    assert int(environment["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"]) >= 24 * 3600, (
        "Airflow stops a training after that"
    )


def test_servers_ask_each_other_without_the_proxy_that_docker_may_give_them() -> None:
    services = COMPOSE["services"].items()
    asking = {name for name, service in services if service["image"].startswith("skumatch-")}
    assert {"mlflow", "api-server", "worker", "buckets", "airflow-init"} <= asking
    for name in asking:
        environment = COMPOSE["services"][name]["environment"]
        hosts = set(environment["no_proxy"].split(","))
        assert environment["NO_PROXY"] == environment["no_proxy"] and "${NO_PROXY:-}" in hosts
        assert {"127.0.0.1", "localhost", "::1", "api-server", "mlflow", "store"} <= hosts, name


def test_every_service_has_a_health_check_or_ends_by_itself() -> None:
    ends = {name for name, service in COMPOSE["services"].items() if service.get("restart") == "no"}
    assert ends == {"airflow-init", "buckets"}
    checked = {
        name for name, service in COMPOSE["services"].items() if "test" in service.get("healthcheck", {})
    }
    assert checked | ends == set(COMPOSE["services"])
    for name, service in COMPOSE["services"].items():
        words = " ".join(service.get("healthcheck", {}).get("test", []))
        assert "localhost" not in words, f"{name} may listen on one of the addresses of that name only"


def test_secrets_are_made_once_each_and_are_all_that_compose_wants(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert run(DOCKER / "make-secrets", folder).returncode == 0
    made = {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    assert set(made) == set(COMPOSE["secrets"]) and all(made.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    random = [text for name, text in made.items() if re.fullmatch("[0-9a-f]{96}", text)]
    assert len(set(random)) == len(random) == 12
    assert made["skumatch_airflow"] == f"http://skumatch:{made['airflow_service']}@api-server:8080"
    assert (
        made["airflow_db"] in made["airflow_database"]
        and "@postgres:5432/airflow" in made["airflow_database"]
    )
    assert run(DOCKER / "make-secrets", folder).returncode == 0
    assert made == {path.name: path.read_text("utf-8") for path in folder.iterdir()}, "what is there stays"
    for name, service in COMPOSE["services"].items():
        wanted = {
            Path(str(value)).name
            for value in service.get("environment", {}).values()
            if "/run/secrets/" in str(value)
        }
        assert wanted <= set(service.get("secrets", [])) <= set(made), name


def test_compose_holds_no_secret_itself() -> None:
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            assert not re.search(
                "PASSWORD|SECRET|FERNET|CONN|BROKER|RESULT_BACKEND|ACCESS_KEY", name
            ) or name.endswith("_FILE"), (
                name,
                value,
            )


def test_the_entrypoint_turns_files_into_variables_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cr€t with space\n")
    env = {
        "PATH": os.environ["PATH"],
        "SECRETS": str(tmp_path),
        "A_KEY_FILE": str(tmp_path / "key"),
        "SSL_CERT_FILE": "/etc/other",
    }
    done = run(DOCKER / "entrypoint", "env", env=env)
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (
        variables["A_KEY"] == "s3cr€t with space"
        and "A_KEY_FILE" not in variables
        and variables["SSL_CERT_FILE"] == "/etc/other"
    )
    done = run(DOCKER / "entrypoint", "env", env=env | {"B_FILE": str(tmp_path / "none")})
    assert done.returncode == 1 and "wanted for B" in done.stderr and "s3cr" not in done.stderr


def test_mlflow_answers_by_its_own_names_and_where_a_proxy_shows_it(tmp_path: Path) -> None:
    (tmp_path / "mlflow").write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
    (tmp_path / "mlflow").chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "MLFLOW_AUTH_DATABASE": "a",
        "MLFLOW_DATABASE": "b",
        "ARTIFACTS": "s3://mlflow/",
    }
    for more, hosts, origins in (
        ({}, "mlflow:5000,localhost:*,127.0.0.1:*", []),
        ({"MLFLOW_URL": ""}, "mlflow:5000,localhost:*,127.0.0.1:*", []),
        (
            {"MLFLOW_URL": "https://mlflow.example.org/"},
            "mlflow:5000,localhost:*,127.0.0.1:*,mlflow.example.org",
            ["--cors-allowed-origins", "https://mlflow.example.org"],
        ),
    ):
        words = run(DOCKER / "start-mlflow", env=env | more).stdout.splitlines()
        assert words[words.index("--allowed-hosts") + 1] == hosts and all(word in words for word in origins)
        assert ("--cors-allowed-origins" in words) == bool(origins)


def test_the_airflow_image_has_no_torch_and_the_worker_all(tmp_path: Path) -> None:
    packages = {
        name: run(sys.executable, ROOT / "scripts/extras", *words).stdout
        for name, words in _installed().items()
    }
    assert "torch" not in packages["airflow"] and "mlflow" not in packages["airflow"]
    assert all(name in packages["worker"] for name in ("torch>=", "dvc-s3", "celery", "faiss-cpu"))
    assert run(sys.executable, ROOT / "scripts/extras", "nothing").returncode


@pytest.mark.skipif(
    not find_spec("boto3") or not find_spec("redis"),
    reason="needs the images' packages; `make test-deployment` has them",
)
def test_python_scripts_import_only_what_their_images_install() -> None:
    scripts = {
        path.name: path
        for path in DOCKER.iterdir()
        if path.is_file() and "python" in path.read_text("utf-8").split("\n")[0]
    }
    assert set(scripts) == set(RUN_IN)
    for name, images in RUN_IN.items():
        for image in images:
            lacking = _imported(scripts[name]) - _closure(
                run(sys.executable, ROOT / "scripts/extras", *_installed()[image]).stdout
            )
            assert not lacking, f"{name} in the image {image}"


@pytest.mark.skipif(
    not find_spec("boto3"), reason="needs the images' packages; `make test-deployment` has them"
)
@pytest.mark.parametrize(("code", "goes_on"), [("404", True), ("403", False)])
def test_a_copy_of_the_buckets_goes_on_where_an_object_is_gone_meanwhile(
    code: str, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    def download(key: str, path: str) -> None:
        if key == "b":
            raise ClientError({"Error": {"Code": code, "Message": ""}}, "HeadObject")
        Path(path).write_text(key)

    def found(key: str) -> SimpleNamespace:
        return SimpleNamespace(
            key=key, size=1, Object=lambda: SimpleNamespace(download_file=lambda path: download(key, path))
        )

    bucket = SimpleNamespace(objects=SimpleNamespace(all=lambda: [found(key) for key in "abc"]))
    monkeypatch.setattr("boto3.resource", lambda kind: SimpleNamespace(Bucket=lambda name: bucket))
    monkeypatch.setattr(sys, "argv", ["copy-buckets", "out", str(tmp_path)])
    umask = os.umask(0o022)
    try:
        with nullcontext() if goes_on else pytest.raises(ClientError):
            runpy.run_path(str(DOCKER / "copy-buckets"))
    finally:
        os.umask(umask)
    copied = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert copied == dict.fromkeys(
        ("dvc/a", "dvc/c", "mlflow/a", "mlflow/c") if goes_on else ("dvc/a",), 0o600
    )


def test_what_a_backup_holds_is_for_its_owner_only(tmp_path: Path) -> None:
    (tmp_path / "pg_dump").write_text('#!/bin/sh\nwhile [ "$1" != --file ]; do shift; done; echo dump > "$2"')
    (tmp_path / "pg_dump").chmod(0o755)
    (tmp_path / "backup").mkdir()
    done = run(
        DOCKER / "dump-databases",
        tmp_path / "backup",
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        umask=0o022,
    )
    assert done.returncode == 0, done.stderr
    assert {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "backup").iterdir()
    } == dict.fromkeys(("airflow.dump", "mlflow.dump", "mlflow_auth.dump"), 0o600)


def _imported(script: Path) -> set[str]:
    """The packages that a script's imports come from, without the standard library."""
    modules = set()
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module).split(".")[0])
    known = importlib.metadata.packages_distributions()
    return {canonicalize_name(known.get(module, [module])[0]) for module in modules - sys.stdlib_module_names}


def _closure(packages: str) -> set[str]:
    """The packages of these requirements, one a line, and of all that they require in turn."""
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(line) for line in packages.splitlines()]
    while todo:
        wanted = todo.pop()
        for extra in {"", *wanted.extras} - {
            extra for name, extra in seen if name == canonicalize_name(wanted.name)
        }:
            seen.add((canonicalize_name(wanted.name), extra))
            further = [Requirement(text) for text in importlib.metadata.requires(wanted.name) or []]
            todo += [
                package
                for package in further
                if package.marker is None or package.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in seen}


def _installed() -> dict[str, list[str]]:
    """The extras that the Dockerfile installs with scripts/extras, by image."""
    text = (DOCKER / "Dockerfile").read_text("utf-8").replace('"$VARIANT"', "cpu")
    stages = {
        part.split(" AS ")[1].split()[0]: part
        for part in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
        if " AS " in part
    }
    extras = {name: re.search(r"scripts/extras (.*?) >", part) for name, part in stages.items()}
    return {name: words[1].split() for name, words in extras.items() if words}


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")
def test_docker_reads_the_compose_files(tmp_path: Path) -> None:
    if run("docker", "compose", "version").returncode:
        pytest.skip("docker has no compose here")
    for more in ("gpu.yaml", "spread.yaml", "elsewhere.yaml"):
        addresses = os.environ | {"BIND": "10.0.0.1", "SERVERS": "10.0.0.1"}
        done = run(
            "docker",
            "compose",
            "--file",
            DOCKER / "compose.yaml",
            "--file",
            DOCKER / more,
            "config",
            "--quiet",
            env=addresses,
        )
        assert done.returncode == 0, done.stderr
