"""YAML is read as it is written, as DVC reads it, or refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from dvc.exceptions import DvcException
from dvc.utils.serialize import parse_yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skumatch.errors import ParameterError
from skumatch.recipe.strict_yaml import Ambiguous, dump_yaml, has_comment, read_yaml, written
from tests.proving import count

PARTS = [
    *"0123456789_.:+-=~eExXoObnNyYT <",
    "yes",
    "Off",
    "true",
    "null",
    ".inf",
    ".NaN",
    "2026-01-01",
    "12:30",
]
WORDS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join)
TEXTS = st.one_of(
    WORDS, st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff"), max_size=12)
)
NUMBERS = st.one_of(st.integers(-(10**18), 10**18), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.one_of(
    st.none(), st.booleans(), NUMBERS, TEXTS, st.lists(TEXTS, max_size=3), st.lists(NUMBERS, max_size=3)
)
TREES = st.dictionaries(
    st.sampled_from(["seed", "train", "data"]), st.dictionaries(st.sampled_from("abc"), VALUES)
)


def same(first: Any, second: Any) -> bool:
    """Equal in value and kind."""
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
        return math.isnan(second)
    return type(first) is type(second) and first == second


@given(WORDS)
@settings(max_examples=count(100, 1000))
@example("010")
@example("0o10")
@example("089")
@example("1:30")
@example("1_000")
@example("0x1F")
@example("yes")
@example("1e-3")
@example("-.5")
@example(".5e3")
@example("2026-01-01")
@example("=")
@example("+_")
@example("._")
@example("<<")
def test_read_yaml_agrees_with_dvc_or_marks_the_word(word: str) -> None:
    """Each word is read as DVC reads it; PyYAML agrees, too, or reads a number as text."""
    try:
        value = read_yaml(f"a: {word}\n", "params.yaml")
    except ParameterError:
        return
    if not isinstance(value, dict) or isinstance(value["a"], Ambiguous | dict | list):
        return
    assert same(value["a"], parse_yaml(f"a: {word}\n", "params.yaml")["a"])
    by_pyyaml = yaml.safe_load(f"a: {word}\n")["a"]
    assert same(value["a"], by_pyyaml) or (isinstance(value["a"], float) and isinstance(by_pyyaml, str))


@pytest.mark.parametrize(
    "word",
    [
        *(
            "010",
            "-010",
            "007",
            "089",
            "0o10",
            "0x1F",
            "0b11",
            "1_000",
            "1:30",
            "1:30:00",
            "12:30.5",
            "1_0.5",
            "01.5",
        ),
        *(
            "yes",
            "Yes",
            "NO",
            "on",
            "ON",
            "off",
            "2026-01-01",
            "2026-01-01 10:00:00",
            ".5e3",
            "=",
            "<<",
            "9" * 5000,
        ),
    ],
)
def test_a_word_that_readers_change_is_marked(word: str) -> None:
    assert read_yaml(word, "it") == Ambiguous(word)
    assert read_yaml(f"'{word}'", "it") == read_yaml(f'"{word}"', "it") == word


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *(
            ("10", 10),
            ("-0", 0),
            ("+7", 7),
            ("1e-3", 0.001),
            ("1E3", 1000.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("-.5", -0.5),
        ),
        *(
            ("1.0e5", 1e5),
            ("true", True),
            ("FALSE", False),
            ("True ", True),
            ("~", None),
            ("null", None),
            ("", None),
        ),
        *((word, word) for word in ("y", "0815a", "1.2.3", "a:b", "I;16", "søren", "+", "nan")),
        ("-.inf", -math.inf),
    ],
)
def test_a_word_that_readers_agree_on_is_read(word: str, value: Any) -> None:
    assert same(read_yaml(word, "it"), value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "it, line 3: a stands twice in one section; keep one."),
        ("b: {a: 1, 'a': 2}", "it, line 1: a stands twice"),
        ("a: !!int '3'", "it, line 1: the tag tag:yaml.org,2002:int is not read"),
        ("a: ! 3", "it, line 1: the tag ! is not read"),
        ("a: !!python/name:os.system", "the tag tag:yaml.org,2002:python/name:os.system is not read"),
        ("a: &x 3\nb: *x", "it, line 2: \\*x stands for another value; write that value"),
        ("a: &x [*x]", "stands for another value"),
        ("a: {<<: {b: 1}}", "it, line 1: << is no parameter's name"),
        ("1: 2", "it, line 1: 1 is no parameter's name"),
        ("on: 2", "on is no parameter's name"),
        ("null: 2", "null is no parameter's name"),
        ("? \n: 2", "nothing is no parameter's name"),
        ("? [a]\n: 2", "a list or section is no parameter's name"),
        ('a: "\\0"', "it, line 1: a value holds the character U\\+0000"),
        ("a: |\n  b\n  c", "a value holds a line break"),
        ("a: \x07", "it is not valid YAML: "),
        ("a: [1", "it is not valid YAML, line 1: expected ',' or ']'"),
        ("\ta: 1", "it is not valid YAML, line 1: found character '.t'"),
        ("a: 1\n---\na: 2", "it is not valid YAML, line 2: but found another document"),
        ("a: 1\n\ufeffb: 2", "it holds a byte order mark inside its text"),
        ("[" * 5000, "it is nested too deeply"),
    ],
)
def test_yaml_that_would_drop_or_change_something_is_refused(text: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        read_yaml(text, "it")


def test_a_byte_order_mark_before_the_text_is_no_part_of_it() -> None:
    assert read_yaml("\ufeffa: 1", "it") == parse_yaml("\ufeffa: 1", "it") == {"a": 1}


@given(TREES)
@settings(max_examples=count(100, 500))
@example(
    {
        "data": {
            "a": [
                "0o10",
                "1e3",
                "089",
                "yes",
                "1_000",
                "2026-01-01",
                "",
                "#",
                "a: b",
                "*x",
                "\u2028",
                "\x7f"[:0],
            ]
        }
    }
)
def test_dump_yaml_is_read_alike_by_all(tree: dict[str, Any]) -> None:
    text = dump_yaml(tree)
    assert read_yaml(text, "it") == tree
    assert yaml.safe_load(text) == tree
    assert parse_yaml(text, "it") == tree


def test_dump_yaml_quotes_no_more_than_it_has_to() -> None:
    assert dump_yaml({"a": "ViT-B-16", "b": 1e-05, "c": None, "d": ["1e3", "søren"]}) == (
        "a: ViT-B-16\nb: 1.0e-05\nc: null\nd:\n- '1e3'\n- søren\n"
    )


def test_written_shows_a_value_as_it_stands() -> None:
    text = "train:\n  loss:\n    dims: [64,\n      010]  # two\n  epochs:\n  name: 'x'\n"
    assert written(text, ["train", "loss", "dims"]) == "[64, 010]"
    assert written(text, ["train", "name"]) == "'x'"
    assert written(text, ["train", "epochs"]) == written(text, ["train", "other"]) == written("", ["a"]) == ""
    assert len(written("[" + "1, " * 100 + "1]", [])) <= 64


@pytest.mark.parametrize(
    ("text", "cut"), [("a # b", True), ("[1] # b", True), ("a#b", False), ("'a # b'", False), ("3 ", False)]
)
def test_has_comment_tells_where_a_text_would_be_cut(text: str, cut: bool) -> None:
    assert has_comment(text) is cut


def test_dvc_refuses_what_it_cannot_read() -> None:
    """The comparison above rests on DVC's own reader."""
    with pytest.raises(DvcException):
        parse_yaml("a: [", "it")
