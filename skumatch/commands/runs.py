"""`skumatch run | retrain | up | down | pull | stage`: turn the loop, or one part of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from skumatch.config import Settings, check_approval, load_params, shown
from skumatch.config import settings as current_settings
from skumatch.errors import DataError, Refused, ServiceError

console = Console()

Data = Annotated[
    str | None, typer.Option(help="A folder or zip in RP2K's layout, or `sample`; default: the data that is here, else the sample.")
]
Catalogue = Annotated[Path | None, typer.Option(help="With --data: a folder of catalogue pictures, <sku>.<ext>: a second gallery.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a parameter for this run: section.name=value.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything, register nothing.")]
DataRef = Annotated[str | None, typer.Option("--data-ref", help="Git ref of data.dvc; default: the working tree's.")]


def run(
    data: Data = None,
    catalogue: Catalogue = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Data, servers, one retrain, a summary: the whole loop, and no process left behind."""
    from skumatch import services

    settings = current_settings()
    check_approval(settings, load_params(settings.project / "params.yaml", overrides or ()))
    prepare_data(data, catalogue, settings)
    with _interrupted_by_sigterm():
        started = services.up(settings)
        try:
            _retrain(settings, {"overrides": overrides or [], "dry_run": dry_run}, ours=started)
        finally:
            if started:
                services.down(settings)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM, as from make or a service manager, ends what is done as Ctrl-C does; a second one doesn't cut that end short."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def prepare_data(data: str | None, catalogue: Path | None, settings: Settings) -> None:
    """Import `data`, or render the sample where there is no data yet."""
    from skumatch.commands.data import import_and_store, sample

    if data and data != "sample":
        import_and_store(Path(data), catalogue=catalogue)
    elif catalogue:
        raise DataError("A catalogue goes with data of its own; give both, --data PATH --catalogue FOLDER.")
    elif data == "sample" or not (settings.project / "data.dvc").is_file():
        sample()
    else:
        console.print("Data: the version that is here (data.dvc); give a path or `sample` for another.")


def retrain(overrides: Overrides = None, dry_run: DryRun = False, data_ref: DataRef = None) -> None:
    """Trigger the workflow on the running servers and follow it."""
    settings = current_settings()
    check_approval(settings, load_params(settings.project / "params.yaml", overrides or ()))
    if data_ref is None and not (settings.project / "data.dvc").is_file():
        raise DataError("There is no data yet; import some with `skumatch data import PATH` or render it with `skumatch data sample`.")
    _retrain(settings, {"overrides": overrides or [], "dry_run": dry_run, "data_ref": data_ref})


def _retrain(settings: Settings, conf: dict[str, Any], ours: bool = False) -> None:
    """Trigger and follow; `ours`: the servers stop with this command, so an interrupted run must not wait in them for the next."""
    from skumatch.follow import cancel, follow, run_url, trigger
    from skumatch.summary import links, render_summary

    _warn_of_code(settings)
    run = trigger(settings, conf)
    try:
        summary = follow(settings, run)
    except KeyboardInterrupt:
        if ours:
            cancel(settings, run)
            console.print(f"The run {run} was stopped; the next one goes on from what is done.")
        else:
            console.print(f"The run {run} goes on; see it at {run_url(settings, run)}", soft_wrap=True)
        raise
    except ServiceError:
        if ours:
            with suppress(ServiceError):
                cancel(settings, run)
        raise
    console.print(render_summary(summary))
    if summary.get("skipped"):
        return
    console.print(links(summary, settings), soft_wrap=True, highlight=False)
    if summary["decision"] == "refuse":
        raise Refused("The gate refused the model, so nothing was registered; the reasons stand above and in the report.")


def _warn_of_code(settings: Settings) -> None:
    from skumatch.pipeline.inputs import describe_code

    code = describe_code(settings.project)
    if code["dirty"] or code["commit"] is None:
        why = "has uncommitted changes" if code["commit"] else "is under no git commit"
        console.print(f"[yellow]The code {why}: the run works, but the gate will refuse its model. Commit first to release it.[/]")


def up() -> None:
    """Start Airflow and MLflow and leave them running."""
    from skumatch import services

    settings = current_settings()
    services.up(settings)
    console.print(
        f"Airflow: {settings.airflow_url}\nMLflow:  {shown(settings.mlflow_url)}\nStop them with `skumatch down`.", highlight=False
    )


def down() -> None:
    """Stop the servers started by `up`."""
    from skumatch import services

    services.down(current_settings())


def pull() -> None:
    """Lay champion, base weights, the last version's profile and code facts into inputs/, so that `dvc repro` runs here without Airflow."""
    from skumatch.pipeline import inputs
    from skumatch.pipeline.pull import fetch_base_weights, fetch_baseline, fetch_champion, open_registry

    settings = current_settings()
    params = load_params(settings.project / "params.yaml")
    registry = open_registry(settings, params)
    fetched = inputs.Fetched(
        champion=fetch_champion(settings, registry, registry.champion()),
        weights=fetch_base_weights(settings, params),
        baseline=fetch_baseline(settings, params, inputs.data_pointer(settings.project, None)),
    )
    inputs.place_inputs(settings.project, settings.project, fetched)
    console.print("inputs/ is ready; `dvc repro` runs the pipeline here.")


def stage(name: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")]) -> None:
    """Run one stage here, in this folder. (`dvc repro NAME` runs it only if something changed.)"""
    from skumatch.stages.runner import run as run_stage

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_stage(name, Path.cwd())
