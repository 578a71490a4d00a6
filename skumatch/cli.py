"""The `skumatch` command: each error is one sentence on stderr, with the exit code of its kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from skumatch import terminal
from skumatch.errors import SkumatchError
from skumatch.files import disk_errors, text_errors
from skumatch.version import VERSION

PLACES = {  # command -> module and function or app in `skumatch.commands`
    "init": "init.init",
    "run": "runs.run",
    "retrain": "runs.retrain",
    "refresh": "runs.refresh",
    "up": "runs.up",
    "down": "runs.down",
    "pull": "runs.pull",
    "stage": "runs.stage",
    "reproduce": "audit.reproduce",
    "models": "release.models",
    "promote": "release.promote",
    "rollback": "release.rollback",
    "evaluate": "evaluate.evaluate",
    "compare": "compare.compare",
    "match": "match.match",
    "doctor": "doctor.doctor",
    "gc": "cleanup.gc",
    "data": "data.app",
    "audit": "audit.app",
    "bench": "bench.app",
    "worker": "worker.app",
}

HIDDEN = {"worker"}  # which only Airflow's tasks start


class Commands(Mapping[str, Any]):
    """Commands by name, each imported when it is looked up.

    Imports take time: each stage starts two skumatch processes, which need only one command.
    """

    def __getitem__(self, word: str) -> Any:
        return _command(word)

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


@cache
def _command(word: str) -> Any:
    module, _, name = PLACES[word].partition(".")
    target = getattr(import_module(f"skumatch.commands.{module}"), name)
    if not isinstance(target, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode="rich")
        single.command(word)(target)
        target = single
    command = get_command(target)
    command.name = word
    expand_paths(command)
    plain_flags(command)
    return command


def expand_paths(command: Any) -> None:
    """Expand `~` in every path of a command and its subcommands, since shells leave `--out=~/x` unchanged."""
    for subcommand in getattr(command, "commands", {}).values():
        expand_paths(subcommand)
    if call := command.callback:

        @wraps(call)
        def call_expanded(**options: Any) -> Any:
            return call(**{name: _expanded(value) for name, value in options.items()})

        command.callback = call_expanded


def plain_flags(command: Any) -> None:
    """Show options without a value without a type in the help of a command and its subcommands."""
    for subcommand in getattr(command, "commands", {}).values():
        plain_flags(subcommand)
    _plain(command.get_params(typer.Context(command)))


def _plain(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def _expanded(value: Any) -> Any:
    from skumatch.config import expanded  # imports pydantic, which takes a moment

    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return expanded(value) if isinstance(value, Path) else value


class OnDemand(TyperGroup):
    """Typer group whose commands are imported on demand."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands()  # type: ignore[assignment]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, with those of tab completion, which typer adds late."""
        return _plain(super().get_params(ctx))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete names of commands without importing any."""
        self.commands = {name: TyperCommand(name, hidden=name in HIDDEN) for name in PLACES}
        return super().shell_complete(ctx, incomplete)


app = typer.Typer(
    cls=OnDemand,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Retrain, judge, register and audit the model that says which product a shelf photo shows.",
    epilog="Every error has an exit code of its own kind: docs/reference/exit-codes.md.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"skumatch {VERSION}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None: ...


def main() -> NoReturn:
    """Run the command line of skumatch."""
    run(partial(app, prog_name="skumatch"))  # also for `python -m skumatch`, so that it completes words


def run(command: Callable[..., Any]) -> NoReturn:
    """Run a command line and exit; an error is printed as one sentence and sets the exit code."""
    terminal.prepare()
    try:
        with disk_errors("this command"), text_errors("this command"), terminal.whole_output():
            command(standalone_mode=True)
    except SkumatchError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]✗[/] {_escaped(str(error))}", highlight=False)
        sys.exit(error.exit_code)
    sys.exit(0)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
