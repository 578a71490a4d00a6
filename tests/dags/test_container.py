"""`runtime.execution: docker`, with a stand-in for docker, as tests run where there is no engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT, wait_until
from tests.dags.conftest import DAGS, hanging, hanging_still, plan

TI = SimpleNamespace(
    run_id="manual__2026-11-23T03:00:00+00:00",
    task_id="train",
    try_number=2,
    xcom_pull=lambda task_ids: {"run": "r1"},
)
NAME = "skumatch-manual__2026-11-23T03-00-00-00-00-train-2"


@pytest.fixture
def docker(stage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with the stand-in, an image, and secrets; returns the folder of the recorded calls."""
    program, notes = tmp_path / "bin/docker", tmp_path / "docker"
    program.parent.mkdir()
    notes.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "fake_docker.py"} "$@"\n')
    program.chmod(0o755)
    variables = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "FAKE_DOCKER": notes,
        "SKUMATCH_IMAGE": "registry/skumatch:1",
    }
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "hush",
        "MLFLOW_TRACKING_PASSWORD": "hush",
        "OPENLINEAGE_API_KEY": "hush",
        "OTHER_TOKEN": "hush",
    }
    for name, value in {**variables, **secrets}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setitem(stage.RUNTIME, "execution", "docker")
    return notes


def run(stage: ModuleType, **more: Any) -> dict[str, Any]:
    operator = stage.StageOperator(task_id="train", words=["stage", "train"], after="frozen", **more)
    return dict(operator.execute({"ti": TI}))


