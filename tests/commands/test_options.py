"""Every option of every command: bad paths are one sentence, and one name has one form everywhere."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import pytest
import typer

from skumatch import cli
from skumatch.commands.options import output_file
from skumatch.errors import RunFailed, SkumatchError, StorageError
from tests.cli import NOWHERE
from tests.conftest import ROOT, draw, make_project, make_shelf

STORAGE, PARAMETER = 21, 10
INTERNAL = "worker"
LONG = "x" * 300 + ".csv"


class Option(NamedTuple):
    """An option or argument of a command, as click has it, with its annotation in the code."""

    command: str
    param: Any
    kind: Any
    parser: Any

    @property
    def name(self) -> str:
        return f"{self.command} {self.param.opts[0]}"


def all_options() -> Iterator[Option]:
    """Every option that isn't hidden, of every command that people use."""

    def below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        for word in getattr(command, "commands", ()):
            yield from below(command.commands[word], f"{name} {word}".strip())
        if not hasattr(command, "commands"):
            yield name, command

    for name, command in below(typer.main.get_command(cli.app), ""):
        if name.split()[0] != INTERNAL:
            hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
            for param in command.params:
                kind, declared = get_args(hints[param.name])[:2]
                if not getattr(param, "hidden", False):
                    yield Option(name, param, kind, declared.parser)


OPTIONS = list(all_options())


def is_path(option: Option) -> bool:
    return Path in (option.kind, *get_args(option.kind))


