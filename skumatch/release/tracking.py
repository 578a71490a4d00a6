"""The MLflow server: reaching it, telling its failures apart, and the record of runs."""

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
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from skumatch import network
from skumatch.config import shown
from skumatch.errors import ParameterError, RegistryUnavailable, ServiceError

EXPERIMENT = "skumatch"
RUN_TAG, DATA_TAG, PLAIN_TAG, KIND_TAG = "skumatch.run", "skumatch.data", "skumatch.plain", "skumatch.kind"
VERDICT_TAG = "skumatch.verdict"
VERSION_TAG = "skumatch.version"  # of a run: the version that came of it
INPUTS_TAG = "skumatch.inputs"  # MD5 of the input set of the run that made it
MACHINE_TAG = "skumatch.machine."  # and a stage
REFUSED_TAG, STAGE_TAG = "skumatch.refused", "skumatch.stage"  # of a run whose data was refused
LOCK_NAME = "dvc.lock"
MODEL_PARAM = "release.model_name"
LOOKED_AT = 20
PROBE_SECONDS = 5.0
UPLOADS = 4  # each file is a request, for each of which MLflow with sign-in checks the password
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
    """A run that ended well: its MLflow id and tags, and the text of its dvc.lock (None if it left none)."""

    run_id: str
    tags: Mapping[str, str]
    lock: str | None


@dataclass(frozen=True)
class RefusedRun:
    """A run that ended because a stage refused its data: its MLflow id and tags."""

    run_id: str
    tags: Mapping[str, str]


class Tracking:
    """One MLflow server.

    Every method raises RegistryUnavailable if it is away, ServiceError if it refuses.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ParameterError(
                f"'{shown(url)}' is no MLflow server; give its address, for example http://127.0.0.1:5000 (SKUMATCH_MLFLOW)."
            )
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
    ) -> str:
        """Record a run in the experiment `skumatch` and return its MLflow id.

        `artifacts` maps a path in the run to a file.

        A second call for the same `run` adds to the same MLflow run. A list as metric is one value an epoch.
        """
        with self.client() as client, tempfile.TemporaryDirectory() as staged:
            found = client.get_run(_run_id(client, run))
            mlflow_id = str(found.info.run_id)
            _log_metrics(
                client,
                mlflow_id,
                {name: value for name, value in metrics.items() if name not in found.data.metrics},
            )
            _log_texts(client, mlflow_id, params, clean_tags(tags))
            for name, path in artifacts.items():
                (Path(staged) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, Path(staged) / name)
            upload_files(partial(client.log_artifact, mlflow_id), Path(staged))
            if status != "RUNNING":
                client.set_terminated(mlflow_id, status)
            return mlflow_id

    def log_data(self, mlflow_id: str, version: str, uri: str) -> None:
        """Name a data version, kept at `uri`, as what the run was trained and tested on: MLflow lists it as the run's datasets."""
        with self.client() as client:
            client.log_inputs(
                mlflow_id, [_dataset(version, shown(uri), context) for context in ("training", "test")]
            )

    def last_finished(self, kind: str | None = None, plain: bool = False) -> FinishedRun | None:
        """The newest run that ended well, with the lock that the next run starts from.

        Args:
            kind: only runs of this kind; None for any. A run that names no kind is a retrain.
            plain: only runs as the schedule would start them, without overrides and from committed code.
        """
        wanted = f"attributes.status = 'FINISHED' and tags.`{RUN_TAG}` != ''" + (
            f" and tags.`{PLAIN_TAG}` = 'true'" if plain else ""
        )
        with self.client() as client, tempfile.TemporaryDirectory() as folder:
            run = next(
                (
                    run
                    for run in _newest(client, wanted)
                    if kind in (None, run.data.tags.get(KIND_TAG, "retrain"))
                ),
                None,
            )
            if run is None:
                return None
            run_id = str(run.info.run_id)
            held = any(item.path == LOCK_NAME for item in client.list_artifacts(run_id))
            lock = (
                Path(client.download_artifacts(run_id, LOCK_NAME, folder)).read_text("utf-8")
                if held
                else None
            )
            tags = {name: value for name, value in run.data.tags.items() if name.startswith("skumatch.")}
            return FinishedRun(run_id, tags, lock)

    def last_refused(self, basis: str) -> RefusedRun | None:
        """The newest run that failed because a stage refused its data.

        Args:
            basis: SHA-256 of all that the refusal rests on (`pipeline.refusals.basis_of`).
        """
        with self.client() as client:
            wanted = f"attributes.status = 'FAILED' and tags.`{REFUSED_TAG}` = '{basis}'"
            run = next(_newest(client, wanted), None)
            return RefusedRun(str(run.info.run_id), dict(run.data.tags)) if run else None

    def earlier_version(self, data: str, model: str, artifact: str) -> str | None:
        """The text of `artifact` of the newest run that ended well on other data than `data`, for the registered model `model`.

        Runs without such an artifact are passed over; None if there is no other.
        """
        wanted = f"attributes.status = 'FINISHED' and tags.`{DATA_TAG}` != '{data}' and params.`{MODEL_PARAM}` = '{model}'"
        with self.client() as client, tempfile.TemporaryDirectory() as folder:
            experiment = client.get_experiment_by_name(EXPERIMENT)
            order = ["attributes.end_time DESC"]
            found = (
                client.search_runs([experiment.experiment_id], wanted, order_by=order, max_results=LOOKED_AT)
                if experiment
                else []
            )
            for run in found:
                held = client.list_artifacts(run.info.run_id, artifact.rpartition("/")[0])
                if any(item.path == artifact for item in held):
                    return Path(client.download_artifacts(run.info.run_id, artifact, folder)).read_text(
                        "utf-8"
                    )
            return None

    def run(self, mlflow_id: str) -> Any:
        """MLflow's record of a run; None if there is none."""
        with self.client() as client:
            return or_none(client.get_run, mlflow_id)

    def download_artifacts(self, mlflow_id: str, folder: Path) -> None:
        """Fetch all of a run's artifacts into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        with self.client() as client:
            client.download_artifacts(mlflow_id, "", str(folder))

    def artifact(self, mlflow_id: str, path: str) -> bytes:
        """One of a run's artifacts. Raises ServiceError if there is none."""
        with self.client() as client, tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(mlflow_id, path, folder)).read_bytes()

    def run_page(self, mlflow_id: str, place: str) -> str:
        """The address of a run's page in MLflow's web interface, which people find at `place`."""
        with self.client() as client:
            return f"{place}/#/experiments/{client.get_run(mlflow_id).info.experiment_id}/runs/{mlflow_id}"

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Yield MLflow's client after a quick look whether the server is there; its errors become ours."""
        self._probe()
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # takes a second; a server that is away is told without it
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
        advice = "start it (`make up`) or set SKUMATCH_MLFLOW, then run again"
        if proxied := network.through(self.url):
            advice = "check MLflow, the proxy and NO_PROXY, then run again"
        return RegistryUnavailable(f"MLflow at {self.shown} doesn't answer{how}{proxied}; {advice}.")


