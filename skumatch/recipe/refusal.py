"""The sentence for a wrong parameter value: its place, its text, and a valid value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from skumatch.recipe.knobs import Knob, is_name, knob_of, nearest
from skumatch.recipe.overrides import split
from skumatch.recipe.strict_yaml import MAX_SHOWN, Ambiguous, read_yaml, written


@dataclass(frozen=True)
class Refusal:
    """pydantic's refusal of params.yaml with a run's overrides.

    Attributes:
        error: pydantic's error.
        text: Text of the file.
        file: Name of the file.
        overrides: The run's overrides, in their order.
    """

    error: ValidationError
    text: str
    file: str
    overrides: tuple[str, ...]

    def sentence(self) -> str:
        """Return one sentence on the first refused value."""
        first = self.error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        knob = knob_of(first["loc"])
        if first["type"] == "extra_forbidden":
            hint = f"{nearest(name)} remove it or correct its name"
            return f"There is no parameter '{name}' ({self._place(name)});{hint}."
        # An error about several values has no single value to show.
        if first["type"] == "value_error" and not (knob and knob.is_text):
            return f"{f'Parameters {name}: ' if name else ''}{first['ctx']['error']} ({self._place(name)})."
        if knob is None:
            value = f"{self._shown(name)} ({self._place(name)})"
            return f"'{name}' is a section, but is {value}; write its parameters below it."
        name = name if is_name(name) else knob.name
        beginning = f"Parameter {name} is {self._shown(name)} ({self._place(name)})"
        if first["type"] == "value_error":
            return f"{beginning}: {first['ctx']['error']}."
        return f"{beginning}{self._why(name)}; write {knob.words(name)}{self._how(name, knob)}."

    def _why(self, name: str) -> str:
        value = self._value(name)
        ambiguous = any(
            isinstance(part, Ambiguous) for part in (value if isinstance(value, list) else [value])
        )
        return ", which some readers of YAML turn into something else" if ambiguous else ""

    def _how(self, name: str, knob: Knob) -> str:
        value = self._value(name)
        if name == knob.name and knob.example:
            quotes = self._quotes(name, value) if knob.is_text else ""
            return f", such as {f'{name}=' if self._override(name) else ''}{knob.example}{quotes}"
        if value is None:
            return ", or leave it out"
        return self._quotes(name, value) if knob.is_text else ""

    def _quotes(self, name: str, value: Any) -> str:
        """Return the advice to quote a word that YAML reads as a number or another type; else empty."""
        parts = value if isinstance(value, list) else [value]
        odd = [part for part in parts if isinstance(part, Ambiguous | int | float)]
        if not odd:
            return ""
        word = odd[0].text if isinstance(odd[0], Ambiguous) else json.dumps(odd[0])
        return f"; quotes make it a text: '{word if isinstance(value, list) else self._shown(name)}'"

    def _override(self, name: str) -> str | None:
        """Return the last override that sets the parameter `name` or its section, or None."""
        setters = [override for override in self.overrides if f"{name}.".startswith(f"{split(override)[0]}.")]
        return setters[-1] if setters else None

    def _place(self, name: str) -> str:
        below = any(f"{override}.".startswith(f"{name}." if name else "") for override in self.overrides)
        return "set for this run" if below or self._override(name) else f"in {self.file}"

    def _source(self, name: str) -> tuple[str, list[str]]:
        """Return the YAML text that holds the value of `name`, and the value's path in it."""
        override = self._override(name)
        if override is None:
            return self.text, name.split(".")
        owner, text = split(override)
        return text, name.split(".")[owner.count(".") + 1 :]

    def _value(self, name: str) -> Any:
        text, path = self._source(name)
        value = read_yaml(text, self.file)
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def _shown(self, name: str) -> str:
        value = self._value(name)
        return f"'{value[:MAX_SHOWN]}'" if isinstance(value, str) else written(*self._source(name)) or "empty"
