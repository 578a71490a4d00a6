"""`skumatch run | retrain | refresh | up | down | pull | stage`: the whole loop, or one part of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from skumatch.commands.options import Overrides, completed, flag
from skumatch.config import PARAMS, Settings, check_approval, expanded, load_params, require_project
from skumatch.config import settings as current_settings
from skumatch.errors import DataError, Refused, RegistryUnavailable, ServiceError
from skumatch.lineage.provenance import check_signing_key
from skumatch.params import STAGES
from skumatch.servers.airflow_api import REFRESH, RETRAIN

if TYPE_CHECKING:
    from skumatch.pipeline.inputs import CodeSnapshot
    from skumatch.pipeline.message import Kind

console = Console()

Data = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        autocompletion=completed("sample"),
        show_default="the data that is here, else the sample",
        help="A folder or zip in RP2K's layout, or `sample`.",
    ),
]
Catalogue = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="With --data: a folder of catalogue pictures, <sku>.<ext>: a second gallery.",
    ),
]
DryRun = Annotated[bool, flag("--dry-run", "Do everything, register nothing.")]
DataRef = Annotated[
    str | None,
    typer.Option("--data-ref", metavar="REF", show_default="the working tree's", help="Git ref of data.dvc."),
]


def run(
    data: Data = None,
    catalogue: Catalogue = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Run the whole loop: data, servers, one retrain, a summary; no process is left behind.

    Exit code: that of the task that failed; 40 if the gate refused the model.

    Example: `skumatch run --data photos.zip --set train.epochs=3`
    """
    from skumatch.servers import services

    settings = _ready_settings(overrides or ())
    _read_code(settings)
    prepare_data(data, catalogue, settings)
    with _interrupted_by_sigterm():
        started = services.up(settings)
        try:
            _retrain(settings, {"overrides": overrides or [], "dry_run": dry_run}, servers_stop=started)
        finally:
            if started:
                services.down(settings)


def _ready_settings(overrides: Sequence[str]) -> Settings:
    """Return the settings of a run, checked for errors that would stop it only after its training.

    Raises:
        ParameterError: Such an error.
    """
    settings = current_settings()
    check_approval(settings, load_params(settings.project / "params.yaml", overrides))
    check_signing_key(settings.signing_key_file)
    return settings


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM, as sent by make or a service manager, like Ctrl-C.

    A second SIGTERM is ignored, so that it doesn't cut the clean-up short.
    """

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def prepare_data(data: str | None, catalogue: Path | None, settings: Settings) -> None:
    """Import a delivery, or render the sample if there is no data yet.

    Args:
        data: A folder or zip, or `sample`; None keeps the data that is here.
        catalogue: A folder of catalogue pictures, only with a delivery.
        settings: The project.

    Raises:
        DataError: A catalogue is given without a delivery, or the delivery can't be used.
    """
    from skumatch.commands.data import import_and_store, render_and_store

    if data and data != "sample":
        import_and_store(expanded(data), catalogue=catalogue)
    elif catalogue:
        raise DataError("A catalogue goes with data of its own; give both, --data PATH --catalogue FOLDER.")
    elif data == "sample" or not (settings.project / "data.dvc").is_file():
        render_and_store()
    else:
        console.print("Data: the version that is here (data.dvc); give a path or `sample` for another.")


def retrain(overrides: Overrides = None, dry_run: DryRun = False, data_ref: DataRef = None) -> None:
    """Start a retrain on the running servers and follow it.

    Exit code: that of the task that failed; 40 if the gate refused the model.

    Example: `skumatch retrain --set train.epochs=3 --set seed=1`
    """
    settings = _ready_settings(overrides or ())
    _check_data(settings, data_ref)
    _read_code(settings)
    _retrain(settings, {"overrides": overrides or [], "dry_run": dry_run, "data_ref": data_ref})


def refresh(
    overrides: Overrides = None,
    dry_run: DryRun = False,
    data_ref: DataRef = None,
    encoder: Annotated[
        int | None,
        typer.Option(
            metavar="VERSION",
            min=1,
            help="The number of a version whose encoder is judged again on today's data, beside the gallery.",
        ),
    ] = None,
) -> None:
    """Put the champion's encoder on today's data and release the gallery if it is fit; nothing is trained."""
    from skumatch.pipeline.releases import refuse_unused

    settings = _ready_settings(overrides or ())
    refuse_unused(settings.project, overrides or ())
    _check_data(settings, data_ref)
    _read_code(settings)
    conf = {"overrides": overrides or [], "dry_run": dry_run, "data_ref": data_ref, "encoder": encoder}
    if not _joined(settings, conf):
        _show(settings, _followed(settings, _trigger(settings, conf, REFRESH), REFRESH))


def _check_data(settings: Settings, data_ref: str | None) -> None:
    if data_ref is None and not (settings.project / "data.dvc").is_file():
        raise DataError(
            "There is no data yet; import some with `skumatch data import PATH` "
            "or render it with `skumatch data sample`."
        )


def _joined(settings: Settings, conf: dict[str, Any]) -> bool:
    """Follow a refresh that is already queued or running, if there is one with these settings and data.

    Returns:
        True if the followed refresh makes a new one unnecessary.
    """
    from skumatch.pipeline.inputs import data_pointer
    from skumatch.pipeline.repository import md5_of
    from skumatch.servers.follow import active, data_of

    data = md5_of(data_pointer(settings.project, conf["data_ref"]))
    run = active(settings, conf, data, REFRESH)
    if run is None:
        return False
    console.print(
        f"The refresh {run} of the same data is under way; this command follows it.",
        highlight=False,
        soft_wrap=True,
    )
    summary = _followed(settings, run, REFRESH)
    lacking = ""
    if summary.get("skipped"):  # a person who starts one wants it even without new data
        lacking = "was skipped"
    elif data_of(settings, run, REFRESH) != data:  # it read data.dvc right before the last import
        lacking = "took other data"
    if lacking:
        console.print(f"The refresh {run} {lacking}; another one starts.", highlight=False, soft_wrap=True)
        return False
    _show(settings, summary)
    return True


def _trigger(settings: Settings, conf: dict[str, Any], dag: str) -> str:
    from skumatch.servers.follow import trigger

    return trigger(settings, conf, dag)


def _retrain(settings: Settings, conf: dict[str, Any], servers_stop: bool = False) -> None:
    _show(settings, _followed(settings, _trigger(settings, conf, RETRAIN), RETRAIN, servers_stop))


def _followed(settings: Settings, run: str, dag: str, servers_stop: bool = False) -> dict[str, Any]:
    """Follow a run to its summary.

    Args:
        settings: Address of Airflow.
        run: Id of the run.
        dag: Id of the DAG.
        servers_stop: Whether the servers stop with this command, so that an interrupted run is cancelled.

    Raises:
        RunFailed: A task failed.
        ServiceError: Airflow is away.
    """
    from skumatch.servers.follow import cancel, follow, run_url

    try:
        return follow(settings, run, dag=dag)
    except KeyboardInterrupt:
        if servers_stop:
            cancel(settings, run, dag)
            console.print(f"The run {run} was stopped; the next one goes on from what is done.")
        else:
            console.print(f"The run {run} goes on; see it at {run_url(settings, run, dag)}", soft_wrap=True)
        raise
    except ServiceError:
        if servers_stop:
            with suppress(ServiceError):
                cancel(settings, run, dag)
        raise


def _show(settings: Settings, summary: dict[str, Any]) -> None:
    """Print how a run ended.

    Raises:
        Refused: The gate refused the run's model.
    """
    from skumatch.servers.summary import links, render_summary

    console.print(render_summary(summary))
    if summary.get("skipped"):
        return
    console.print(links(summary, settings), markup=False, soft_wrap=True, highlight=False)
    if summary["decision"] == "refuse":
        raise Refused(
            "The gate refused the model, so nothing was registered; "
            "the reasons stand above and in the report."
        )


def _read_code(settings: Settings) -> CodeSnapshot:
    """Read the code for a run, and warn if the gate will refuse the model because of it.

    Raises:
        CodeError: A run can't take the code along.
    """
    from skumatch.pipeline.inputs import read_code

    code = read_code(settings.project)
    if code.trouble:
        console.print(code.trouble.warning, style="yellow", markup=False, highlight=False)
    return code


def up() -> None:
    """Start Airflow and MLflow and leave them running."""
    from skumatch.servers import services

    settings = current_settings()
    load_params(settings.project / PARAMS)  # with an error in it the servers would wait for DAGs in vain
    check_signing_key(settings.signing_key_file)
    services.up(settings)
    addresses = f"Airflow: {settings.airflow_url}\nMLflow:  {_mlflow_page(settings)}"
    stop = "Stop them with `skumatch down`."
    console.print(f"{addresses}\n{stop}", markup=False, highlight=False, soft_wrap=True)


def _mlflow_page(settings: Settings) -> str:
    """Return the page of all runs; that of the models where an MLflow elsewhere doesn't answer."""
    from skumatch.registry.tracking import Tracking

    try:
        return Tracking(settings.mlflow_url).runs_page(settings.mlflow_shown)
    except RegistryUnavailable:
        return settings.models_page


