"""Probes of an MLflow server: short checks that a run could be recorded there.

They delete everything that they write.
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from pathlib import Path

from packaging.version import InvalidVersion, Version

from skumatch.bundle import MANIFEST
from skumatch.errors import ServiceError
from skumatch.registry.labels import fetch_file
from skumatch.registry.registry import ModelRef, Registry
from skumatch.registry.tracking import EXPERIMENT, Tracking

REFUSED = (401, 403)


def server_version(tracking: Tracking) -> str:
    """Return the server's MLflow version.

    Raises:
        RegistryUnavailable: the server doesn't answer.
        ServiceError: it refuses the user and password of the environment, or is no MLflow server.
    """
    with tracking.client():
        from mlflow.tracking._tracking_service.utils import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        answer = http_request(get_default_host_creds(tracking.url), "/version", "GET")
    if answer.status_code in REFUSED:
        advice = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        raise ServiceError(f"MLflow at {tracking.shown} doesn't let us in; {advice}.")
    try:
        return str(Version(answer.text))
    except InvalidVersion as error:
        advice = "choose another port or address (SKUMATCH_MLFLOW)"
        raise ServiceError(f"What answers at {tracking.shown} is not MLflow; {advice}.") from error


def try_artifacts(tracking: Tracking) -> str:
    """Write a small artifact to the store of runs, read it back and delete it.

    Returns:
        The address of the store.

    Raises:
        ServiceError: one of these steps failed.
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
            failure = f"MLflow at {tracking.shown} can't write, give back or delete artifacts in {place}"
            raise ServiceError(
                f"{failure}; see its log, its disk or bucket, and our rights there."
            ) from error
    if back != text:
        failure = f"MLflow at {tracking.shown} gave back another artifact than was written"
        raise ServiceError(f"{failure}; check its disk or bucket.")
    return place


def manifest_hash(registry: Registry, ref: ModelRef) -> str:
    """Return the SHA-256 of a version's bundle.json as the server has it now.

    It equals the bundle's registered hash if the file is unchanged.

    Raises:
        ServiceError: the server doesn't have the file any more.
    """
    with tempfile.TemporaryDirectory() as folder:
        return hashlib.sha256(fetch_file(registry, ref, MANIFEST, Path(folder)).read_bytes()).hexdigest()
