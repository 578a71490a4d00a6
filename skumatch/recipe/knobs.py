"""All parameters by their full names: bounds in words, and whether Airflow reads them with its DAGs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from skumatch.params import Params

BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
KINDS = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "a text"}
MANY = {"integer": "whole numbers", "number": "numbers", "string": "texts"}


@dataclass(frozen=True)
class Knob:
    """One parameter, as the JSON schema of `Params` describes it.

    Attributes:
        name: Full name, such as `train.loss.dims`.
        schema: The parameter's part of the JSON schema.
    """

    name: str
    schema: dict[str, Any]

    @property
    def read_with_dags(self) -> bool:
        """Whether Airflow needs the value before a run begins, so that no run can override it."""
        return bool(self.schema.get("read_with_dags"))

    @property
    def is_text(self) -> bool:
        """Whether the value, or each entry of a list, is a text."""
        return "string" in (self.schema.get("type"), self.schema.get("items", {}).get("type"))

    @property
    def entries(self) -> dict[str, Any] | None:
        """Schema of the entries of a mapping; None for other parameters."""
        schema: dict[str, Any] | None = self.schema.get("additionalProperties")
        return schema

    @property
    def example(self) -> str:
        """Example of a list or mapping in YAML; empty for other parameters.

        A list has no blanks, so that a shell reads it as one word.
        """
        if self.schema.get("type") not in ("array", "object"):
            return ""
        example = (self.schema.get("examples") or [self.schema["default"]])[0]
        return json.dumps(example, separators=(",", ": ")).replace('"', "")

    def words(self, name: str) -> str:
        """Describe a valid value in words, such as `a whole number, at least 1`.

        Args:
            name: Name of the parameter, or of an entry where the parameter is a mapping.
        """
        return _words(self.schema if name == self.name or self.entries is None else self.entries)


def _words(schema: dict[str, Any]) -> str:
    if "words" in schema:
        return str(schema["words"])
    if "enum" in schema:
        *most, last = schema["enum"]
        return f"{', '.join(most)} or {last}"
    if "anyOf" in schema:  # with null
        return f"{_words(schema['anyOf'][0])}, or null"
    if schema["type"] == "array":
        many = ("one or more " if "minItems" in schema else "") + MANY[schema["items"]["type"]]
        return f"a list of {many}{_limits(schema['items'], ' each')}"
    return KINDS[schema["type"]] + _limits(schema)


def _limits(schema: dict[str, Any], each: str = "") -> str:
    limits = [f"{words} {schema[key]}" for key, words in BOUNDS.items() if key in schema]
    if "minLength" in schema:
        limits.append("not empty")
    if "pattern" in schema:
        allowed = schema["pattern"].removeprefix("^[A-Za-z0-9").removesuffix("]+$")
        limits.append(f"of the letters A to Z, digits and {' '.join(allowed)}")
    return f",{each} {' and '.join(limits)}" if limits else ""


@cache
def knobs() -> dict[str, Knob]:
    """Return every parameter by its full name, such as `train.loss.dims`, in the order of params.yaml."""
    schema = Params.model_json_schema()
    return {name: Knob(name, leaf) for name, leaf in _leaves(schema["properties"], schema["$defs"], "")}


def _leaves(
    properties: dict[str, Any], sections: dict[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, schema in properties.items():
        if "$ref" in schema:
            section = sections[schema["$ref"].rpartition("/")[2]]
            yield from _leaves(section["properties"], sections, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", schema


def knob_of(path: Sequence[str | int]) -> Knob | None:
    """Return the parameter that a path in params.yaml belongs to, or None.

    Args:
        path: Keys and indices from the top; it may lead to an entry of a parameter's list or mapping.
    """
    names = (".".join(map(str, path[:length])) for length in range(1, len(path) + 1))
    return next((knobs()[name] for name in names if name in knobs()), None)


def is_name(name: str) -> bool:
    """Return whether `name` is that of a parameter, or of an entry of a mapping."""
    owner = knobs().get(name.rpartition(".")[0])
    return name in knobs() or (owner is not None and owner.entries is not None)


def is_section(name: str) -> bool:
    """Return whether `name` is that of a section."""
    return any(known.startswith(f"{name}.") for known in knobs())


def nearest(name: str) -> str:
    """Return ` did you mean NAME?` for a similar parameter name; empty if there is none."""
    similar = difflib.get_close_matches(name, knobs(), n=1, cutoff=0.8)
    return f" did you mean {similar[0]}?" if similar else ""
