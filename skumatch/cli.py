"""The `skumatch` command. Every error is one sentence on stderr and an exit code of its own kind."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.console import Console

import skumatch
from skumatch.commands import audit, bench, compare, data, doctor, evaluate, gc, match, release, runs, worker
from skumatch.errors import SkumatchError
from skumatch.files import disk_errors

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich", help=skumatch.__doc__
)
app.add_typer(data.app, name="data", help="Import, render or look at a data version.")
app.add_typer(audit.app, name="audit")
app.add_typer(bench.app, name="bench", help="Measure what things cost on this machine.")
app.add_typer(worker.app, name="worker", hidden=True)
for command in (
    *(runs.run, runs.retrain, runs.up, runs.down, runs.pull, runs.stage),
    audit.reproduce,
    *(release.models, release.promote, release.rollback),
    *(evaluate.evaluate, compare.compare, match.match),
    *(doctor.doctor, gc.gc),
):
    app.command()(command)


def main() -> NoReturn:
    """Run the command line; exit with the error's own code."""
    try:
        with disk_errors("this command"):
            app(standalone_mode=True)
    except SkumatchError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]✗[/] {_escaped(str(error))}", highlight=False)
        sys.exit(error.exit_code)
    sys.exit(0)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
