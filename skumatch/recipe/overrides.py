"""Overrides of params.yaml for one run: `section.name=value`, whose value is read as YAML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from skumatch.errors import ParameterError
from skumatch.recipe.knobs import is_name, is_section, knob_of, nearest
from skumatch.recipe.strict_yaml import has_comment, read_yaml

OVERRIDE = r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*=.*\S.*$"  # dags/retrain.py has a copy; a test compares


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set the value of each override in the sections of params.yaml, present there or not.

    Args:
        tree: The sections of params.yaml; changed in place.
        overrides: Texts `section.name=value`; the last one for a name counts. A section as the name sets
            each parameter in its value.

    Returns:
        `tree`.

    Raises:
        ParameterError: An override has another form, or names no parameter.
    """
    for name, value in assignments(overrides):
        *sections, last = name.split(".")
        node: Any = tree
        for section in sections:
            if isinstance(node, dict) and node.get(section) is None:
                node[section] = {}
            node = node[section] if isinstance(node, dict) else None
        if isinstance(node, dict):  # else params.yaml is wrong there, and its check reports that
            node[last] = value
    return tree


def refuse_read_with_dags(overrides: Iterable[str]) -> None:
    """Refuse overrides of parameters that Airflow reads with its DAGs, since they would have no effect.

    Raises:
        ParameterError: An override names such a parameter.
    """
    for name, _ in assignments(overrides):
        knob = knob_of(name.split("."))
        if knob and knob.read_with_dags:
            raise ParameterError(
                f"'{name}' can't be changed for one run: Airflow reads it with its DAGs; "
                "set it in params.yaml."
            )


def assignments(overrides: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield each parameter's full name and value, in the order given."""
    for override in overrides:
        name, text = split(override)
        place = f"The value of '{override}'"
        value = read_yaml(text, place)
        if has_comment(text):
            raise ParameterError(
                f"{place} ends before its #, which begins a comment; write it in quotes: {name}='...'."
            )
        yield from _leaves(name, value)


def split(override: str) -> tuple[str, str]:
    """Return an override's name and the text of its value.

    Raises:
        ParameterError: The override has another form.
    """
    if not re.search(OVERRIDE, override):
        raise ParameterError(
            f"'{override}' is no override; write it as section.name=value, for example train.epochs=3, "
            "with a value and without blanks before the =."
        )
    name, _, text = override.partition("=")
    return name, text


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if is_section(name):
        if not isinstance(value, dict) or not value:
            raise ParameterError(
                f"'{name}' is a section; set its parameters one by one, as {name}.NAME=value."
            )
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif is_name(name):
        yield name, value
    else:
        raise ParameterError(
            f"There is no parameter '{name}';{nearest(name)} params.yaml lists every one with a comment."
        )
