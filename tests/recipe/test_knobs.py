"""Each parameter can be omitted and set, and documents how its value is written."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from skumatch.config import load_params
from skumatch.errors import ParameterError
from skumatch.params import Params
from skumatch.recipe.knobs import knobs, nearest
from skumatch.recipe.overrides import apply_overrides
from skumatch.recipe.strict_yaml import dump_yaml
from tests.conftest import ROOT

TREE: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
JARGON = re.compile(
    r"tuple|input|valid (dict|int|num|bool|string)|instance of|validation|finite|"
    r"\bstr\b|\bfloat\b|NoneType|Ambiguous",
    re.I,
)
READ_WITH_DAGS = {
    "release.approval_hours",
    "schedule.retrain",
    "schedule.refresh",
    "schedule.on_new_data",
    "schedule.debounce_minutes",
    "runtime.execution",
    "runtime.parallel_runs",
    "runtime.queues",
    "runtime.timeout_hours",
}
OF_STAGES = ("runtime.queues", "runtime.timeout_hours")


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of params.yaml by its full name; a stage's queue is a value of its own."""
    below = [
        leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        for name, value in tree.items()
    ]
    return {name: value for part in below for name, value in part.items()}


def without(name: str) -> dict[str, Any]:
    """The tree of params.yaml without one value."""
    tree = copy.deepcopy(TREE)
    *sections, last = name.split(".")
    node = tree
    for section in sections:
        node = node[section]
    del node[last]
    return tree


def test_knobs_are_those_of_params_yaml() -> None:
    entries = {name for name in leaves(TREE) if name.rpartition(".")[0] in OF_STAGES}
    assert set(knobs()) == set(leaves(TREE)) - entries | set(OF_STAGES)


def test_each_knob_can_be_left_out() -> None:
    for name in leaves(TREE):
        assert Params.model_validate(without(name)) == Params(), name


def test_each_section_can_be_left_out_or_empty() -> None:
    for name in [name for name in TREE if isinstance(TREE[name], dict)]:
        assert Params.model_validate(without(name)) == Params.model_validate(TREE | {name: None}) == Params()


def test_each_knob_can_be_set_where_it_is_left_out() -> None:
    """With its value in command-line form, in a file without it and in an empty file."""
    for name, value in leaves(TREE).items():
        override = (
            f"{name}={dump_yaml([value])[2:].strip() if not isinstance(value, list) else dump_flow(value)}"
        )
        for tree in (without(name), {}):
            assert Params.model_validate(apply_overrides(tree, [override])) == Params(), override


def dump_flow(value: list[Any]) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()


def test_knobs_read_with_the_dags_are_marked_and_told_of() -> None:
    assert {name for name, knob in knobs().items() if knob.read_with_dags} == READ_WITH_DAGS
    lines = (ROOT / "params.yaml").read_text("utf-8").splitlines()
    marked = {
        line.split(":")[0].strip()
        for line in lines
        if not line.startswith("#") and "read with the DAGs" in line
    }
    assert marked == {name.rpartition(".")[2] for name in READ_WITH_DAGS}
    assert len({name.rpartition(".")[2] for name in READ_WITH_DAGS}) == len(READ_WITH_DAGS)
    operations = (ROOT / "docs/operations.md").read_text("utf-8")
    assert all(f"`{name}`" in operations for name in READ_WITH_DAGS)


WRONG = {
    "boolean": ["yes", "1", "'true'", "[true]"],
    "integer": ["010", "7.5", "true", "'7'", "[7]", "-1", "many"],
}
WRONG |= {
    "number": ["1:30", "true", "'0.5'", ".nan", ".inf", "{a: 1}", "-1"],
    "array": ["64", "64,128", "'[64]'", "[[1]]", "[yes]"],
}
WRONG |= {"string": ["on", "7", "[a]", "null", "2026-01-01"], "object": ["gpu", "[gpu]", "{polish: gpu}"]}
EXPECTED = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list of ",
}
EXPECTED |= {"string": "a text", "object": "stage"}