def asked(docker: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((docker / f"{NAME}.json").read_text())
    return tree


def killed(docker: Path) -> list[str]:
    return (docker / "killed.txt").read_text().split() if (docker / "killed.txt").exists() else []


def test_a_stage_works_in_a_container_of_the_image(stage: ModuleType, docker: Path, tmp_path: Path) -> None:
    assert run(stage)["seconds"] == {"train": 0.1}
    words = asked(docker)["words"]
    assert words[:10] == [
        "docker",
        "run",
        "--rm",
        "--init",
        "-i",
        "--name",
        NAME,
        "--network",
        "host",
        "--user",
    ]
    assert words[words.index("--mount") + 1] == f"type=bind,source={tmp_path},target={tmp_path}"
    assert words[words.index("-w") + 1] == str(tmp_path)
    assert words[words.index("registry/skumatch:1") :] == [
        "registry/skumatch:1",
        "python",
        "-m",
        "skumatch",
        "worker",
        "stage",
        "train",
    ]
    assert killed(docker) == []


def test_secrets_reach_the_stage_and_no_list_of_processes(stage: ModuleType, docker: Path) -> None:
    run(stage)
    note = asked(docker)
    assert not [word for word in note["words"] if "hush" in word or "not for stages" in word]
    secrets = {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "OPENLINEAGE_API_KEY"}
    assert {name for name, value in note["env"].items() if value == "hush"} == secrets
    assert {"SKUMATCH_HOME", "SKUMATCH_EVENTS"} <= set(note["env"])
    assert not [
        name
        for name in note["env"]
        if name.startswith("AIRFLOW__") or name in ("OTHER_TOKEN", "PATH", "FAKE_DOCKER")
    ]


@pytest.mark.parametrize("name", [None, NAME], ids=["subprocess", "container"])
def test_stages_get_no_secret_of_airflows_servers(
    stage: ModuleType,
    docker: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
) -> None:
    import launch

    given: list[dict[str, str]] = []
    monkeypatch.setattr(launch.subprocess, "Popen", lambda words, **how: given.append(how["env"]))
    launch.start(["stage", "train"], name)
    (env,) = given
    assert "SKUMATCH_HOME" in env and not [key for key in env if key.startswith("AIRFLOW__")]


def test_docker_s_own_settings_stay_out_of_the_container(
    stage: ModuleType,
    docker: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They belong to docker's client, and may hold secrets that a stage must not see, such as a token."""
    for name, value in (("ARGS", "--label x"), ("NETWORK", "mine"), ("GPUS", "all"), ("TOKEN", "hush")):
        monkeypatch.setenv(f"SKUMATCH_DOCKER_{name}", value)
    run(stage)
    note = asked(docker)
    assert not [name for name in note["env"] if name.startswith("SKUMATCH_DOCKER_")]
    assert not [word for word in note["words"] if word.startswith("SKUMATCH_DOCKER_")]
    assert "SKUMATCH_HOME" in note["env"]


def test_the_environment_says_network_gpus_and_more(
    stage: ModuleType, docker: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"NETWORK": "mine", "GPUS": "all", "ARGS": "--shm-size 8g --label 'two words'"}
    for name, value in settings.items():
        monkeypatch.setenv(f"SKUMATCH_DOCKER_{name}", value)
    monkeypatch.setenv("SKUMATCH_REMOTE", str(tmp_path / "a:b, c"))
    run(stage, queue="gpu")
    words = asked(docker)["words"]
    assert words[words.index("--network") + 1] == "mine" and words[words.index("--gpus") + 1] == "all"
    place = words.index("registry/skumatch:1")
    assert words[place - 4 : place] == ["--shm-size", "8g", "--label", "two words"]
    odd = f"{tmp_path}/a:b, c"  # -v would part it at the colon, --mount without quotes at the comma
    assert f'type=bind,"source={odd}","target={odd}"' in words and Path(odd).is_dir()
    run(stage, queue="default")
    assert "--gpus" not in asked(docker)["words"]


def test_blank_variables_count_as_unset(stage: ModuleType, docker: Path) -> None:
    import container

    blank_ones = ("HOME", "REMOTE", "DOCKER_NETWORK", "DOCKER_GPUS", "DOCKER_ARGS")
    names = [f"SKUMATCH_{name}" for name in blank_ones]
    env = {name: value for name, value in os.environ.items() if name not in names}
    unset = container.command(NAME, env, gpu=True)
    for blank in ("", " "):
        words = container.command(NAME, env | dict.fromkeys(names, blank), gpu=True)
        kept = [word for word in words if word not in ("-e", *names)]
        assert kept == [word for word in unset if word != "-e"]


def test_a_stage_gets_absolute_paths(
    stage: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """In its container another HOME is the user's, and another folder the current one."""
    import launch

    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    given = {"HOME": "home", "REMOTE": "~/remote", "SIGNING_KEY": "keys/k.pem", "OPENLINEAGE": "http://a"}
    for name, value in given.items():
        monkeypatch.setenv(f"SKUMATCH_{name}", value)
    env = launch.environment()
    assert env["SKUMATCH_HOME"] == f"{tmp_path}/home" and env["SKUMATCH_REMOTE"] == f"{tmp_path}/user/remote"
    assert env["SKUMATCH_SIGNING_KEY"] == f"{tmp_path}/keys/k.pem"
    assert env["SKUMATCH_OPENLINEAGE"] == "http://a"
    assert env["SKUMATCH_PROJECT"] == str(tmp_path)
    monkeypatch.setenv("SKUMATCH_REMOTE", "s3://dvc/skumatch")
    assert launch.environment()["SKUMATCH_REMOTE"] == "s3://dvc/skumatch"


def test_a_container_gets_proxies_by_name(
    stage: ModuleType,
    docker: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxies = {"https_proxy": "http://ann:hush@proxy:1", "HTTP_PROXY": "http://proxy:1"}
    proxies |= {"no_proxy": "a", "NO_PROXY": "a"}
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    run(stage)
    note = asked(docker)
    assert proxies.items() <= note["env"].items()
    assert not [word for word in note["words"] if "hush" in word]


HERE = sys.executable


@pytest.mark.parametrize(("python", "starts"), [("~/py", "{home}/py"), ("", HERE), (" ", HERE)])
def test_the_python_of_stages_may_begin_with_a_tilde_or_be_blank(
    stage: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: str, starts: str
) -> None:
    import launch

    words: list[str] = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SKUMATCH_PYTHON", python)
    monkeypatch.setattr("subprocess.Popen", lambda command, **_: words.extend(command))
    launch.start(["stage", "train"])
    assert words[0] == starts.format(home=tmp_path)


@pytest.mark.parametrize("given", ["~/project", "", " "])
def test_the_project_of_the_dags_may_begin_with_a_tilde_or_be_blank(tmp_path: Path, given: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        (project / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    env = os.environ | {"SKUMATCH_PROJECT": given, "HOME": str(tmp_path)}
    words = [sys.executable, "-c", "import recipe; print(recipe.PROJECT)"]
    ended = subprocess.run(words, cwd=DAGS, env=env, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == str(project if given.strip() else ROOT), ended.stderr


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SKUMATCH_IMAGE", " ", "SKUMATCH_IMAGE names no image; set it"),
        ("SKUMATCH_IMAGE", "", "SKUMATCH_IMAGE names no image; set it"),
        ("PATH", "/nowhere", "no program `docker` here; install it"),
    ],
)
def test_what_is_missing_is_said_and_not_tried_again(
    stage: ModuleType, docker: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(stage.AirflowFailException, match=words):
        run(stage)


def test_an_error_in_the_container_is_the_tasks(stage: ModuleType, docker: Path, tmp_path: Path) -> None:
    plan(tmp_path, train="error")
    with pytest.raises(stage.AirflowFailException, match="lower train.optimizer.lr_tower"):
        run(stage)
    assert killed(docker) == []


@pytest.mark.parametrize(("behaviour", "asked_to"), [("hang", []), ("deaf", [NAME])])
def test_stopping_a_task_ends_the_container(
    stage: ModuleType,
    docker: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str,
    asked_to: list[str],
) -> None:
    import launch

    monkeypatch.setattr(launch, "GRACE_SECONDS", 5.0 if behaviour == "hang" else 0.5)
    plan(tmp_path, train=behaviour)
    process = launch.start(["stage", "train"], NAME)
    with process:
        assert process.stdin
        process.stdin.write("{}")
        process.stdin.close()
        family = hanging(tmp_path)
        launch.stop(process, NAME)
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert killed(docker) == asked_to, "docker kill is for what did not end by itself"


def test_a_container_does_not_outlive_its_client(stage: ModuleType, docker: Path, tmp_path: Path) -> None:
    plan(tmp_path, train="hang")

    def lose() -> None:
        hanging(tmp_path)
        (client,) = (
            process
            for process in psutil.Process().children()
            if "fake_docker.py" in " ".join(process.cmdline())
        )
        client.send_signal(signal.SIGKILL)
        wait_until(lambda: killed(docker), 60)

    enemy = threading.Thread(target=lose)
    enemy.start()
    with pytest.raises(stage.AirflowException, match="signal SIGKILL and no result"):
        run(stage)
    enemy.join()
    assert not psutil.wait_procs(hanging_still(tmp_path), timeout=60)[1]
    assert killed(docker) == [NAME]


def test_a_way_to_start_stages_that_does_not_exist_is_a_broken_dag(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: a}}")
    (tmp_path / "params.yaml").write_text("runtime: {execution: podman}")
    env = os.environ | {"SKUMATCH_PROJECT": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", "import recipe"],
        cwd=DAGS,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "runtime.execution is 'podman' in params.yaml; make it subprocess or docker." in ended.stderr
