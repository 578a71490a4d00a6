"""Access to the MLflow server: connection, classified failures, and the record of runs."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from skumatch import network
from skumatch.config import shown
from skumatch.errors import ParameterError, RegistryUnavailable, ServiceError

EXPERIMENT = "skumatch"
NOTE_TAG = "mlflow.note.content"  # MLflow's interface shows it as the description of a run or an experiment
ABOUT_EXPERIMENT = (
    "Runs of skumatch, which retrains the model that says which product (SKU) a cropped shelf photo shows.\n"
    "\n"
    "A run is a *retrain*, which trains a new encoder, or a *refresh*, which brings the champion's gallery "
    "up to date. Each has its decision in words (tag `skumatch.decision`), its figures, and a report "
    "(artifact `report/report.html`). Models that passed are versions in the model registry.\n"
)
# MLflow's interface has a mode for language models, with empty pages of traces and no models, and one for
# model training. It goes by this part of an address, else by the last choice in the browser; the tag is for
# releases of MLflow that ask what kind of experiment it is.
KIND_OF_EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}
TRAINING_VIEW = "?workflowType=machine_learning"
RUN_TAG, DATA_TAG, PLAIN_TAG, KIND_TAG = "skumatch.run", "skumatch.data", "skumatch.plain", "skumatch.kind"
VERDICT_TAG = "skumatch.verdict"
VERSION_TAG = "skumatch.version"  # of a run: the version that it made
INPUTS_TAG = "skumatch.inputs"  # MD5 of the input set of the run that made it
MACHINE_TAG = "skumatch.machine."  # a prefix; the stage's name follows
REFUSED_TAG, STAGE_TAG = "skumatch.refused", "skumatch.stage"  # of a run whose data was refused
LOCK_NAME = "dvc.lock"
MODEL_PARAM = "release.model_name"
LOOKED_AT = 20  # runs in a page of a search
PROBE_SECONDS = 5.0
UPLOADS = 4  # at a time: each file is a request, and MLflow with sign-in checks the password for each
AWAY = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED"})
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}

Series = float | Sequence[float]


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended well.

    Attributes:
        run_id: its MLflow id.
        tags: its tags.
        lock: the text of its dvc.lock; None if it left none.
    """

    run_id: str
    tags: Mapping[str, str]
    lock: str | None


@dataclass(frozen=True)
class RefusedRun:
    """A run that ended because a stage refused its data.

    Attributes:
        run_id: its MLflow id.
        tags: its tags.
    """

    run_id: str
    tags: Mapping[str, str]


