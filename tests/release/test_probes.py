"""Small questions to a real MLflow server, and to one whose disk refuses."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from skumatch.bundle import bundle_hash
from skumatch.errors import BundleError, ServiceError
from skumatch.registry.labels import nameable
from skumatch.registry.probes import manifest_hash, server_version, try_artifacts
from skumatch.registry.registry import Registry
from skumatch.registry.tracking import Tracking
from tests.conftest import free_port, serving_mlflow

pytestmark = pytest.mark.live


def test_artifacts_are_tried_and_nothing_stays(tmp_path: Path) -> None:
    with serving_mlflow(tmp_path, free_port()) as url:
        tracking = Tracking(url)
        assert server_version(tracking) == version("mlflow")
        assert try_artifacts(tracking) == "mlflow-artifacts:/"
        tracking.log_run("run", {}, {}, {}, {})
        assert try_artifacts(tracking) == "mlflow-artifacts:/1"
        assert not [
            path for path in (tmp_path / "artifacts").rglob("*") if path.is_file() or "doctor" in path.name
        ]
        (tmp_path / "artifacts").rename(tmp_path / "aside")
        (tmp_path / "artifacts").write_text("in the way")
        with pytest.raises(
            ServiceError,
            match="can't write, give back or delete artifacts in mlflow-artifacts:/1; see its log",
        ):
            try_artifacts(tracking)


def newest(mlflow_home: Path, part: str) -> Path:
    """Return the server's copy of a bundle's part that was written last."""
    return max((mlflow_home / "artifacts").rglob(f"bundle/{part}"), key=lambda path: path.stat().st_mtime_ns)


def test_a_bundle_s_list_of_parts_is_what_was_registered_until_it_is_changed(
    registry: Registry, run_id: str, bundle: Path, mlflow_home: Path
) -> None:
    ref = registry.resolve(str(registry.register(bundle, run_id, {}, "")))
    assert manifest_hash(registry, ref) == ref.bundle == bundle_hash(bundle)
    kept = newest(mlflow_home, "bundle.json")
    kept.write_bytes(kept.read_bytes() + b" ")
    assert manifest_hash(registry, ref) != ref.bundle
    kept.unlink()
    with pytest.raises(ServiceError, match="can't give the bundle of version 1; see its log"):
        manifest_hash(registry, ref)


def test_the_products_of_a_version_are_read_without_its_bundle(
    registry: Registry, run_id: str, bundle: Path, mlflow_home: Path
) -> None:
    ref = registry.resolve(str(registry.register(bundle, run_id, {}, "")))
    images = json.loads((bundle / "labels.json").read_text("utf-8"))["gallery_images"]
    assert nameable(registry, ref) == set(images)
    kept = max(
        (mlflow_home / "artifacts").rglob("bundle/labels.json"), key=lambda path: path.stat().st_mtime_ns
    )
    kept.write_text(json.dumps({"gallery_images": images | {"no such product": 1}}), "utf-8")
    with pytest.raises(BundleError, match="labels in the bundle of version .* are not what was registered"):
        nameable(registry, ref)
    kept.unlink()
    with pytest.raises(ServiceError, match="can't give the bundle of version .; see its log"):
        nameable(registry, ref)
