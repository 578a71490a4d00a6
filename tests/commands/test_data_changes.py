"""`skumatch data add`, `retire`, `relabel`, `rename`, `undo` and `log`, as a user types them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skumatch.data.manifest import read_manifest
from tests.cli import Cli
from tests.conftest import draw

PARAMETER, DATA, STORAGE = 10, 11, 21
COMMANDS = ("add", "retire", "relabel", "rename", "undo", "log")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A project with data of three products; not to be changed."""
    root = tmp_path_factory.mktemp("changes")
    cli = Cli.make(root)
    for sku in ("Cola", "Tea", "Soap"):
        for name in ("train/{}/0.png", "train/{}/1.png", "test/{}/0.png"):
            draw(root / "first/all" / name.format(sku), name.format(sku))
    assert cli("data", "import", root / "first").code == 0
    return cli


@pytest.fixture
def cli(original: Cli, tmp_path: Path) -> Cli:
    """A copy to change."""
    root = shutil.copytree(original.project.parent, tmp_path / "root")
    return Cli(root / "project", root / "home")


def done(cli: Cli, *words: str | Path) -> str:
    """Return the output of a command that succeeds."""
    ended = cli("data", *words)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


def skus(cli: Cli) -> set[str]:
    return set(read_manifest(cli.project / "data")["sku"])


def test_a_week_of_changes_and_their_log(cli: Cli, tmp_path: Path) -> None:
    draw(tmp_path / "week/Juice/0.png", "juice 0")
    shown = done(cli, "add", tmp_path / "week", "--why", "week 48")
    assert re.search(r"Data version [0-9a-f]{12}, after [0-9a-f]{12}\.", shown)
    assert "images added: 1 (train/Juice/0.png)" in shown and "SKUs added: 1 (Juice)" in shown
    assert "Commit data.dvc to keep this version; `skumatch data undo` goes back." in shown
    assert "nothing changed" in done(cli, "add", tmp_path / "week")

    shown = done(cli, "retire", "tea", "--until", "2026-11-30", "--why", "out of stock")
    assert "products retired: 1 (Tea)" in shown
    assert "Retired products: 1 (Tea)." in done(cli, "inspect")
    assert "products sold again: 1 (Tea)" in done(cli, "retire", "--back", "Tea")
    (tmp_path / "gone.txt").write_text("Soap\nTEA\n")
    assert "products retired: 2 (Soap, Tea)" in done(cli, "retire", "--file", tmp_path / "gone.txt")
    assert "products sold again: 2" in done(cli, "undo", "--why", "too early")

    (tmp_path / "labels.csv").write_text("Image,SKU\ntrain/Cola/0.png,Cola Zero\n")
    shown = done(cli, "relabel", tmp_path / "labels.csv")
    assert "images relabelled: 1 (train/Cola Zero/0.png (was Cola))" in shown
    done(cli, "rename", "Cola Zero", "Cola", "--merge")
    assert skus(cli) == {"Cola", "Tea", "Soap", "Juice"}

    log = done(cli, "log")
    actions = re.findall(r"│ (import|add|retire|bring back|relabel|rename|undo) ", log)
    assert actions == ["rename", "relabel", "bring back", "retire", "add", "import"]
    assert "week 48" in log and "out of stock" in log and "too early" not in log
    assert "from /" in log, "the delivery's place"


def test_a_delivery_of_test_photos_with_a_catalogue(cli: Cli, tmp_path: Path) -> None:
    draw(tmp_path / "week/Juice/0.png", "juice")
    draw(tmp_path / "iconic/Bread.png", "bread")
    shown = done(cli, "add", tmp_path / "week", "--catalogue", tmp_path / "iconic", "--side", "test")
    assert "images added: 2 (catalogue/Bread/Bread.png, test/Juice/0.png)" in shown


def test_what_a_delivery_has_and_the_data_does_not_take_is_told(cli: Cli, tmp_path: Path) -> None:
    week = tmp_path / "week"
    draw(week / "Juice/0.png", "juice 0")
    draw(week / "Juice/1.png", "juice 1")
    (week / "Juice/2.png").write_bytes((week / "Juice/0.png").read_bytes()[:60])
    (week / "Juice/notes.txt").write_text("week 48")
    erase(cli, week / "Juice/1.png")
    shown = done(cli, "add", week)
    assert "images added: 1 (train/Juice/0.png)" in shown
    assert "Set aside: truncated 1; `skumatch data inspect` lists them." in shown
    assert "Left out: erased 1, not-an-image 1." in shown
    shown = done(cli, "add", week)
    assert "nothing changed" in shown and "Set aside" not in shown and "Left out: erased 1" in shown

    erase(cli, cli.project.parent / "first/all/train/Tea/1.png")
    assert "Left out: erased 1." in done(cli, "import", cli.project.parent / "first")
    assert "train/Tea/1.png" not in set(read_manifest(cli.project / "data")["id"])


def erase(cli: Cli, path: Path) -> None:
    """Put a picture's erasure on record."""
    version = cli.project.joinpath("data.dvc").read_text().split("md5: ")[1].split()[0]
    change = {"action": "erase", "after": version, "before": version, "pointer": "", "who": "ann", "why": ""}
    change |= {"when": datetime.now(UTC).isoformat(), "summary": "1 picture"}
    change |= {"erased": [hashlib.sha256(path.read_bytes()).hexdigest()]}
    folder = cli.home / "remote/records" / version.removesuffix(".dir")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{path.stem}-{path.parent.name}.json").write_text(json.dumps(change))