class Tracking:
    """One MLflow server.

    Every method raises RegistryUnavailable if the server is away, and ServiceError if it refuses.

    Attributes:
        url: the server's address.
        shown: the address without credentials, for sentences.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            advice = "give its address, for example http://127.0.0.1:5000 (SKUMATCH_MLFLOW)"
            raise ParameterError(f"'{shown(url)}' is no MLflow server; {advice}.")
        self.url = url.rstrip("/")
        self.shown = shown(self.url)

    def log_run(
        self,
        run: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, Series],
        tags: Mapping[str, str],
        artifacts: Mapping[str, Path],
        status: Literal["RUNNING", "FINISHED", "FAILED"] = "FINISHED",
        started: datetime | None = None,
        ended: datetime | None = None,
    ) -> str:
        """Record a run in the experiment `skumatch`.

        A second call for the same `run` adds to the same MLflow run; metrics that it has stay.

        Args:
            run: skumatch's name of the run.
            params: parameters by name.
            metrics: metrics by name; a list has one value an epoch.
            tags: tags by name; credentials are cut out of their values.
            artifacts: the local file for each path in the run.
            status: the run's status after the call.
            started: when the run's first task began; None for now. The first call for a run counts.
            ended: when the run's last result was there; None for now. It counts where `status` is an end.

        Returns:
            The run's MLflow id.
        """
        with self.client() as client, tempfile.TemporaryDirectory() as staged:
            record = client.get_run(_run_id(client, run, started))
            mlflow_id = str(record.info.run_id)
            new = {name: value for name, value in metrics.items() if name not in record.data.metrics}
            _log_metrics(client, mlflow_id, new)
            _log_texts(client, mlflow_id, params, clean_tags(tags))
            for name, path in artifacts.items():
                (Path(staged) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, Path(staged) / name)
            upload_files(partial(client.log_artifact, mlflow_id), Path(staged))
            if status != "RUNNING":
                client.set_terminated(mlflow_id, status, _milliseconds(ended))
            return mlflow_id

    def log_data(self, mlflow_id: str, version: str, uri: str) -> None:
        """Record the data version that a run was trained and tested on; MLflow lists it as its datasets.

        Args:
            mlflow_id: the run's MLflow id.
            version: hash of the data version.
            uri: address of the store that keeps the data; credentials are cut out.
        """
        with self.client() as client:
            client.log_inputs(
                mlflow_id, [_dataset(version, shown(uri), context) for context in ("training", "test")]
            )

    def last_finished(self, kind: str | None = None, plain: bool = False) -> FinishedRun | None:
        """Return the newest run that ended well, with the lock that the next run starts from.

        Args:
            kind: only runs of this kind; None for any. A run that names no kind is a retrain.
            plain: only runs as the schedule would start them, without overrides and from committed code.
        """
        query = f"attributes.status = 'FINISHED' and tags.`{RUN_TAG}` != ''"
        if plain:
            query += f" and tags.`{PLAIN_TAG}` = 'true'"
        with self.client() as client, tempfile.TemporaryDirectory() as folder:
            runs = _newest(client, query)
            fitting = (run for run in runs if kind in (None, run.data.tags.get(KIND_TAG, "retrain")))
            run = next(fitting, None)
            if run is None:
                return None
            run_id = str(run.info.run_id)
            lock: str | None = None
            if any(item.path == LOCK_NAME for item in client.list_artifacts(run_id)):
                lock = Path(client.download_artifacts(run_id, LOCK_NAME, folder)).read_text("utf-8")
            tags = {name: value for name, value in run.data.tags.items() if name.startswith("skumatch.")}
            return FinishedRun(run_id, tags, lock)

    def last_refused(self, basis: str) -> RefusedRun | None:
        """Return the newest run that failed because a stage refused its data.

        Args:
            basis: SHA-256 of all inputs of the refusal (`pipeline.refusals.basis_of`).
        """
        with self.client() as client:
            query = f"attributes.status = 'FAILED' and tags.`{REFUSED_TAG}` = '{basis}'"
            run = next(_newest(client, query), None)
            return RefusedRun(str(run.info.run_id), dict(run.data.tags)) if run else None

    def earlier_version(self, data: str, model: str, artifact: str) -> str | None:
        """Return the text of an artifact of the newest run that ended well on another data version.

        Args:
            data: MD5 of the data version whose runs are passed over.
            model: name of the registered model; only its runs are searched.
            artifact: path of the artifact in the run; runs without it are passed over.

        Returns:
            The text; None if none of the last LOOKED_AT runs has it.
        """
        finished = f"attributes.status = 'FINISHED' and tags.`{DATA_TAG}` != '{data}'"
        query = f"{finished} and params.`{MODEL_PARAM}` = '{model}'"
        with self.client() as client, tempfile.TemporaryDirectory() as folder:
            experiment = client.get_experiment_by_name(EXPERIMENT)
            order = ["attributes.end_time DESC"]
            if experiment is None:
                return None
            runs = client.search_runs(
                [experiment.experiment_id], query, order_by=order, max_results=LOOKED_AT
            )
            for run in runs:
                siblings = client.list_artifacts(run.info.run_id, artifact.rpartition("/")[0])
                if any(item.path == artifact for item in siblings):
                    path = client.download_artifacts(run.info.run_id, artifact, folder)
                    return Path(path).read_text("utf-8")
            return None

    def run(self, mlflow_id: str) -> Any:
        """Return MLflow's record of a run; None if there is none."""
        with self.client() as client:
            return or_none(client.get_run, mlflow_id)

    def download_artifacts(self, mlflow_id: str, folder: Path) -> None:
        """Download all artifacts of a run into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        with self.client() as client:
            client.download_artifacts(mlflow_id, "", str(folder))

    def artifact(self, mlflow_id: str, path: str) -> bytes:
        """Return the bytes of one artifact of a run.

        Raises:
            ServiceError: there is no such artifact.
        """
        with self.client() as client, tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(mlflow_id, path, folder)).read_bytes()

    def run_page(self, mlflow_id: str, place: str) -> str:
        """Return the address of a run's page in MLflow's web interface, which people reach at `place`."""
        with self.client() as client:
            experiment = client.get_run(mlflow_id).info.experiment_id
            return f"{place}/#/experiments/{experiment}/runs/{mlflow_id}{TRAINING_VIEW}"

    def runs_page(self, place: str) -> str:
        """Return the address of the page that lists all runs; the experiment is created if there is none."""
        with self.client() as client:
            return f"{place}/#/experiments/{_experiment(client).experiment_id}/runs{TRAINING_VIEW}"

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Check quickly that the server answers, yield MLflow's client, and translate its errors.

        Raises:
            RegistryUnavailable: the server doesn't answer, or stops answering.
            ServiceError: the server refuses a request.
        """
        self._probe()
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # takes a second, so only once the server has answered
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield MlflowClient(self.url, self.url)
        except RequestException as error:
            raise self._away(" any more") from error
        except MlflowException as error:
            reason = shown(str(error).splitlines()[0])[:200]
            if error.error_code in AWAY:
                raise self._away(f" as it should ({reason})") from error
            raise ServiceError(
                f"MLflow at {self.shown} refused a request ({reason}); see its log."
            ) from error

    def _probe(self) -> None:
        try:
            with network.http_client(self.url, PROBE_SECONDS) as client:
                healthy = client.get(f"{self.url}/health").status_code < 500
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._away("") from error
        if not healthy:
            raise self._away(" in good health")

    def _away(self, how: str) -> RegistryUnavailable:
        advice = "start it (`skumatch up`) or set SKUMATCH_MLFLOW, then run again"
        if proxied := network.through(self.url):
            advice = "check MLflow, the proxy and NO_PROXY, then run again"
        return RegistryUnavailable(f"MLflow at {self.shown} doesn't answer{how}{proxied}; {advice}.")


