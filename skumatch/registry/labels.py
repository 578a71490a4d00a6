"""Read the products that a version can name from two small files of its bundle."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from skumatch.bundle import MANIFEST
from skumatch.bundle.manifest import LABELS, read_manifest
from skumatch.bundle.parts import read_object
from skumatch.errors import BundleError, ServiceError
from skumatch.registry.registry import ModelRef, Registry


def nameable(registry: Registry, ref: ModelRef) -> frozenset[str]:
    """Return the SKUs in a version's gallery.

    Args:
        registry: the server that has the version.
        ref: the version.

    Raises:
        BundleError: the labels, or the manifest that names their hash, differ from what was registered.
        ServiceError: the server doesn't have these files any more.
    """
    with tempfile.TemporaryDirectory() as folder:
        manifest = fetch_file(registry, ref, MANIFEST, Path(folder))
        labels = fetch_file(registry, ref, LABELS, Path(folder))
        registered = _sha256(manifest) == ref.bundle
        if not registered or _sha256(labels) != read_manifest(manifest.parent).parts[LABELS].sha256:
            where = f"the bundle of version {ref.version} on {registry.shown}"
            advice = f"see `skumatch audit {ref.version} --verify`"
            raise BundleError(f"The labels in {where} are not what was registered; {advice}.")
        return frozenset(read_object(labels).get("gallery_images", ()))


def fetch_file(registry: Registry, ref: ModelRef, name: str, folder: Path) -> Path:
    """Fetch one file of a version's bundle, without verifying it.

    Args:
        registry: the server that has the version.
        ref: the version.
        name: path of the file in the bundle.
        folder: folder to put the file into.

    Returns:
        The path of the fetched file.

    Raises:
        ServiceError: the server doesn't have the file any more.
    """
    with registry.client() as client:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        model_uri = client.get_model_version_download_uri(registry.model_name, str(ref.version))
        uri = f"{model_uri}/artifacts/bundle/{name}"
        try:
            return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=registry.url))
        except (MlflowException, OSError) as error:
            failure = f"MLflow at {registry.shown} can't give the bundle of version {ref.version}"
            advice = "see its log, and whether its disk or bucket still has it"
            raise ServiceError(f"{failure}; {advice}.") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