def test_undo_as_often_as_there_are_changes(cli: Cli) -> None:
    pointer = (cli.project / "data.dvc").read_text()
    done(cli, "retire", "Tea")
    done(cli, "rename", "Soap", "Bar of soap")
    done(cli, "undo")
    done(cli, "undo")
    assert (cli.project / "data.dvc").read_text() == pointer
    cli.refuses(DATA, "it is the first", "data", "undo")


def test_an_import_records_a_killed_change(cli: Cli) -> None:
    """It was killed between data.dvc and its record, so its note is still in the home."""
    done(cli, "retire", "Tea")
    records = cli.home / "remote/records"
    version = cli.project.joinpath("data.dvc").read_text().split("md5: ")[1].split(".dir")[0]
    (path,) = (records / version).iterdir()
    project = hashlib.sha256(os.path.relpath(cli.project, cli.home).encode()).hexdigest()[:12]
    note = {"change": json.loads(path.read_text()), "tables": {}}
    (cli.home / f"data-change-{project}.json").write_text(json.dumps(note))
    path.unlink()
    assert done(cli, "import", cli.project.parent / "first")
    assert [change["action"] for change in (json.loads(path.read_text()),)] == ["retire"]


@pytest.mark.parametrize(
    ("code", "words", "command"),
    [
        (DATA, "Did you mean 'Cola'? There is no product 'Colla'", ("retire", "Colla")),
        (DATA, "isn't retired", ("retire", "--back", "Cola")),
        (DATA, "write it as 2026-11-30", ("retire", "Cola", "--until", "tomorrow")),
        (PARAMETER, "Name products, or a file that lists them", ("retire",)),
        (PARAMETER, "one of the two", ("retire", "Cola", "--file", "LIST")),
        (PARAMETER, "--until goes with products that", ("retire", "--back", "Cola", "--until", "2026-11-30")),
        (DATA, "which line 2 of", ("retire", "--file", "LIST")),
        (DATA, "matching needs two", ("retire", "Cola", "Tea")),
        (DATA, "There is no", ("add", "NOWHERE")),
        (PARAMETER, "--side is 'both'; write train or test", ("add", "FIRST", "--side", "both")),
        (DATA, "There is no", ("relabel", "NOWHERE")),
        (DATA, "lacks a column image or sku (it has: a, b)", ("relabel", "OTHER")),
        (DATA, "isn't in the data", ("relabel", "LABELS")),
        (DATA, "say --merge", ("rename", "Tea", "Cola")),
        (DATA, "can't be a product's name", ("rename", "Tea", "a/b")),
        (DATA, "it is the first", ("undo",)),
    ],
)
def test_bad_input_is_one_sentence(original: Cli, code: int, words: str, command: tuple[str, ...]) -> None:
    root = original.project.parent
    (root / "list.txt").write_text("Cola\nColla\n")
    (root / "other.csv").write_text("a,b\n1,2\n")
    (root / "labels.csv").write_text("image,sku\ntrain/Cola/7.png,Tea\n")
    places = {"LIST": "list.txt", "OTHER": "other.csv", "LABELS": "labels.csv", "NOWHERE": "nowhere"}
    places["FIRST"] = "first"
    given = [root / places[word] if word in places else word for word in command]
    original.refuses(code, words, "data", *given)


@pytest.mark.parametrize("command", COMMANDS)
def test_without_data_or_outside_a_project(original: Cli, tmp_path: Path, command: str) -> None:
    first = original.project.parent / "first"
    (tmp_path / "labels.csv").write_text("image,sku\n")
    given = {"add": (first,), "retire": ("Cola",), "rename": ("Cola", "Coke")}
    given["relabel"] = (tmp_path / "labels.csv",)
    cli = Cli(tmp_path / "empty", tmp_path / "home")
    cli.project.mkdir()
    cli.refuses(PARAMETER, "run skumatch in the project's folder", "data", command, *given.get(command, ()))
    assert not any(cli.project.iterdir())
    shutil.copyfile(original.project / "params.yaml", cli.project / "params.yaml")
    ended = cli("data", command, *given.get(command, ()))
    assert ended.code == DATA and "There is no data yet; import some" in ended.err


def test_a_remote_that_is_away(cli: Cli) -> None:
    nowhere = cli.project.parent / "nowhere"
    nowhere.write_text("no folder")
    for words in (("retire", "Cola"), ("undo",), ("log",)):
        cli.refuses(STORAGE, "check the remote", "data", *words, remote=nowhere)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_it_does_and_what_each_option_is(original: Cli, command: str) -> None:
    shown = original("data", command, "--help").out
    assert f"data {command}" in shown
    plain = " ".join(shown.split())
    assert re.search(r"(Add|Retire|Give|Go back|Show) .*\.", plain)
    for line in shown.splitlines():
        if re.match(r"│ +(\*? +\w+|--\w+)", line):
            assert len(line.strip("│ ").split("  ")) > 1, f"an option without a word: {line}"
    assert len(original("data", "--help").out.split(f" {command} ", 1)[1].splitlines()[0].split()) > 4


def test_the_commands_are_listed(original: Cli) -> None:
    shown = original("data", "--help").out
    assert all(f"│ {command}" in shown for command in (*COMMANDS, "import", "inspect", "sample"))