def upload_files(log: Callable[[str, str | None], None], folder: Path) -> None:
    """Call `log` for each file below `folder`, with its parent's relative path, several at a time.

    The exception of the first call that fails is raised.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(UPLOADS) as pool:
        uploads = [pool.submit(log, str(path), _below(path.parent, folder)) for path in files]
        try:
            for upload in uploads:
                upload.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _below(path: Path, folder: Path) -> str | None:
    return None if path == folder else path.relative_to(folder).as_posix()


def clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Cut credentials out of URLs in tags. Keys have to start with `skumatch.` or `mlflow.`."""
    assert all(name.startswith(("skumatch.", "mlflow.")) for name in tags), (
        "tags of ours carry the prefix skumatch."
    )
    return {name: shown(str(value)) for name, value in tags.items()}


def unless_existing(create: Callable[..., Any], name: str) -> None:
    """Call `create(name)`, and ignore the error that it exists already."""
    from mlflow.exceptions import MlflowException

    try:
        create(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def described_model(client: Any, name: str, about: str) -> None:
    """Create a registered model unless there is one, and describe it; a person's description stays.

    Args:
        client: MLflow's client.
        name: name of the registered model.
        about: its description, Markdown.
    """
    unless_existing(client.create_registered_model, name)
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, about)


def or_none(call: Callable[..., Any], *names: str) -> Any:
    """Return the result of `call(*names)`; None if MLflow knows no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return call(*names)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _newest(client: Any, query: str) -> Iterator[Any]:
    """Yield the experiment's runs that match MLflow's filter `query`, the one that ended last first.

    Pages are fetched as they are needed.
    """
    experiment, token = client.get_experiment_by_name(EXPERIMENT), None
    while experiment:
        order = ["attributes.end_time DESC"]
        page = client.search_runs(
            [experiment.experiment_id], query, order_by=order, max_results=LOOKED_AT, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _run_id(client: Any, run: str, started: datetime | None) -> str:
    """Return the id of the MLflow run with the tag RUN_TAG = `run`, created if there is none.

    Args:
        client: MLflow's client.
        run: skumatch's name of the run.
        started: start of a run that is created; None for now.
    """
    experiment = _experiment(client)
    runs = client.search_runs([experiment.experiment_id], f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    created = client.create_run(
        experiment.experiment_id, _milliseconds(started), tags={RUN_TAG: run}, run_name=run
    )
    return str(created.info.run_id)


def _milliseconds(moment: datetime | None) -> int | None:
    """Return a time as MLflow has it; None for none, which MLflow reads as now."""
    return None if moment is None else round(moment.timestamp() * 1000)


def _experiment(client: Any) -> Any:
    """Return the experiment, created if there is none, marked as one of model training and described.

    A description that a person wrote stays.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        unless_existing(client.create_experiment, EXPERIMENT)
        experiment = client.get_experiment_by_name(EXPERIMENT)
    described = {} if experiment.tags.get(NOTE_TAG) else {NOTE_TAG: ABOUT_EXPERIMENT}
    for name, value in (KIND_OF_EXPERIMENT | described).items():
        if experiment.tags.get(name) != value:
            client.set_experiment_tag(experiment.experiment_id, name, value)
    return experiment


def _dataset(version: str, uri: str, context: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # A run takes one input of a name and digest, so the name tells the contexts apart.
    named = Dataset(
        f"skumatch data version ({context})",
        version,
        urlsplit(uri).scheme or "local",
        json.dumps({"uri": uri}),
    )
    return DatasetInput(named, [InputTag("mlflow.data.context", context)])


def _log_metrics(client: Any, mlflow_id: str, metrics: Mapping[str, Series]) -> None:
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    series = {
        name: [value] if isinstance(value, int | float) else list(value)
        for name, value in sorted(metrics.items())
    }
    points = [
        Metric(name, value, now, step)
        for name in series
        for step, value in enumerate(series[name])
        if math.isfinite(value)
    ]
    for start in range(0, len(points), 500):  # the server takes at most 1,000 a call
        client.log_batch(mlflow_id, metrics=points[start : start + 500])


def _log_texts(client: Any, mlflow_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    client.log_batch(mlflow_id, tags=[RunTag(name, value) for name, value in sorted(tags.items())])
    listed = [Param(name, str(value)) for name, value in sorted(params.items())]
    for start in range(0, len(listed), 100):  # the server takes at most 100 a call
        client.log_batch(mlflow_id, params=listed[start : start + 100])
