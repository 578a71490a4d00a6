"""Versions of the registered model on the MLflow server, their aliases, and the promotion of one to champion."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from skumatch.errors import BundleError, ParameterError, ReferenceNotFound, StaleChampion, StorageError
from skumatch.release.bundle import MANIFEST, PARTS, bundle_hash, verify_bundle
from skumatch.release.tracking import DATA_TAG, Tracking, clean_tags, unless_existing

HERE = Path(__file__).parents[1]
CHAMPION, CHALLENGER = "champion", "challenger"
BUNDLE_TAG, TOP1_TAG = "skumatch.bundle", "skumatch.top1"
LOCK_SECONDS = 60.0
RESERVED_ALIAS = re.compile(r"latest|v?\d+", re.IGNORECASE)
MODEL_PACKAGES = (
    "mlflow", "numpy", "open-clip-torch", "pandas", "pillow", "pyarrow", "pydantic", "pydantic-settings", "pyyaml", "rich", "safetensors",
    "timm", "torch", "torchvision",
)  # fmt: skip


@dataclass(frozen=True)
class ModelRef:
    """One version of the registered model; `bundle` is its bundle's hash, `run_id` the MLflow run that made it."""

    version: int
    bundle: str
    run_id: str
    created: datetime
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def top1(self) -> float | None:
        return float(self.tags[TOP1_TAG]) if TOP1_TAG in self.tags else None

    @property
    def data(self) -> str | None:
        return self.tags.get(DATA_TAG)


class Registry(Tracking):
    """One registered model on one MLflow server; runs are logged through it too (Tracking).

    `locks` is a folder shared by all who promote on this machine (default: the system's temporary folder).
    """

    def __init__(self, url: str, model_name: str = "skumatch", locks: Path | None = None) -> None:
        super().__init__(url)
        self.model_name = model_name
        key = hashlib.sha256(f"{self.url} {model_name}".encode()).hexdigest()[:16]
        self._lock_path = (locks or Path(tempfile.gettempdir())) / f"skumatch-{key}.lock"

    def champion(self) -> ModelRef | None:
        with self.client() as client:
            version = self._aliases(client).get(CHAMPION)
            return None if version is None else self._version(client, version)

    def versions(self) -> list[ModelRef]:
        """Every version, newest first; empty before the first registration."""
        with self.client() as client:
            aliases = self._aliases(client)
            found = self._search(client, "")
        return sorted((_model_ref(version, aliases) for version in found), key=lambda ref: -ref.version)

    def resolve(self, ref: str) -> ModelRef:
        """The version named by an alias or a number. Raises ReferenceNotFound."""
        with self.client() as client:
            version = ref if ref.isdecimal() else self._aliases(client).get(ref)
            if version is None:
                raise self._not_found(ref)
            return self._version(client, version)

    def download_bundle(self, ref: ModelRef, folder: Path) -> Path:
        """Fetch the bundle into `folder`, whole and verified against the hash it was registered with, or not at all.

        Nothing is fetched if it is there already; a damaged bundle there is replaced. Raises BundleError if the registry's bytes
        changed or `folder` holds other files.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self._lock_path.with_suffix(".download")):  # two runs of one machine may want the same champion
            return folder if _holds(folder, ref.bundle) else self._download(ref, folder)

    def _download(self, ref: ModelRef, folder: Path) -> Path:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
            with self.client() as client:
                from mlflow.artifacts import download_artifacts

                uri = client.get_model_version_download_uri(self.model_name, str(ref.version)) + "/artifacts/bundle"
                found = Path(download_artifacts(artifact_uri=uri, dst_path=aside, tracking_uri=self.url))
            verify_bundle(found, ref.bundle)
            if folder.exists():
                shutil.rmtree(folder)
            found.rename(folder)
        return folder

    def register(self, folder: Path, run_id: str, tags: Mapping[str, str], description: str, package: Path | None = None) -> int:
        """Make the bundle in `folder` a version, as an MLflow model that matches by itself; return the version.

        A bundle that already is a version stays that version and nothing is written. `run_id` is the MLflow run that
        log_run returned, `package` the skumatch that the model carries (default: the one that runs here). Raises BundleError for an
        incomplete bundle. A call that was cut off goes on where it stopped.
        """
        verify_bundle(folder)
        digest = bundle_hash(folder)
        with self.client() as client, self._locked():
            found = self._search(client, f" and tags.`{BUNDLE_TAG}` = '{digest}'")
            if found:
                return min(int(version.version) for version in found)
            model_id = _uploaded(client, run_id, digest) or _upload(client, run_id, folder, digest, package or HERE)
            unless_existing(client.create_registered_model, self.model_name)
            made = client.create_model_version(
                self.model_name, f"models:/{model_id}", run_id, tags=clean_tags(tags) | {BUNDLE_TAG: digest}, description=description,
                await_creation_for=0, model_id=model_id,
            )  # fmt: skip
            return int(made.version)

    def set_alias(self, alias: str, version: int) -> None:
        """Point an alias at a version. The champion is set by promote() only. Raises ParameterError, ReferenceNotFound."""
        assert alias != CHAMPION, "promote() compares before it sets the champion"
        if RESERVED_ALIAS.fullmatch(alias):
            raise ParameterError(f"MLflow keeps the alias '{alias}' for itself; take another name.")
        with self.client() as client:
            self._version(client, str(version))
            client.set_registered_model_alias(self.model_name, alias, str(version))

    def promote(self, version: int, expected_champion: int | None) -> ModelRef:
        """Make `version` the champion by one alias write, if the champion still is the one it was compared with.

        MLflow has no compare-and-set, so promoters of one machine exclude each other by a lock file and read the champion
        again inside it. Promoting the champion again does nothing. Raises StaleChampion, ReferenceNotFound.
        """
        with self.client() as client, self._locked():
            wanted = self._version(client, str(version))
            current = self._aliases(client).get(CHAMPION)
            if current == str(version):
                return wanted
            if current != (None if expected_champion is None else str(expected_champion)):
                now = "There is no champion now" if current is None else f"The champion is now version {current}"
                then = "none" if expected_champion is None else f"version {expected_champion}"
                raise StaleChampion(f"{now}, but version {version} was compared with {then}; retrain to compare again.")
            client.set_registered_model_alias(self.model_name, CHAMPION, str(version))
            return self._version(client, str(version))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self._lock_path, timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise StorageError(
                f"Another skumatch holds {self._lock_path} for {LOCK_SECONDS:.0f} s; wait for it, then run again."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _aliases(self, client: Any) -> dict[str, str]:
        """Alias -> version; empty before the first registration."""
        model = _or_none(client.get_registered_model, self.model_name)
        return {alias: str(version) for alias, version in model.aliases.items()} if model else {}

    def _version(self, client: Any, version: str) -> ModelRef:
        found = _or_none(client.get_model_version, self.model_name, version)
        if found is None:
            raise self._not_found(f"version {version}")
        return _model_ref(found, self._aliases(client))

    def _not_found(self, what: str) -> ReferenceNotFound:
        return ReferenceNotFound(f"The model '{self.model_name}' on {self.shown} has no {what}; `skumatch models` lists what there is.")

    def _search(self, client: Any, more: str) -> list[Any]:
        return list(client.search_model_versions(f"name = '{self.model_name}'{more}", max_results=10_000))


def _holds(folder: Path, digest: str) -> bool:
    """Whether `folder` holds that bundle, whole. Raises BundleError if what it holds is no bundle of ours."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    strangers = {path.name for path in folder.iterdir()} - {Path(name).parts[0] for name in (MANIFEST, *PARTS)}
    if strangers:
        raise BundleError(f"{folder} holds other files ({min(strangers)}); give an empty folder for the bundle.")
    try:
        verify_bundle(folder, digest)
    except BundleError:
        return False
    return True