WRITTEN = [option for option in OPTIONS if option.parser]
# How each option that names a file or folder to read is given; some are texts that may be paths.
READ = {
    "run --data": "run --data X",
    "run --catalogue": "run --data SHELF --catalogue X",
    "evaluate --data": "evaluate --model frozen:smoke@none --data X",
    "evaluate --model": "evaluate --data SHELF --model X",
    "compare --data": "compare --models frozen:smoke@none --data X",
    "compare --models": "compare --data SHELF --models X",
    "match images": "match X",
    "match --skus": "match PICTURE --skus X",
    "match --model": "match PICTURE --model X",
    "data import path": "data import X",
    "data import --skus": "data import SHELF --skus X",
    "data import --catalogue": "data import SHELF --catalogue X",
    "data add delivery": "data add X",
    "data add --catalogue": "data add SHELF --catalogue X",
    "data retire --skus": "data retire --skus X",
    "data relabel table": "data relabel X",
    "data remove --images": "data remove --images X",
    "audit show --from": "audit --from X",
    "audit show --key": "audit --key X",
    "audit show --image": "audit --image X",
    "bench workers --against": "bench workers --against X",
}
TEXTS = {"run --data", "evaluate --model", "compare --models", "match --model", "audit show --image"}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What an option that wants something else may be given, and a good delivery and picture."""
    root = tmp_path_factory.mktemp("places")
    named = {"PICTURE": draw(root / "picture.png", "a picture"), "SHELF": make_shelf(root / "shelf", 2, 2, 1)}
    named |= {name: root / name for name in ("folder", "garbage", "empty", "missing", "pipe", LONG)}
    named["folder"].mkdir()
    named["garbage"].write_bytes(bytes(range(255, -1, -1)) * 20)
    named["empty"].touch()
    os.mkfifo(named["pipe"])
    return named


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("options") / "project")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def skumatch(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Run the command in this process, in a project whose servers are away."""
    for name in [name for name in os.environ if name.startswith("SKUMATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SKUMATCH_MLFLOW", NOWHERE)
    monkeypatch.setenv("SKUMATCH_AIRFLOW", NOWHERE)
    monkeypatch.setenv("SKUMATCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(project)

    def run(*words: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["skumatch", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def exit_codes() -> set[int]:
    return {kind.exit_code for kind in SkumatchError.__subclasses__()} | {RunFailed("").exit_code}


def is_a_sentence(ended: Ended) -> bool:
    return ended.err.startswith("✗ ") and ended.err.count("\n") == 1 and ended.err.rstrip().endswith(".")


def test_every_path_is_tried_here() -> None:
    read = {option.name for option in OPTIONS if is_path(option) and option.parser is None}
    read.remove("init folder")  # it is written, and test_init.py tries it
    assert read | TEXTS == READ.keys()
    assert not [
        option.name
        for option in OPTIONS
        if not option.parser and (getattr(option.param, "help", "") or "").startswith("Write")
    ]
    assert {option.param.opts[0] for option in WRITTEN} >= {
        "--json",
        "--html",
        "--chart",
        "--out",
        "--export",
    }


@pytest.mark.parametrize("option", WRITTEN, ids=lambda option: option.name)
def test_an_output_that_cannot_be_written_is_refused_first(
    skumatch: Any, tmp_path: Path, places: dict[str, Path], option: Option
) -> None:
    (tmp_path / "folder.csv").mkdir()
    targets = ["/proc/none/file.csv", places["empty"] / "file.csv", tmp_path / LONG, "/dev/full/file.csv"]
    targets += [] if option.parser.__name__ == "output_folder" else [tmp_path / "folder.csv"]
    for target in targets:
        ended = skumatch(*option.command.split(), option.param.opts[0], target)
        assert ended.code == STORAGE and is_a_sentence(ended), ended
        assert str(target) in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_the_place_of_an_output_is_tried() -> None:
    with pytest.raises(StorageError, match="can't be written"):
        output_file("/proc/none/file.json")


@pytest.mark.parametrize("name", READ)
def test_an_input_of_another_kind_is_one_sentence(skumatch: Any, places: dict[str, Path], name: str) -> None:
    for kind in ("PICTURE", "folder", "garbage", "empty", "missing", "pipe", LONG):
        words = [places[kind] if word == "X" else places.get(word, word) for word in READ[name].split()]
        ended = skumatch(*words)
        assert ended.code in exit_codes() and is_a_sentence(ended), (kind, ended)


def test_a_table_is_written_in_the_form_of_its_ending(skumatch: Any, places: dict[str, Path]) -> None:
    ended = skumatch("match", places["PICTURE"], "--out", "matches.txt")
    assert ended.code == PARAMETER and ".parquet or .csv" in ended.err and is_a_sentence(ended)


def test_an_earlier_name_still_works_and_is_hidden(skumatch: Any, places: dict[str, Path]) -> None:
    """Scripts say --page, --file and --skus N; given twice, the command says which to leave out."""
    shown = {option.name for option in OPTIONS}
    for command, earlier, now in (
        ("audit show", "--page", "--html"),
        ("data retire", "--file", "--skus"),
        ("data remove", "--file", "--images"),
        ("data sample", "--skus", "--products"),
    ):
        assert f"{command} {earlier}" not in shown and f"{command} {now}" in shown
        value = "3" if command == "data sample" else "list.html"
        ended = skumatch(*command.split(), earlier, value, now, value)
        assert ended.code == PARAMETER and f"{earlier} is the earlier name of {now}" in ended.err
    ended = skumatch("data", "retire", "--file", places["missing"])
    assert f"There is no {places['missing']}" in ended.err


def test_one_name_has_one_form_and_one_meaning() -> None:
    forms: dict[str, set[str]] = {}
    for option in OPTIONS:
        if option.param.opts[0].startswith("-"):
            forms.setdefault(option.param.opts[0], set()).add(option.param.metavar or "")
    several = {name: found for name, found in forms.items() if len(found) > 1}
    # A flag where a program reads the answer from standard output.
    assert several.pop("--json") == {"FILE", ""}
    assert several == {"--image": {"PICTURE", "SHA256"}, "--data": {"PATH", "FOLDER"}}


def test_every_option_has_help_that_is_a_sentence_and_a_form() -> None:
    for option in OPTIONS:
        words = option.param.help or ""
        assert words.endswith(".") and (words[0].isupper() or words.startswith("champion")), option.name
        assert option.param.metavar is not None and not option.param.metavar.islower(), option.name


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal(skumatch: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERMINAL_WIDTH", str(width))
    for command in sorted({option.command for option in OPTIONS}):
        ended = skumatch(*command.removesuffix(" show").split(), "--help")
        assert ended.code == 0 and max(map(len, ended.out.splitlines())) <= width
        assert "<bool>" not in ended.out and "skumatch" in ended.out
        examples = [line.strip() for line in ended.out.splitlines() if "Example:" in line]
        assert all(line.endswith("`") for line in examples), "an example is on one line"


def test_the_help_of_audit_has_what_a_newcomer_needs(skumatch: Any) -> None:
    for words in (("audit", "--help"), ("audit", "champion", "--help")):
        shown = skumatch(*words).out
        assert "--verify" in shown and "--html" in shown and "skumatch audit champion --verify" in shown
    assert "diff" in skumatch("audit", "--help").out


def test_the_version_is_printed_and_nothing_else(skumatch: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert skumatch("--version") == (0, f"skumatch {project['version']}\n", "")


def test_the_version_and_the_names_of_commands_import_no_command() -> None:
    code = "import sys; from skumatch.cli import main; sys.argv = ['skumatch', *sys.argv[1:]]\n"
    code += "try: main()\nfinally: sys.stderr.write(' '.join(sys.modules))"
    for words, more in ((["--version"], {}), ([], completing("skumatch ma", 1))):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True, check=True)
        assert done.stdout.strip() in ("skumatch 0.1.0", "match"), done
        assert not {"skumatch.commands", "pandas", "torch", "mlflow"} & set(done.stderr.split())


def completing(line: str, word: int) -> dict[str, str]:
    """The environment in which bash asks for the completions of a word of a line."""
    return {"_SKUMATCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(word)}


@pytest.mark.parametrize(
    ("line", "word", "words"),
    [
        ("skumatch re", 1, ["retrain", "refresh", "reproduce"]),
        ("skumatch wor", 1, []),
        ("skumatch --ver", 1, ["--version"]),
        ("skumatch match --mo", 2, ["--model"]),
        ("skumatch match --model cha", 3, ["champion", "challenger"]),
        ("skumatch evaluate --protocol ", 3, ["full", "k5", "test_loo", "unseen", "catalogue"]),
        ("skumatch stage e", 2, ["embed", "evaluate"]),
        ("skumatch data re", 2, ["retire", "relabel", "rename", "remove"]),
        ("skumatch audit ", 2, ["diff", "acknowledge", "champion", "challenger", "refreshed", "previous"]),
        ("skumatch audit --ht", 2, ["--html"]),
        ("skumatch audit champion --ver", 3, ["--verify"]),
        ("skumatch promote ref", 2, ["refreshed"]),
    ],
)
def test_tab_completion(
    skumatch: Any, monkeypatch: pytest.MonkeyPatch, line: str, word: int, words: list[str]
) -> None:
    for name, value in completing(line, word).items():
        monkeypatch.setenv(name, value)
    assert skumatch().out.split() == words
