"""Options that several commands share: one name, one form and one check for each idea."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from skumatch.config import expanded
from skumatch.errors import ParameterError
from skumatch.files import check_writable

ALIASES = ("champion", "challenger", "refreshed", "previous")
TABLES = (".parquet", ".csv")


def output_file(text: str) -> Path:
    """Return the path of a file to write, tried before the command does any work.

    Raises:
        StorageError: No file can be written there.
    """
    path = expanded(text)
    check_writable(path)
    return path


def output_folder(text: str) -> Path:
    """Return the path of a folder to write into, as `output_file` does for a file."""
    folder = expanded(text)
    check_writable(folder / "file")
    return folder


def output_table(text: str) -> Path:
    """Return the path of a table to write, as `output_file` does; its ending says in which form.

    Raises:
        ParameterError: The path has another ending than a table.
    """
    if Path(text).suffix.lower() not in TABLES:
        raise ParameterError(f"No table can be written to '{text}'; end its name in {' or '.join(TABLES)}.")
    return output_file(text)


def written(name: str, words: str, parser: Callable[[str], Path] = output_file, **more: Any) -> Any:
    """Return an option that names a file to write.

    Args:
        name: The option, such as `--json`.
        words: Its help.
        parser: Checks the path: `output_file`, `output_folder` or `output_table`.
        more: Further attributes of typer's option.
    """
    metavar = "FOLDER" if parser is output_folder else "FILE"
    return typer.Option(name, parser=parser, metavar=metavar, help=words, **more)


def completed(*words: str) -> Callable[[str], list[str]]:
    """Return a function that completes an incomplete word from some words, for tab completion."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def flag(name: str, words: str) -> Any:
    """Return an option without a value."""
    return typer.Option(name, help=words)


def version_argument(words: str = "A version's number or an alias.") -> Any:
    """Return the argument that names a registered version."""
    return typer.Argument(metavar="VERSION", autocompletion=completed(*ALIASES), help=words)


def renamed(old: Any, new: Any, before: str, now: str) -> Any:
    """Return the value of an option that was given by its name of today or by its earlier name.

    Args:
        old: Value by the earlier name, a hidden option; None if it wasn't given.
        new: Value by the name of today.
        before: The earlier name.
        now: The name of today.

    Raises:
        ParameterError: It was given by both names.
    """
    if old is not None and new is not None:
        raise ParameterError(f"{before} is the earlier name of {now}; give one of them.")
    return new if old is None else old


ModelReference = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        autocompletion=completed(*ALIASES),
        help="champion, challenger, refreshed, a version's number or a bundle's folder.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Override a parameter for this run: section.name=value; repeatable.",
    ),
]
