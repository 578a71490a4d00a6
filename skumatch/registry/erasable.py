"""Find and delete the files in MLflow that hold pictures or their vectors, and mark their versions.

These files are galleries among the artifacts of models, and pages with small pictures among those of runs.
Runs that were removed in MLflow still have their artifacts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from skumatch.bundle.manifest import GALLERY
from skumatch.files import md5
from skumatch.registry.champion_state import CHAMPION
from skumatch.registry.holdings import pages as pages_of
from skumatch.registry.mlflow_model import BUNDLE_TAG
from skumatch.registry.registry import ERASED_TAG
from skumatch.registry.tracking import (
    DATA_TAG,
    EXPERIMENT,
    INPUTS_TAG,
    LOCK_NAME,
    RUN_TAG,
    STAGE_TAG,
    Tracking,
    clean_tags,
)

PAGE = 100
REPORT = "report"  # the folder of a run's artifacts that the stage `report` fills
PLACE = f"artifacts/bundle/{GALLERY}"  # within a logged model


@dataclass(frozen=True)
class Release:
    """A registered version of any model.

    Attributes:
        model: name of the registered model.
        version: its number.
        data: hash of its data version.
        inputs: MD5 of its input set; empty if not recorded.
        bundle: hash of its bundle; empty if not recorded.
        champion: whether it is its model's champion.
        erased: whether its gallery was erased.
    """

    model: str
    version: int
    data: str
    inputs: str
    bundle: str
    champion: bool
    erased: bool


@dataclass(frozen=True)
class Artifact:
    """A file that MLflow keeps.

    Attributes:
        place: address of the folder of artifacts.
        path: path below that address.
        size: size in bytes; 0 if unknown.
    """

    place: str
    path: str
    size: int

    @property
    def name(self) -> str:
        """The file's full address."""
        return f"{self.place}/{self.path}"


@dataclass(frozen=True)
class KeptGallery:
    """The gallery of a bundle in MLflow.

    Attributes:
        artifact: the file.
        bundle: hash of the bundle.
        data: hash of the data version that it was made of.
        md5: MD5 of the file.
        ids: ids of its pictures.
    """

    artifact: Artifact
    bundle: str
    data: str
    md5: str
    ids: frozenset[str]


@dataclass(frozen=True)
class KnownRun:
    """A run that MLflow knows, removed ones included.

    Attributes:
        id: its MLflow id.
        name: skumatch's name of the run; empty if not recorded.
        data: hash of its data version.
        lock: the text of its dvc.lock; empty if it has none.
    """

    id: str
    name: str
    data: str
    lock: str


def releases(tracking: Tracking) -> list[Release]:
    """Return every registered version, of all models, that names its data version."""
    with tracking.client() as client:
        every_version = pages_of(
            lambda token: client.search_model_versions("", max_results=PAGE, page_token=token)
        )
        versions = [version for version in every_version if DATA_TAG in version.tags]
        names = {version.name for version in versions}
        champions = {name: client.get_registered_model(name).aliases.get(CHAMPION) for name in names}
    return [
        Release(
            model=version.name,
            version=int(version.version),
            data=version.tags[DATA_TAG],
            inputs=version.tags.get(INPUTS_TAG, ""),
            bundle=version.tags.get(BUNDLE_TAG, ""),
            champion=str(version.version) == str(champions[version.name]),
            erased=ERASED_TAG in version.tags,
        )
        for version in versions
    ]


def runs(tracking: Tracking) -> list[KnownRun]:
    """Return every run that names its data version, removed ones included."""
    with tracking.client() as client:
        return [_known(client, run) for run in _runs(client)]


def galleries(tracking: Tracking, data: Collection[str]) -> list[KeptGallery]:
    """Return the galleries in MLflow of all bundles that were made of these data versions."""
    with tracking.client() as client, tempfile.TemporaryDirectory() as folder:
        made_of = {run.info.run_id: run.data.tags[DATA_TAG] for run in _runs(client)}
        kept: list[KeptGallery] = []
        for model in _logged_models(client):
            version = made_of.get(model.source_run_id)
            if version not in data or BUNDLE_TAG not in model.tags:
                continue
            store = _store(tracking, model.artifact_location)
            parent = PLACE.rpartition("/")[0]
            for item in store.list_artifacts(parent):
                if item.path.endswith(f"/{GALLERY}"):
                    path = Path(store.download_artifacts(item.path, folder))
                    ids = frozenset(pq.read_table(path, columns=["id"])["id"].to_pylist())
                    artifact = Artifact(model.artifact_location, PLACE, item.file_size or 0)
                    kept.append(KeptGallery(artifact, model.tags[BUNDLE_TAG], str(version), md5(path), ids))
                    path.unlink()
        return kept


def pages(tracking: Tracking, data: Collection[str]) -> list[Artifact]:
    """Return the HTML pages, which show small pictures, of all runs that used one of these data versions.

    These are reports, and the pages of stages that refused their data.
    """
    with tracking.client() as client:
        kept: list[Artifact] = []
        for run in _runs(client):
            if run.data.tags[DATA_TAG] in data:
                store = _store(tracking, run.info.artifact_uri)
                for folder in (REPORT, run.data.tags.get(STAGE_TAG, REPORT)):
                    html = (item for item in store.list_artifacts(folder) if item.path.endswith(".html"))
                    kept += [Artifact(run.info.artifact_uri, item.path, item.file_size or 0) for item in html]
        return list(dict.fromkeys(kept))


def remove(tracking: Tracking, artifact: Artifact) -> None:
    """Delete a file, if it still exists."""
    with tracking.client():
        store = _store(tracking, artifact.place)
        parent = artifact.path.rpartition("/")[0]
        if any(item.path == artifact.path for item in store.list_artifacts(parent)):
            store.delete_artifacts(artifact.path)


def mark(tracking: Tracking, model: str, version: int, words: str) -> None:
    """Record in a version's tags that its gallery was erased; the registry refuses to fetch it then.

    Args:
        tracking: the server.
        model: name of the registered model.
        version: the version's number.
        words: date, person and reason of the erasure, for sentences.
    """
    with tracking.client() as client:
        for name, value in clean_tags({ERASED_TAG: words}).items():
            client.set_model_version_tag(model, str(version), name, value)


def _runs(client: Any) -> Iterator[Any]:
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        place, removed_too = [experiment.experiment_id], ViewType.ALL
        every = pages_of(lambda token: client.search_runs(place, "", removed_too, PAGE, page_token=token))
        yield from (run for run in every if DATA_TAG in run.data.tags)


def _logged_models(client: Any) -> Iterator[Any]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        place = [experiment.experiment_id]
        every = pages_of(lambda token: client.search_logged_models(place, max_results=PAGE, page_token=token))
        yield from every


def _known(client: Any, run: Any) -> KnownRun:
    tags = run.data.tags
    return KnownRun(run.info.run_id, tags.get(RUN_TAG, ""), tags[DATA_TAG], _lock(client, run))


def _lock(client: Any, run: Any) -> str:
    if not any(item.path == LOCK_NAME for item in client.list_artifacts(run.info.run_id)):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run.info.run_id, LOCK_NAME, folder)).read_text("utf-8")


def _store(tracking: Tracking, place: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(place, tracking_uri=tracking.url)
