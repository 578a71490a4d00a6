"""Paths in every script, with blanks and signs; a path that another program can't take is refused at once."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from skumatch import cli
from skumatch.commands import worker
from skumatch.config import Settings
from skumatch.errors import DataError
from skumatch.stages import runner
from tests.cli import Cli
from tests.conftest import Delivery

PARAMETER, DATA = 10, 11
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
HARD = ["søren #1, données 100% [red]", "صور 店 \"x\" 'y' 👍🏽 ~?*;&=:: %20 Жe\u0301"]


@pytest.mark.parametrize("locale", [{}, ASCII], ids=["utf-8", "ascii"])
@pytest.mark.parametrize("name", HARD)
def test_data_comes_from_and_goes_to_any_path(
    tmp_path: Path, delivery: Delivery, monkeypatch: pytest.MonkeyPatch, name: str, locale: dict[str, str]
) -> None:
    root, skus = delivery(skus=3, train=2, test=1, name=name), tmp_path / f"{name}.txt"
    tool = Cli.make(tmp_path / f"at {name}")
    skus.write_text("sku 0\nsku 1\n", "utf-8")
    local_config = tool.project / ".dvc/config.local"
    local_config.write_text("['remote \"søren\"']\n    url = s3://søren\n", "utf-8")
    for variable, value in locale.items():
        monkeypatch.setenv(variable, value)
    ended = tool("data", "import", root, "--skus", skus, remote=tool.home / f"remote {name}")
    assert (ended.code, ended.err) == (0, ""), ended
    assert "6 images of 2 SKUs" in ended.out
    assert "url = s3://søren" in local_config.read_text("utf-8")
    assert len([path for path in (tool.home / f"remote {name}").rglob("*") if path.is_file()]) >= 3
    monkeypatch.delenv("PYTHONUTF8", raising=False)
    status = [sys.executable, "-m", "dvc", "status", "data.dvc"]  # DVC itself, as the user calls it
    answer = subprocess.run(status, cwd=tool.project, capture_output=True, text=True, check=True).stdout
    assert "up to date" in answer


def written(folder: Path) -> list[Path]:
    """All below a folder but for compiled code."""
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.parametrize(
    ("place", "name", "reason", "words"),
    [
        ("home", "a {x}", "DVC would read {x} in it as a template", ("data", "import", "DELIVERY")),
        ("remote", "%(x)s", "DVC would read %(x)s in it as a template", ("data", "sample")),
        ("home", "$HOME", "Airflow would read $HOME in it as a template", ("up",)),
        ("home", "${x}", "Airflow would read ${x} in it as a template", ("run",)),
        ("home", "a\nb", "it has a control character in it", ("data", "sample")),
        ("home", "caf\udce9", "it has bytes that aren't UTF-8 in it", ("run",)),
    ],
)
def test_a_path_that_would_be_read_otherwise_is_refused_before_anything(
    tmp_path: Path, delivery: Delivery, place: str, name: str, reason: str, words: tuple[str, ...]
) -> None:
    given = str(delivery(skus=1, train=1, test=1))
    tool = Cli.make(tmp_path / "at")
    before = written(tmp_path)
    command = [given if word == "DELIVERY" else word for word in words]
    sentence, places = f"but {reason}; choose another folder", {place: tmp_path / name, "mlflow": None}
    tool.refuses(PARAMETER, sentence, *command, **places)
    assert written(tmp_path) == before


def test_figures_go_to_any_path(tmp_path: Path, delivery: Delivery) -> None:
    tool, root = Cli.make(tmp_path), delivery(skus=3, train=2, test=1, name=HARD[0])
    page, figures = tmp_path / f"{HARD[1]}.html", tmp_path / f"{HARD[1]}.json"
    words = ("compare", "--data", root, "--models", "frozen:smoke@none", "--html", page, "--json", figures)
    ended = tool(*words)
    assert (ended.code, ended.err) == (0, ""), ended
    assert page.read_text("utf-8").startswith("<!doctype html>") and json.loads(figures.read_text("utf-8"))


def fault(*_: object, **__: object) -> None:
    "caf\udce9".encode()


def test_main_ends_a_text_error_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", fault)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == DATA
    assert capfd.readouterr().err.startswith("✗ A name or text in this command can't be encoded: 'caf")


def test_a_task_ends_a_text_error_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}"))
    monkeypatch.setattr(worker, "_environment", Settings)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    with pytest.raises(DataError, match="A name or text in this task can't be encoded"):
        worker._answer(fault)  # type: ignore[arg-type]


def test_a_stage_ends_a_text_error_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    monkeypatch.setattr(runner.importlib, "import_module", lambda _: SimpleNamespace(run=fault))
    with pytest.raises(DataError, match="A name or text in stage split can't be encoded"):
        runner.run("split", tmp_path)
