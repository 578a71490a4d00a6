"""The files of a run are named once: dvc.yaml, the stages' code and docs/architecture.md agree on them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from skumatch.errors import DataError
from skumatch.stages import artefacts
from skumatch.stages.artefacts import Artefact, Record, Table

ROOT = Path(__file__).resolve().parents[2]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
NAMED = {name: value for name, value in vars(artefacts).items() if isinstance(value, Artefact)}
# What runs a stage hands a refresh's trained encoder on in place of these two.
HANDED_ON = {"frozen": {"RUN"}, "train": {"RUN", "TRAINED"}}


def artefacts_in(source: str) -> set[str]:
    """The names of artefacts that a module's code uses."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "artefacts"}
    return used - {"ABSENT"}  # a file's name, no artefact


def used_by(stage: str) -> set[str]:
    """The names that a stage's module uses, and what it imports of the same folder."""
    folder = ROOT / "skumatch/stages"
    source = (folder / f"{stage}.py").read_text("utf-8")
    helpers = re.findall(r"^from skumatch\.stages\.(selection|vectors) import", source, re.MULTILINE)
    texts = [source, *((folder / f"{helper}.py").read_text("utf-8") for helper in helpers)]
    return set().union(*map(artefacts_in, texts)) | HANDED_ON.get(stage, set())


def paths(names: set[str]) -> set[str]:
    return {
        artefact.path
        for name in names
        for artefact in (artefacts.BUNDLE.values() if name == "BUNDLE" else [NAMED[name]])
    }


def covers(dep: str, path: str) -> bool:
    return path == dep or path.startswith(f"{dep}/")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_uses_what_dvc_lays_before_it_and_nothing_else(stage: str) -> None:
    tree = STAGES[stage]
    known = [dep for dep in tree["deps"] if dep.startswith(("out/", "inputs/"))]
    uses = paths(used_by(stage))
    assert [path for path in uses if not any(covers(dep, path) for dep in (*known, *tree["outs"]))] == []
    needless = [dep for dep in known if not any(covers(dep, path) for path in uses)]
    assert needless == (["out/validate"] if stage == "split" else [])  # data that failed isn't split
    assert [path for path in uses if covers(tree["outs"][0], path)], "a stage names what it writes"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reruns_when_the_form_of_what_it_reads_changes(stage: str) -> None:
    forms = [NAMED[name] for name in used_by(stage) if name in NAMED]
    places = {form.form for form in forms if isinstance(form, Record) and isinstance(form.form, str)}
    places |= {form.schema for form in forms if isinstance(form, Table) and isinstance(form.schema, str)}
    files = [f"{place.partition(':')[0].replace('.', '/')}.py" for place in places]
    assert [file for file in files if not any(covers(dep, file) for dep in STAGES[stage]["deps"])] == []


def test_no_path_of_a_result_is_written_elsewhere() -> None:
    texts = {
        path: path.read_text("utf-8")
        for path in (ROOT / "skumatch").rglob("*.py")
        if path.name != "artefacts.py"
    }
    constants = [
        (path.name, node.value)
        for path, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [place for place in constants if re.match(r"(out|inputs)/\w", place[1])] == []


def test_the_table_of_the_architecture_names_each_file_with_its_stages() -> None:
    section = (ROOT / "docs/architecture.md").read_text("utf-8").split("## Artefacts\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    documented = {row[0].strip("`"): {name.strip() for name in row[2].split(",")} for row in rows}
    files = {artefact.path for artefact in (*NAMED.values(), *artefacts.BUNDLE.values())}
    readers = {
        file: {
            stage
            for stage, tree in STAGES.items()
            if file in paths(used_by(stage)) and not covers(tree["outs"][0], file)
        }
        for file in files
    }
    assert documented == {file: stages or {"none"} for file, stages in readers.items()}


def test_each_form_can_be_found() -> None:
    for artefact in NAMED.values():
        if isinstance(artefact, Table):
            assert artefact.columns
        if isinstance(artefact, Record):
            assert artefact._adapter.json_schema()


class Example(BaseModel):
    number: int


def test_a_file_of_another_form_is_named_with_its_place(tmp_path: Path) -> None:
    record = Record[Example]("out/x/{candidate}.json", Example)
    path = record.at(tmp_path, candidate="a")
    path.parent.mkdir(parents=True)
    for text in ("{", "[]", '{"number": "many"}'):
        path.write_text(text)
        with pytest.raises(DataError, match=re.escape(str(path))):
            record.read(tmp_path, candidate="a")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    record = Record[Example]("out/x/{candidate}.json", Example)
    record.write(tmp_path, Example(number=3), candidate="a")
    assert record.read(tmp_path, candidate="a") == Example(number=3)
    assert record.exists(tmp_path, candidate="a") and not record.exists(tmp_path, candidate="b")
    assert record.logged(candidate="a") == "x/a.json"
