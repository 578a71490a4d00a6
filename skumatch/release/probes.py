"""Small questions to an MLflow server that tell whether a run could be recorded there.

What they write they delete.
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from pathlib import Path

from packaging.version import InvalidVersion, Version

from skumatch.errors import ServiceError
from skumatch.release.bundle import MANIFEST
from skumatch.release.labels import fetch_file
from skumatch.release.registry import ModelRef, Registry
from skumatch.release.tracking import EXPERIMENT, Tracking

REFUSED = (401, 403)


def server_version(tracking: Tracking) -> str:
    """The MLflow version of the server.

    Raises ServiceError where it doesn't let us in, or is something else.
    """
    with tracking.client():
        from mlflow.tracking._tracking_service.utils import (
            get_default_host_creds,
        )  # with the user and password of the environment
        from mlflow.utils.rest_utils import http_request

        answer = http_request(get_default_host_creds(tracking.url), "/version", "GET")
    if answer.status_code in REFUSED:
        raise ServiceError(
            f"MLflow at {tracking.shown} doesn't let us in; check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    try:
        return str(Version(answer.text))
    except InvalidVersion as error:
        raise ServiceError(
            f"What answers at {tracking.shown} is not MLflow; choose another port or address (SKUMATCH_MLFLOW)."
        ) from error


def try_artifacts(tracking: Tracking) -> str:
    """Write a small artifact where those of runs go, read it back, delete it, and return that place.

    Raises ServiceError.
    """
    text = uuid.uuid4().hex
    with tracking.client() as client, tempfile.TemporaryDirectory() as folder:
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from requests import RequestException

        experiment = client.get_experiment_by_name(EXPERIMENT)
        place = str(experiment.artifact_location if experiment else "mlflow-artifacts:/")
        probe = Path(folder) / "probe.txt"
        probe.write_text(text, "utf-8")
        try:
            store = get_artifact_repository(f"{place.rstrip('/')}/doctor-{text}", tracking_uri=tracking.url)
            store.log_artifact(str(probe))
            back = Path(store.download_artifacts(probe.name, folder)).read_text("utf-8")
            store.delete_artifacts()
        except (MlflowException, RequestException, OSError) as error:
            what = f"MLflow at {tracking.shown} can't write, give back or delete artifacts in {place}"
            raise ServiceError(f"{what}; see its log, its disk or bucket, and our rights there.") from error
    if back != text:
        raise ServiceError(
            f"MLflow at {tracking.shown} gave back another artifact than was written; check its disk or bucket."
        )
    return place


def manifest_hash(registry: Registry, ref: ModelRef) -> str:
    """The SHA-256 of the list of parts in a version's bundle, as the server has it now: its bundle's hash, if all is well.

    Raises ServiceError where the server has it no more.
    """
    with tempfile.TemporaryDirectory() as folder:
        return hashlib.sha256(fetch_file(registry, ref, MANIFEST, Path(folder)).read_bytes()).hexdigest()
