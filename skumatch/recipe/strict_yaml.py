"""A strict YAML reader: words that readers of YAML interpret differently are marked, not guessed.

DVC reads params.yaml by YAML 1.2 and PyYAML by YAML 1.1. They differ: 010 is ten or eight, `on` is a text or
true. Here a number is decimal, a truth value is true or false, and a text that looks like anything else needs
quotes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from skumatch.errors import ParameterError

MAX_SHOWN = 60
CONTROL = ("Cc", "Cs")  # categories of Unicode: control characters, and halves of a character
TAG = "tag:yaml.org,2002:"
WORDS = {  # without quotes; the first kind that fits counts
    "bool": r"true|True|TRUE|false|False|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?(0|[1-9][0-9]{0,29})",
    "float": r"[-+]?(0|[1-9][0-9]*)(\.[0-9]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
    r"|[-+]?\.[0-9]+([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    # Leading zeros, underscores, other bases, sixties; truth values of YAML 1.1; dates; signs with a meaning.
    "ambiguous": r"[-+]?0b[01_]+|[-+]?0o?[0-7_]+|[-+]?0x[0-9a-fA-F_]+"
    r"|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[-+][0-9_]+|[0-9][0-9_]*|[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9_]+([eE][-+]?[0-9]+)?"
    r"|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?|=|<<",
}


@dataclass(frozen=True)
class Ambiguous:
    """An unquoted word that readers of YAML interpret differently; no parameter accepts it.

    Attributes:
        text: The word.
    """

    text: str


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that would silently change or drop a value."""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with WORDS, and without tags, aliases, repeated names and control characters."""

    yaml_implicit_resolvers: dict[Any, Any] = {  # noqa: RUF012 (as PyYAML declares it)
        None: [(TAG + kind, re.compile(rf"(?:{words})\Z")) for kind, words in WORDS.items()]
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            problem = f"*{event.anchor} stands for another value; write that value, or quotes around a text"
            raise _Refused(problem=problem, problem_mark=mark)
        if getattr(event, "tag", None):
            raise _Refused(problem=f"the tag {event.tag} is not read; leave it out", problem_mark=mark)
        if strange := [c for c in getattr(event, "value", "") if unicodedata.category(c) in CONTROL]:
            character = "a line break" if strange[0] == "\n" else f"the character U+{ord(strange[0]):04X}"
            problem = f"a value holds {character}; leave it out"
            raise _Refused(problem=problem, problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if key.tag != TAG + "str":
                name = key.value if isinstance(key, yaml.ScalarNode) else "a list or section"
                problem = f"{shortened(name) or 'nothing'} is no parameter's name; correct it"
                raise _Refused(problem=problem, problem_mark=key.start_mark)
            if key.value in names:
                raise _Refused(
                    problem=f"{key.value} stands twice in one section; keep one", problem_mark=key.start_mark
                )
            names.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_constructor(TAG + "ambiguous", lambda _, node: Ambiguous(node.value))


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper that quotes every text which _Loader, PyYAML or DVC would read as something else."""


for kind, words in WORDS.items():
    _Dumper.add_implicit_resolver(TAG + kind, re.compile(rf"(?:{words})\Z"), None)


def read_yaml(text: str, place: str) -> Any:
    """Return the value of one YAML document; words that readers of YAML disagree on become `Ambiguous`.

    Args:
        text: The document.
        place: Name of the file or text, for the sentence of a refusal.

    Raises:
        ParameterError: The text is not valid YAML, repeats a name, or has tags, aliases or control
            characters.
    """
    if "\ufeff" in text.removeprefix("\ufeff"):
        raise ParameterError(f"{place} holds a byte order mark inside its text; leave it out.")
    try:
        return _Loader(text).get_single_data()
    except _Refused as error:
        raise ParameterError(f"{place}{_line(error)}: {error.problem}.") from error
    except yaml.YAMLError as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error).splitlines()[0]
        raise ParameterError(
            f"{place} is not valid YAML{_line(error)}: {problem}; correct it, or write a text in quotes."
        ) from error
    except RecursionError as error:
        raise ParameterError(
            f"{place} is nested too deeply to be read; write sections and values only."
        ) from error


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def written(text: str, path: Sequence[str]) -> str:
    """Return the text of the part of a document at `path`, on one line, shortened; empty if absent."""
    node = yaml.compose(text, _Loader)
    for name in path:
        parts = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for key, value in parts if key.value == name), None)
    return shortened(text[node.start_mark.index : node.end_mark.index]) if node else ""


def shortened(text: str) -> str:
    """Return `text` on one line of at most MAX_SHOWN characters."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."


def has_comment(text: str) -> bool:
    """Return whether a document ends in a comment."""
    node = yaml.compose(text, _Loader)
    return bool(node and text[node.end_mark.index :].strip())


def dump_yaml(tree: Any) -> str:
    """Return `tree` as YAML that this reader, PyYAML and DVC read alike."""
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
