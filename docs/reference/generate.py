"""Write cli.md and parameters.md beside this file, from the command line and from the parameters' models.

Run it with `make docs-reference`; a test compares the files with what it writes.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from skumatch import cli
from skumatch.files import write_text
from skumatch.params import Params
from skumatch.recipe.knobs import knobs

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/reference/generate.py: change the code, then run `make docs-reference`. -->"


def pages() -> dict[str, str]:
    """Return the text of each generated page, by its file's name."""
    return {"cli.md": _page(_cli()), "parameters.md": _page(_parameters())}


def _page(lines: Iterator[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def _cli() -> Iterator[str]:
    yield from ("# Command line", "", NOTE, "")
    yield "`--help` of a command shows the same in a terminal. A path may begin with `~`. `--json FILE`"
    yield "writes what is shown to a file as well; `match --json` and `models --json` print it instead."
    yield "[Exit codes](exit-codes.md), [environment variables](variables.md), [parameters](parameters.md)."
    root = typer.main.get_command(cli.app)
    yield from ("", *_options(root, typer.Context(root, info_name="skumatch")))
    for name, command in _commands(root, "skumatch"):
        yield from ("", f"## {name}", "", *_described(name, command))


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield each command that isn't hidden, after its group's own name and options."""
    for word in group.commands:
        command = group.commands[word]
        if command.hidden:
            continue
        name = f"{prefix} {word}"
        if hasattr(command, "documented"):
            yield name, command.documented(typer.Context(command, info_name=name))
        elif not hasattr(command, "commands"):
            yield name, command
        if hasattr(command, "commands"):
            yield from _commands(command, name)


def _described(name: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    yield from inspect.cleandoc(command.help or "").replace("\nMany: ", "  \nMany: ").splitlines()
    usage = " ".join(filter(None, command.collect_usage_pieces(context)))
    yield from ("", "```text", f"{name} {usage}", "```", "", *_options(command, context))


def _options(command: Any, context: Any) -> Iterator[str]:
    yield "| name | value | meaning |"
    yield "|---|---|---|"
    for param in command.get_params(context):
        if getattr(param, "hidden", False) or "--help" in param.opts:
            continue
        is_option = param.opts[0].startswith("-")
        names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
        value = f"`{param.metavar}`" if param.metavar else ""
        default = _default(param)
        words = [param.help or "", f"Default: {default}." if default else ""]
        words += ["Required."] if param.required else []
        cells = [names if is_option else value, value if is_option else "", " ".join(filter(None, words))]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('<', '&lt;') for cell in cells)} |"


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return param.show_default
    if getattr(param, "is_flag", False):
        return f"`--{param.opts[0].lstrip('-')}`" if param.default is True else ""
    return "" if param.default in (None, "", False) else f"`{param.default}`"


def _parameters() -> Iterator[str]:
    yield from ("# Parameters", "", NOTE, "")
    yield "Every parameter of [params.yaml](../../params.yaml), with its bounds. `--set NAME=VALUE` changes"
    yield "one for a run, except those marked *with the DAGs*, which Airflow reads before any run."
    for section, model in _sections(Params, ""):
        if section:
            yield from ("", f"## {section}", "", *_summary(model))
        yield from ("", "| name | default | value | meaning |", "|---|---|---|---|")
        meanings = _meanings(model)
        for field, info in model.model_fields.items():
            name = f"{section}.{info.alias or field}".lstrip(".")
            if name in knobs():
                yield _parameter(name, meanings[field])


def _parameter(name: str, meaning: str) -> str:
    knob = knobs()[name]
    default = _written(knob.schema.get("default"))
    mark = " *With the DAGs.*" if knob.read_with_dags else ""
    example = f" Such as `{knob.example}`." if knob.example else ""
    return f"| `{name}` | `{default}` | {_value(name)} | {meaning}{mark}{example} |"


def _value(name: str) -> str:
    knob = knobs()[name]
    if knob.entries is not None and "words" not in knob.schema:
        return f"a section; each value {knob.words(f'{name}.x')}"
    return knob.words(name)


def _written(value: Any) -> str:
    """Return a default as YAML in one line writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield prefix, model
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _sections(field.annotation, f"{prefix}.{field.alias or name}".lstrip("."))


def _summary(model: type[BaseModel]) -> list[str]:
    return inspect.cleandoc(model.__doc__ or "").partition("\nAttributes:")[0].strip().splitlines()


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return what each field means, by the section `Attributes:` of the model's docstring."""
    listed = inspect.cleandoc(model.__doc__ or "").partition("\nAttributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(words.split()).replace("|", "\\|") for name, words in entries}


if __name__ == "__main__":
    for name, text in pages().items():
        write_text(HERE / name, text)