def down() -> None:
    """Stop the servers started by `up`."""
    from skumatch.servers import services

    settings = current_settings()
    if not settings.home_dir.is_dir():  # so nothing was started from here
        require_project(settings.project)
    services.down(settings)


def pull(
    refresh: Annotated[
        bool,
        flag("--refresh", "For a refresh: no training, the champion's encoder on today's data."),
    ] = False,
) -> None:
    """Place a run's inputs in inputs/, so that `dvc repro` runs here without Airflow.

    The inputs are the champion, base weights, the last version's profile and git's record of the code.
    """
    from skumatch.pipeline import inputs
    from skumatch.pipeline.pull import (
        check_champion,
        fetch_base_weights,
        fetch_baseline,
        fetch_bundle,
        fetch_released,
        open_registry,
    )

    settings = current_settings()
    check_signing_key(settings.signing_key_file)
    params, code = load_params(settings.project / PARAMS), _read_code(settings)
    kind: Kind = "refresh" if refresh else "retrain"
    registry = open_registry(settings, params)
    champion = registry.champion()
    check_champion(registry, kind, champion)
    fetched = inputs.Fetched(
        code=code,
        champion=fetch_bundle(settings, registry, champion),
        weights=None if refresh else fetch_base_weights(settings, params),
        baseline=fetch_baseline(settings, params, inputs.data_pointer(settings.project, None), champion),
        kind=kind,
        released=fetch_released(settings, registry, champion),
    )
    inputs.place_inputs(settings.project, fetched)
    console.print("inputs/ is ready; `dvc repro` runs the pipeline here.")


def stage(
    name: Annotated[
        str,
        typer.Argument(metavar="STAGE", autocompletion=completed(*STAGES), help="A stage of dvc.yaml."),
    ],
) -> None:
    """Run one stage here, in this folder; `dvc repro STAGE` runs it only if something changed."""
    from skumatch.stages.runner import run as run_stage

    require_project(Path.cwd())  # since a failing stage writes its error into its folder
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_stage(name, Path.cwd())