def upload_files(log: Callable[[str, str | None], None], folder: Path) -> None:
    """Hand each file below `folder` to `log`, with its folder's path there, several at a time.

    Raises what the first failure raises.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(UPLOADS) as pool:
        sent = [pool.submit(log, str(path), _below(path.parent, folder)) for path in files]
        try:
            for one in sent:
                one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _below(path: Path, folder: Path) -> str | None:
    return None if path == folder else path.relative_to(folder).as_posix()


def clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags with credentials cut out of URLs. Keys must start with `skumatch.` or be MLflow's own."""
    assert all(name.startswith(("skumatch.", "mlflow.")) for name in tags), (
        "tags of ours carry the prefix skumatch."
    )
    return {name: shown(str(value)) for name, value in tags.items()}


def unless_existing(create: Callable[..., Any], name: str) -> None:
    """Call `create(name)`; that it exists already is fine."""
    from mlflow.exceptions import MlflowException

    try:
        create(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def or_none(call: Callable[..., Any], *names: str) -> Any:
    """What `call` answers; None if there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return call(*names)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _newest(client: Any, wanted: str) -> Iterator[Any]:
    """The experiment's runs that fit the filter `wanted`, the one that ended last first.

    A page is fetched when it is needed.
    """
    experiment, token = client.get_experiment_by_name(EXPERIMENT), None
    while experiment:
        order = ["attributes.end_time DESC"]
        page = client.search_runs(
            [experiment.experiment_id], wanted, order_by=order, max_results=LOOKED_AT, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _run_id(client: Any, run: str) -> str:
    """The MLflow run that carries `run` as its tag, made if there is none."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        unless_existing(client.create_experiment, EXPERIMENT)
        experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
    return str(
        (
            found[0]
            if found
            else client.create_run(experiment.experiment_id, tags={RUN_TAG: run}, run_name=run)
        ).info.run_id
    )


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