def _or_none(call: Any, *names: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return call(*names)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _model_ref(found: Any, aliases: Mapping[str, str]) -> ModelRef:
    version, tags = str(found.version), dict(found.tags)
    named = tuple(sorted(alias for alias, target in aliases.items() if target == version))
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return ModelRef(int(version), tags.get(BUNDLE_TAG, ""), found.run_id or "", created, named, tags)


def _uploaded(client: Any, run_id: str, digest: str) -> str | None:
    """The model that an interrupted call had uploaded in full."""
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], filter_string=f"tags.`{BUNDLE_TAG}` = '{digest}'")
    return next((str(model.model_id) for model in found if model.source_run_id == run_id and model.status.value == "READY"), None)


def _upload(client: Any, run_id: str, folder: Path, digest: str, package: Path) -> str:
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, "bundle", run_id, tags={BUNDLE_TAG: digest})
    with tempfile.TemporaryDirectory() as staged:
        client.log_model_artifacts(model.model_id, str(_save_model(Path(staged), folder, digest, run_id, model.model_id, package)))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _save_model(staged: Path, folder: Path, digest: str, run_id: str, model_id: str, package: Path) -> Path:
    """Lay out the MLflow model: the bundle, the package's code and the exact packages; nothing inferred, nothing pickled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow warns of its own type hints when imported
        import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    shutil.copytree(folder, staged / "bundle")  # MLflow records the paths it is given: let them be none of this machine's homes
    shutil.copyfile(package / "release" / "pyfunc.py", staged / "pyfunc.py")
    lists = [
        ColSpec(Array(DataType.string), "skus"),
        ColSpec(Array(DataType.double), "similarities"),
        ColSpec(Array(DataType.string), "gallery_ids"),
    ]
    signature = ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "image")]),
        outputs=Schema([*lists, ColSpec(DataType.boolean, "unknown")]),
        params=ParamSchema([ParamSpec("top_k", DataType.long, 5)]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it wants an input example, would run it, and learn nothing
        mlflow.pyfunc.save_model(
            path=str(staged / "model"),
            python_model=str(staged / "pyfunc.py"),
            artifacts={"bundle": str(staged / "bundle")},
            code_paths=[str(package)],
            pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in MODEL_PACKAGES],
            signature=signature,
            model_config={"bundle": digest},
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )
    return staged / "model"