@pytest.mark.parametrize("kind", WRONG)
def test_a_value_of_another_kind_is_refused_in_plain_words(tmp_path: Path, kind: str) -> None:
    """For every knob of the kind, the sentence has its name, the value as written, and the expected value."""
    file = tmp_path / "params.yaml"
    chosen = {name: knob for name, knob in knobs().items() if (knob.schema.get("type") or "integer") == kind}
    for name, knob in chosen.items():
        expected = " or ".join(knob.schema["enum"][-2:]) if "enum" in knob.schema else EXPECTED[kind]
        for value in WRONG[kind]:
            file.write_text(
                "".join(f"{'  ' * depth}{part}:" + "\n" for depth, part in enumerate(name.split(".")))[:-1]
                + f" {value}"
            )
            with pytest.raises(ParameterError) as refused:
                load_params(file)
            sentence = str(refused.value)
            assert name in sentence and expected in sentence and "in params.yaml" in sentence, sentence
            assert value.strip("'") in sentence or "polish" in value, sentence
            assert not JARGON.search(sentence.replace("model_name", "")), sentence
            assert sentence.endswith(".") and len(sentence) < 320


def test_the_example_of_each_list_is_one() -> None:
    for name, knob in knobs().items():
        if knob.schema.get("type") == "array":
            with pytest.raises(ParameterError) as refused:
                load_params(ROOT / "params.yaml", [f"{name}=no list"])
            (example,) = re.findall(rf"such as ({re.escape(name)}=\S+)\.", str(refused.value))
            assert load_params(ROOT / "params.yaml", [example])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train.epochs", "a whole number, at least 0 and at most 1000"),
        ("train.loss.scale", "a number, above 0"),
        ("validate.formats", "a list of one or more texts, each of the letters A to Z, digits and ;"),
        ("train.average.wise", "a list of numbers, each above 0 and at most 1"),
        ("runtime.workers", "a whole number, at least 0, or null"),
        ("encoder.model", "a text, not empty"),
        ("runtime.execution", "subprocess or docker"),
        ("runtime.queues", "a section of stages and their queues"),
        (
            "runtime.timeout_hours",
            "a section of stages and their hours, whole numbers, at least 1 and at most 168",
        ),
        ("schedule.retrain", "a text of cron's form in UTC, such as '0 3 * * 1' or '@daily', or none"),
    ],
)
def test_words_say_what_a_value_should_be(name: str, words: str) -> None:
    assert knobs()[name].words(name) == words


def test_a_queue_has_its_own_words() -> None:
    assert (
        knobs()["runtime.queues"].words("runtime.queues.train")
        == "a text, of the letters A to Z, digits and _ . -"
    )


def test_a_limit_has_its_own_words() -> None:
    assert (
        knobs()["runtime.timeout_hours"].words("runtime.timeout_hours.train")
        == "a whole number, at least 1 and at most 168"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "schedule: {retrain: daily}",
            "schedule.retrain is 'daily' (in params.yaml): "
            "it is no text that cron reads; write a text of cron",
        ),
        (
            "schedule: {refresh: 0 0 31 2 *}",
            "is '0 0 31 2 *' (in params.yaml): no such day comes again and again; write a text of",
        ),
        (
            "schedule: {refresh: '@once'}",
            "schedule.refresh is '@once' (in params.yaml): it is no text that cron reads",
        ),
        ("schedule: {refresh: */5 * * * *}", "write a text in quotes"),
        (
            "runtime: {timeout_hours: {train: 169}}",
            "runtime.timeout_hours.train is 169 (in params.yaml); write a whole number, at least 1",
        ),
        (
            "runtime: {timeout_hours: {polish: 1}}",
            "there is no stage 'polish'; the stages are pull, validate",
        ),
    ],
)
def test_a_wrong_schedule_or_limit_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParameterError) as refused:
        load_params(tmp_path / "params.yaml")
    assert words in str(refused.value), refused.value


def test_nearest_names_a_similar_parameter_or_nothing() -> None:
    assert nearest("train.epoch") == " did you mean train.epochs?"
    assert nearest("colour") == ""
