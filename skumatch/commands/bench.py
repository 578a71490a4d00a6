"""`skumatch bench workers`: the throughput of an installation's workers, in retrains an hour."""

from __future__ import annotations

import io
import time
from pathlib import Path
from secrets import randbelow
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from rich.console import Console

from skumatch.commands.options import Overrides, written
from skumatch.config import PARAMS, Settings, load_params
from skumatch.config import settings as current_settings
from skumatch.errors import ParameterError
from skumatch.files import write_text
from skumatch.servers.follow import follow, trigger
from skumatch.texts import counted, read_text

EARLIER = "a file that `skumatch bench workers --json` wrote"
BOUND = 1.3  # two workers against one, each with a core of its own
app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Measure the throughput of the running installation."
)
console = Console()


class Throughput(BaseModel):
    """Retrains that ran side by side.

    Attributes:
        runs: Number of retrains, started together.
        seconds: Seconds from the first one's start to the last one's end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: PositiveInt
    seconds: PositiveFloat

    @property
    def an_hour(self) -> float:
        """Retrains an hour."""
        return 3600 * self.runs / self.seconds

    @property
    def words(self) -> str:
        """The figures as part of a sentence."""
        return f"{counted(self.runs, 'retrain')} in {self.seconds:,.0f} s: {self.an_hour:,.1f} an hour"


@app.callback()
def bench() -> None:
    """Measure the throughput of the running installation."""


@app.command()
def workers(
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Retrains that are started together.")] = 4,
    overrides: Overrides = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An earlier --json, say with one worker, to compare with."),
    ] = None,
    output: Annotated[Path | None, written("--json", "Write the same facts as JSON to this file.")] = None,
) -> None:
    """Start retrains together and wait for all of them; they are dry runs, so nothing is registered."""
    settings = current_settings()
    load_params(settings.project / PARAMS, overrides or [])  # before anything is started
    before = _earlier(against) if against else None
    throughput = _measure(settings, runs, overrides or [])
    console.print(f"{throughput.words}.", highlight=False)
    if before:
        ratio = throughput.an_hour / before.an_hour
        words = (
            f"Before: {before.words}. Ratio: {ratio:.2f} x; two workers on two cores should reach {BOUND} x."
        )
        console.print(words, highlight=False)
    if output:
        write_text(output, throughput.model_dump_json() + "\n")


def _measure(settings: Settings, runs: int, overrides: list[str]) -> Throughput:
    """Start dry runs together and wait for all of them.

    Each run has its own seed, so that only validation is cached. `runtime.parallel_runs` and the number of
    workers limit the runs that work at the same time.
    """
    first, start = randbelow(10**6), time.monotonic()
    confs = [{"overrides": [*overrides, f"seed={first + number}"], "dry_run": True} for number in range(runs)]
    for run in [trigger(settings, conf) for conf in confs]:
        follow(settings, run, Console(file=io.StringIO()))
        ended = f"{run} ended, {time.monotonic() - start:,.0f} s after the start"
        console.print(f"  {ended}", style="dim", highlight=False)
    return Throughput(runs=runs, seconds=round(time.monotonic() - start, 1))


def _earlier(path: Path) -> Throughput:
    try:
        return Throughput.model_validate_json(read_text(path, EARLIER, ParameterError))
    except ValueError as error:
        raise ParameterError(f"{path} (--against) is something else; give {EARLIER}.") from error
