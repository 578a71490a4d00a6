"""The documents are right: commands, links, parameters, exit codes and pictures in them exist."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from benchmarks.commands import app as benchmarks
from skumatch import errors
from skumatch.cli import app
from skumatch.commands.audit import ShowByDefault
from skumatch.config import Settings, load_params
from skumatch.files import read_json
from skumatch.params import Params

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docker").glob("*.md")])
IDS = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
SECTIONS = "|".join(field.alias or name for name, field in Params.model_fields.items() if name != "seed")

BENCHMARKS = ["-m", "benchmarks"]
FILES = ("dvc", "md", "py")  # data.dvc is a file
UsageError = typer.BadParameter.__base__ or typer.BadParameter

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)


def commands(text: str) -> list[list[str]]:
    """The words of each command in a document: lines of its shell blocks, and code within sentences."""
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [
        code.replace("...", "")
        for code in re.findall(r"`((?:skumatch|make|python -m benchmarks)\s[^`\n]+)`", prose)
    ]
    parts = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words for words in parts if words]


def all_commands(program: str) -> list[list[str]]:
    commands_found = [
        words for path in DOCUMENTS for words in commands(path.read_text("utf-8")) if words[0] == program
    ]
    return [list(words) for words in sorted({tuple(words) for words in commands_found})]


def parse(words: list[str], program: typer.Typer = app) -> dict[str, Any]:
    """Return the parameters that a command line gets from the words, without running it.

    Raises for an unknown command, option or value.
    """
    command: Any = typer.main.get_command(program)
    name, *rest = words
    if rest and rest[0].startswith("-"):  # an option of the program itself
        [option] = [param for param in command.get_params(typer.Context(command)) if rest[0] in param.opts]
        return {option.name: True}
    while hasattr(command, "commands"):
        name, *rest = command.completed(rest) if isinstance(command, ShowByDefault) else rest
        command = command.commands[name]
    return dict(command.make_context(name, rest).params)


def test_the_readme_has_the_two_commands() -> None:
    assert [words for words in commands(README) if words[0] == "make"][:2] == [
        ["make", "run"],
        ["make", "test"],
    ]
    assert ["make", "run", "DATA=/path/to/photos"] in commands(README)


@pytest.mark.parametrize("words", all_commands("skumatch"), ids=" ".join)
def test_a_skumatch_command_is_understood(words: list[str]) -> None:
    if words not in (
        ["skumatch", "evaluate"],
        ["skumatch", "match"],
    ):  # named in a sentence, without what they need
        overrides = parse(words).get("overrides")
        load_params(ROOT / "params.yaml", overrides or ())


@pytest.mark.parametrize(
    "words", [words for words in all_commands("python") if words[1:3] == BENCHMARKS], ids=" ".join
)
def test_a_benchmark_is_understood(words: list[str]) -> None:
    load_params(ROOT / "params.yaml", parse(words[2:], benchmarks).get("set_") or ())


@pytest.mark.parametrize(
    "line",
    [
        "skumatch teach",
        "skumatch retrain --sett a=b",
        "skumatch data inspect more",
        "skumatch match --model 1",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises((KeyError, UsageError)):
        parse(line.split())


@pytest.mark.parametrize("words", all_commands("make"), ids=" ".join)
def test_a_make_command_has_its_target_and_variables(words: list[str]) -> None:
    for name in (word.partition("=")[0] for word in words[1:] if "=" in word):
        assert re.search(rf"^{name} \?=|\$\({name}\)", MAKEFILE, re.MULTILINE), name
    subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)


def test_make_run_hands_data_and_parameters_on() -> None:
    line = ["make", "-n", "run", "DATA=my photos.zip", "SET=train.epochs=3 seed=1"]
    output = subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    words = shlex.split(next(line for line in output.splitlines() if "-m skumatch run" in line))
    given = parse(words[words.index("skumatch") :])
    assert given["data"] == "my photos.zip"
    assert given["overrides"] == ["train.epochs=3", "seed=1"]


@each_document
def test_links_and_pictures_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            name, _, heading = target.partition("#")
            linked = (path.parent / name).resolve() if name else path
            assert linked.exists(), target
            assert linked.is_relative_to(ROOT), target
            assert not heading or heading in anchors(linked.read_text("utf-8")), target


def anchors(text: str) -> set[str]:
    """Headings as GitHub names them."""
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@each_document
def test_parameters_exist(path: Path) -> None:
    tree = Params().model_dump(by_alias=True)
    for section, name in re.findall(
        rf"(?<![\w./])({SECTIONS})\.([a-z_0-9]+)\b(?![\w./(])", path.read_text("utf-8")
    ):
        assert name in tree[section] or name in FILES, f"{section}.{name}"


@each_document
def test_files_and_variables_that_are_named_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    for name in re.findall(r"`((?:skumatch|dags|docs|tests|scripts|requirements)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    code = "".join(
        file.read_text("utf-8") for folder in ("skumatch", "dags") for file in (ROOT / folder).rglob("*.py")
    )
    for name in re.findall(r"SKUMATCH_[A-Z_]+", text):
        assert name in code or name.removeprefix("SKUMATCH_").lower() in Settings.model_fields, name


def test_every_setting_is_told() -> None:
    variables = (ROOT / "docs/reference/variables.md").read_text("utf-8")
    for name in Settings.model_fields:
        assert f"| `SKUMATCH_{name.upper()}`" in variables or f", `SKUMATCH_{name.upper()}` |" in variables


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    page = (ROOT / "docs/reference/exit-codes.md").read_text("utf-8")
    rows = {(int(code), name) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)}
    assert rows == set(exit_codes())


def exit_codes() -> Iterator[tuple[int, str]]:
    for name, kind in vars(errors).items():
        if (
            isinstance(kind, type) and issubclass(kind, errors.SkumatchError) and kind is not errors.Relayed
        ):  # it has another's code
            yield (errors.RunFailed("").exit_code if kind is errors.RunFailed else kind.exit_code), name


@pytest.mark.parametrize("name", ["cli.md", "parameters.md"])
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    folder = ROOT / "docs/reference"
    pages = runpy.run_path(str(folder / "generate.py"))["pages"]()
    assert pages[name] == (folder / name).read_text("utf-8"), "run `make docs-reference`"


def test_the_reference_has_every_command_and_parameter() -> None:
    """Checked by names from params.yaml and typed here, not by the generator's own lists."""
    folder = ROOT / "docs/reference"
    parameters = (folder / "parameters.md").read_text("utf-8")
    tree = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    sections = {name: keys for name, keys in tree.items() if name != "seed"}
    for name in ("seed", *(f"{section}.{key}" for section, keys in sections.items() for key in keys)):
        assert f"| `{name}` |" in parameters or f"| `{name}." in parameters, name
    commands_page = (folder / "cli.md").read_text("utf-8")
    for name in ("run", "models", "match", "data retire", "audit", "audit diff", "bench workers"):
        assert f"\n## skumatch {name}\n" in commands_page
    assert "worker" not in re.findall(r"^## skumatch (\w+)$", commands_page, re.MULTILINE)


def test_the_documents_list_each_decision() -> None:
    listed = (ROOT / "docs/decisions/README.md").read_text("utf-8")
    for record in (ROOT / "docs/decisions").glob("[0-9]*.md"):
        text = record.read_text("utf-8")
        assert f"({record.name})" in listed
        assert [f"# {record.name[:4]}"] == re.findall(r"^# \d{4}", text)
        assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], (
            record.name
        )


def test_the_terminals_picture_is_what_the_summary_looks_like_today() -> None:
    images = ROOT / "docs/images"
    draw = runpy.run_path(str(images / "render.py"))["draw"]
    assert draw(read_json(images / "summary.json")) == (images / "summary.svg").read_text("utf-8"), (
        "run `python docs/images/render.py`"
    )
