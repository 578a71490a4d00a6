"""Outside a project: commands that need one are refused first; the others work and write nothing there."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import torch
import typer

from skumatch import cli
from skumatch.bundle import LabelledVectors, write_bundle
from skumatch.data.images import Extent, Images
from skumatch.model import encoder as encoders
from skumatch.model.embed import embed
from skumatch.params import EncoderParams, RuntimeParams
from tests.conftest import make_shelf

NEEDS_A_PROJECT = {
    "run": "--data SHELF",
    "retrain": "",
    "refresh": "",
    "up": "",
    "down": "",
    "pull": "",
    "stage": "validate",
    "reproduce": "",
    "models": "--history",
    "promote": "",
    "rollback": "",
    "gc": "--delete",
    "data import": "SHELF",
    "data sample": "--skus 1 --train 1 --test 1",
    "data inspect": "",
    "data add": "SHELF",
    "data retire": "Cola",
    "data relabel": "PICTURE",
    "data rename": "Cola Tea",
    "data remove": "--sku Cola --before 2026-01-01",
    "data erase": "--sku Cola",
    "data undo": "",
    "data push": "",
    "data log": "",
    "audit show": "--export OUT/dossier",
    "audit diff": "1 2",
    "audit acknowledge": "--why because",
    "bench workers": "",
    "match": "PICTURE",
    "evaluate": "--data SHELF --json OUT/e.json",
    "compare": "--data SHELF --models frozen:smoke@none,champion --html OUT/page.html",
}
MORE = (
    "run",
    "match PICTURE --model 3",
    "match SHELF --out OUT/m.parquet",
    "audit --image PICTURE",
    "audit --at 2026-01-01",
)
NEEDS_NONE = {"doctor", "init"}  # and match and the like, of a bundle
INTERNAL = {"worker"}  # what Airflow's tasks start


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A delivery, a picture of it, a bundle whose gallery is its train side, and a folder to write to."""
    root = tmp_path_factory.mktemp("elsewhere")
    shelf = make_shelf(root / "shelf", skus=3, train=2, test=2)
    torch.manual_seed(0)
    spec = EncoderParams(model="smoke", weights="none", height=64, width=64)
    encoders.save(encoders.build(spec, None).eval(), root / "encoder")
    paths = sorted((shelf / "all/train").glob("*/*.png"))
    skus = [path.parent.name for path in paths]
    ids = [f"train/{path.parent.name}/{path.name}" for path in paths]
    images = Images(ids, skus, ids, [Extent(str(path)) for path in paths])
    gallery = LabelledVectors(ids, skus, embed(encoders.load(root / "encoder"), images, 8, CPU))
    write_bundle(root / "bundle", root / "encoder", gallery, {"similarity": 0.5}, ids)
    picture = shelf / "all/test/sku 1/2.png"
    return {"SHELF": shelf, "PICTURE": picture, "BUNDLE": root / "bundle", "OUT": root / "out"}


CPU = RuntimeParams(device="cpu", threads=1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with no setting in the environment; no server is where ours would be."""
    for name in [name for name in os.environ if name.startswith("SKUMATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SKUMATCH_MLFLOW", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "200")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


@pytest.fixture
def skumatch(
    folder: Path,
    places: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Run the command as it is typed in `folder`, in this process."""

    def placed(word: str) -> str:
        return re.sub("|".join(places), lambda name: str(places[name[0]]), word)

    def run(line: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["skumatch", *map(placed, line.split())])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def all_commands() -> set[str]:
    def below(command: Any, name: str) -> Iterator[str]:
        for word in getattr(command, "commands", ()):
            yield from below(command.commands[word], f"{name} {word}".strip())
        if not hasattr(command, "commands"):
            yield name

    return set(below(typer.main.get_command(cli.app), ""))


def test_every_command_has_its_line_here() -> None:
    public = {name for name in all_commands() if name.split()[0] not in INTERNAL}
    assert public == NEEDS_A_PROJECT.keys() | NEEDS_NONE


@pytest.mark.parametrize("line", [*map(" ".join, NEEDS_A_PROJECT.items()), *MORE])
def test_what_needs_a_project_is_refused_first(
    skumatch: Any,
    folder: Path,
    places: dict[str, Path],
    line: str,
) -> None:
    ended = skumatch(line)
    cure = "run skumatch in the project's folder, or set SKUMATCH_PROJECT to it"
    assert ended == (10, "", f"✗ There is no {folder}/params.yaml; {cure}.\n")
    assert list(folder.iterdir()) == [] and not places["OUT"].exists()


def test_doctor_says_where_to_run_it_and_leaves_nothing(skumatch: Any, folder: Path) -> None:
    ended = skumatch("doctor")
    assert ended.code == 43 and "Run this in the project's folder" in " ".join(ended.out.split())
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("model", ["BUNDLE", "frozen:smoke@none", "frozen:efficientnet-lite0"])
def test_evaluate_needs_no_project(skumatch: Any, folder: Path, tmp_path: Path, model: str) -> None:
    ended = skumatch(f"evaluate --data SHELF --model {model} --json {tmp_path}/e.json")
    assert (ended.code, ended.err) == (0, "")
    assert f"There is no {folder}/params.yaml, so the default parameters are used." in ended.out
    assert json.loads((tmp_path / "e.json").read_text("utf-8"))["n"] == 6
    assert list(folder.iterdir()) == []


def test_compare_needs_no_project(skumatch: Any, folder: Path, tmp_path: Path) -> None:
    ended = skumatch(f"compare --data SHELF --models frozen:smoke@none,BUNDLE --json {tmp_path}/c.json")
    assert (ended.code, ended.err) == (0, "")
    models = json.loads((tmp_path / "c.json").read_text("utf-8"))["models"]
    assert [model["evaluation"]["n"] for model in models] == [6, 6]
    assert list(folder.iterdir()) == []


def test_match_of_a_few_needs_no_project(skumatch: Any, folder: Path) -> None:
    ended = skumatch("match PICTURE --model BUNDLE --json")
    assert (ended.code, ended.err) == (0, "") and json.loads(ended.out)[0][0]["sku"] == "sku 1"
    assert list(folder.iterdir()) == []


def test_match_of_many_needs_no_project(skumatch: Any, folder: Path) -> None:
    ended = skumatch("match SHELF --model BUNDLE --out m.parquet --html m.html")
    assert (ended.code, ended.err) == (0, "")
    assert pq.read_metadata(folder / "m.parquet").num_rows == 13
    assert sorted(path.name for path in folder.iterdir()) == ["m.html", "m.parquet"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is named and not there yet."""
    monkeypatch.setenv("SKUMATCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_weights_go_to_the_home_that_is_named(skumatch: Any, folder: Path, home: Path) -> None:
    assert skumatch("evaluate --data SHELF --model frozen:smoke@none").code == 0
    assert (home / "weights").is_dir() and list(folder.iterdir()) == []


def test_down_stops_a_home_that_is_there(skumatch: Any, folder: Path, home: Path) -> None:
    assert skumatch("down").code == 10 and not home.exists()
    home.mkdir()
    assert skumatch("down").code == 0 and list(folder.iterdir()) == []
