"""Which products a version can name, read from two small files of its bundle instead of all of it."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from skumatch.errors import BundleError, ServiceError
from skumatch.release.bundle import MANIFEST
from skumatch.release.bundle.manifest import LABELS, read_manifest
from skumatch.release.bundle.parts import read_object
from skumatch.release.registry import ModelRef, Registry


def nameable(registry: Registry, ref: ModelRef) -> frozenset[str]:
    """The SKUs in a version's gallery.

    Args:
        registry: the server that has the version.
        ref: the version.

    Raises:
        BundleError: the labels, or the manifest that names their hash, are not what was registered.
        ServiceError: the server has these files no more.
    """
    with tempfile.TemporaryDirectory() as folder:
        manifest, labels = (fetch_file(registry, ref, name, Path(folder)) for name in (MANIFEST, LABELS))
        registered = _sha256(manifest) == ref.bundle
        if not registered or _sha256(labels) != read_manifest(manifest.parent).parts[LABELS].sha256:
            where = f"the bundle of version {ref.version} on {registry.shown}"
            raise BundleError(
                f"The labels in {where} are not what was registered; see `skumatch audit {ref.version} --verify`."
            )
        return frozenset(read_object(labels).get("gallery_images", ()))


def fetch_file(registry: Registry, ref: ModelRef, name: str, folder: Path) -> Path:
    """Fetch one file of a version's bundle into `folder`, unverified, and return its path.

    Raises:
        ServiceError: the server has it no more.
    """
    with registry.client() as client:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        uri = f"{client.get_model_version_download_uri(registry.model_name, str(ref.version))}/artifacts/bundle/{name}"
        try:
            return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=registry.url))
        except (MlflowException, OSError) as error:
            what = f"MLflow at {registry.shown} can't give the bundle of version {ref.version}"
            raise ServiceError(
                f"{what}; see its log, and whether its disk or bucket still has it."
            ) from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
