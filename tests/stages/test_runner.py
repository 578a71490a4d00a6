"""A stage in its own process: outs new or absent, and its seconds or its error recorded."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skumatch.errors import ParameterError, StorageError, TrainingDiverged
from skumatch.files import read_json, write_text
from skumatch.stages import runner

ROOT = Path(__file__).resolve().parents[2]
Stage = Callable[[Path, Any], None]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    write_text(tmp_path / "out/train/old", "from before")
    return tmp_path


@pytest.fixture
def run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Stage], None]:
    """Run the stage train with a body given by the test."""

    def stage(work: Stage) -> None:
        monkeypatch.setattr(runner.importlib, "import_module", lambda name: SimpleNamespace(run=work))
        runner.run("train", workspace)

    return stage


def half(work: Exception) -> Stage:
    def stage(root: Path, _: Any) -> None:
        write_text(root / "out/train/half", "written")
        raise work

    return stage


def test_a_stage_leaves_its_outs_and_its_seconds(run: Callable[[Stage], None], workspace: Path) -> None:
    run(lambda root, params: write_text(root / "out/train/new", str(params.train.epochs)))
    assert [path.name for path in (workspace / "out/train").iterdir()] == ["new"]
    assert read_json(workspace / "log/train.json")["seconds"] >= 0
    assert not (workspace / runner.ERROR).exists()


def test_a_stage_that_fails_leaves_its_error_and_no_outs(
    run: Callable[[Stage], None], workspace: Path
) -> None:
    with pytest.raises(TrainingDiverged):
        run(half(TrainingDiverged("The loss is no number any more; lower train.optimizer.lr_tower.")))
    error = {
        "kind": "TrainingDiverged",
        "sentence": "The loss is no number any more; lower train.optimizer.lr_tower.",
        "exit_code": 15,
        "retry": False,
    }
    assert read_json(workspace / runner.ERROR) == error
    assert not (workspace / "out/train").exists() and not (workspace / "log/train.json").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_refuses_is_one_sentence_and_may_pass(
    run: Callable[[Stage], None], workspace: Path, number: int
) -> None:
    with pytest.raises(StorageError, match="free some space"):
        run(half(OSError(number, os.strerror(number))))
    assert read_json(workspace / runner.ERROR)["retry"] is True
    assert not (workspace / "out/train").exists()


def test_a_bug_is_not_dressed_up_as_a_users_error(run: Callable[[Stage], None], workspace: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(half(FileNotFoundError("no such file")))
    assert not (workspace / runner.ERROR).exists() and not (workspace / "out/train").exists()


def test_the_error_of_an_earlier_try_is_gone_when_the_next_succeeds(
    run: Callable[[Stage], None], workspace: Path
) -> None:
    with pytest.raises(TrainingDiverged):
        run(half(TrainingDiverged("No.")))
    run(lambda root, params: None)
    assert not (workspace / runner.ERROR).exists()


def test_a_stage_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"polish.*validate, split, frozen, train"):
        runner.run("polish", tmp_path)
