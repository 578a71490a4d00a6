"""Versions of the registered model on the MLflow server, their aliases, and the promotion of one to champion."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from skumatch.errors import BundleError, ParameterError, ReferenceNotFound
from skumatch.release.bundle import MANIFEST, PARTS, bundle_hash, verify_bundle
from skumatch.release.bundle.manifest import WEIGHTS, read_manifest
from skumatch.release.journal import journal_name
from skumatch.release.mlflow_model import BUNDLE_TAG, about, upload, uploaded
from skumatch.release.tracking import DATA_TAG, Tracking, clean_tags, or_none, unless_existing

HERE = Path(__file__).parents[1]
CHAMPION, CHALLENGER, REFRESHED = "champion", "challenger", "refreshed"
TOP1_TAG, COMPARED_TAG = "skumatch.top1", "skumatch.compared_with"
ENCODER_TAG = "skumatch.encoder"  # SHA-256 of its weights
TRAINED_TAG = "skumatch.trained_in"  # of a model release that was judged again: the version that was trained
RELEASE_TAG = "skumatch.model_release"  # of a gallery release: the version that brought its encoder
ERASED_TAG = "skumatch.erased"  # of a version whose gallery held an erased picture: when, by whom, why
RESERVED_ALIAS = re.compile(r"latest|v?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class ModelRef:
    """One version of the registered model.

    `bundle` is its bundle's hash, `run_id` the MLflow run that made it.
    """

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


def model_release(registry: Registry, ref: ModelRef | None) -> ModelRef | None:
    """The version that brought the encoder of a gallery release.

    None for a model release, and where there is no version.

    Raises ReferenceNotFound if it was deleted.
    """
    brought = ref.tags.get(RELEASE_TAG) if ref else None
    return registry.resolve(brought) if brought else None


class Registry(Tracking):
    """One registered model on one MLflow server; runs are logged through it too (Tracking).

    `locks` is a folder shared by all who fetch bundles on this machine (default: the system's temporary
    folder).
    """

    def __init__(self, url: str, model_name: str = "skumatch", locks: Path | None = None) -> None:
        super().__init__(url)
        self.model_name = model_name
        key = hashlib.sha256(f"{self.url} {model_name}".encode()).hexdigest()[:16]
        self._lock_path = (locks or Path(tempfile.gettempdir())) / f"skumatch-{key}.download"

    def champion(self) -> ModelRef | None:
        with self.client() as client:
            version = self.aliases(client).get(CHAMPION)
            return None if version is None else self.version(client, version)

    def versions(self) -> list[ModelRef]:
        """Every version, newest first; empty before the first registration."""
        with self.client() as client:
            aliases = self.aliases(client)
            found = self._search(client, "")
        return sorted((_model_ref(version, aliases) for version in found), key=lambda ref: -ref.version)

    def resolve(self, ref: str) -> ModelRef:
        """The version named by an alias or a number. Raises ReferenceNotFound."""
        with self.client() as client:
            version = ref if ref.isdecimal() else self.aliases(client).get(ref)
            if version is None:
                raise self._not_found(ref)
            return self.version(client, version)

    def encoder(self, version: int | None) -> str | None:
        """SHA-256 of the weights of a version's encoder; None where there is no such version.

        A version that was registered before it was a tag has it in its bundle's manifest.
        """
        with self.client() as client:
            ref = or_none(client.get_model_version, self.model_name, str(version)) if version else None
            if ref is None:
                return None
            if ENCODER_TAG in ref.tags:
                return str(ref.tags[ENCODER_TAG])
            from mlflow.artifacts import download_artifacts

            uri = client.get_model_version_download_uri(self.model_name, str(version))
            with tempfile.TemporaryDirectory() as folder:
                file = download_artifacts(
                    artifact_uri=f"{uri}/artifacts/bundle/{MANIFEST}", dst_path=folder, tracking_uri=self.url
                )
                return read_manifest(Path(file).parent).parts[WEIGHTS].sha256

    def download_bundle(self, ref: ModelRef, folder: Path) -> Path:
        """Fetch the bundle into `folder`, whole and verified against the hash it was registered with, or not at all.

        Nothing is fetched if it is there already; a damaged bundle there is replaced. Raises BundleError if the registry's bytes
        changed or are gone or were erased, or `folder` holds other files.
        """
        if ERASED_TAG in ref.tags:
            what = f"Version {ref.version} of '{self.model_name}' can't serve or be rolled back to"
            raise BundleError(
                f"{what}: its gallery held a picture that was {ref.tags[ERASED_TAG]}; name another one."
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self._lock_path):  # two runs of one machine may want the same champion
            return folder if _holds(folder, ref.bundle) else self._download(ref, folder)

    def _download(self, ref: ModelRef, folder: Path) -> Path:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
            with self.client() as client:
                from mlflow.artifacts import download_artifacts, list_artifacts

                uri = (
                    client.get_model_version_download_uri(self.model_name, str(ref.version))
                    + "/artifacts/bundle"
                )
                if not list_artifacts(artifact_uri=uri, tracking_uri=self.url):
                    what = f"MLflow at {self.shown} has no files of version {ref.version} of '{self.model_name}' any more"
                    raise BundleError(
                        f"{what}; restore its artifacts from a backup, or promote another version."
                    )
                found = Path(download_artifacts(artifact_uri=uri, dst_path=aside, tracking_uri=self.url))
            verify_bundle(found, ref.bundle)
            if folder.exists():
                shutil.rmtree(folder)
            found.rename(folder)
        return folder

    def register(
        self,
        folder: Path,
        run_id: str,
        tags: Mapping[str, str],
        description: str,
        package: Path | None = None,
        card: Path | None = None,
    ) -> int:
        """Make the bundle in `folder` a version, as an MLflow model that matches by itself.

        Return the version.

        A bundle that already is a version stays that version and nothing is written. `run_id` is the MLflow
        run that log_run returned, `package` the skumatch that the model carries (default: the one that runs
        here), `card` its model card. Raises BundleError for an incomplete bundle. A call that was cut off
        goes on where it stopped.
        """
        verify_bundle(folder)
        digest = bundle_hash(folder)
        with self.client() as client:
            if not self._of_bundle(client, digest):
                model_id = uploaded(client, run_id, digest) or upload(
                    client, run_id, folder, digest, package or HERE, card
                )
                self._make_model(client)
                client.create_model_version(
                    self.model_name, f"models:/{model_id}", run_id, tags=clean_tags(tags) | {BUNDLE_TAG: digest}, description=description,
                    await_creation_for=0, model_id=model_id,
                )  # fmt: skip
            return self._settled(client, digest)

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version that may change, such as the champion that it was compared with last."""
        with self.client() as client:
            known = self.version(client, str(version)).tags
            for name, value in clean_tags(tags).items():
                if known.get(name) != value:
                    client.set_model_version_tag(self.model_name, str(version), name, value)

    def _make_model(self, client: Any) -> None:
        unless_existing(client.create_registered_model, self.model_name)
        if not client.get_registered_model(self.model_name).description:  # someone's own words stay
            client.update_registered_model(self.model_name, about(journal_name(self.model_name), self.shown))

    def _settled(self, client: Any, digest: str) -> int:
        """The one version of a bundle: the first.

        Others, made at the same time by machines that didn't see each other, are deleted.

        MLflow hands out numbers one by one, so whoever looks after making a version sees all that were made
        before, and all agree on the first. What a killed call left is deleted by the next; what an alias
        names stays.
        """
        first, *others = self._of_bundle(client, digest)
        named = self.aliases(client).values() if others else ()
        for version in others:
            if str(version) not in named:
                or_none(client.delete_model_version, self.model_name, str(version))
        return first

    def _of_bundle(self, client: Any, digest: str) -> list[int]:
        return sorted(
            int(version.version) for version in self._search(client, f" and tags.`{BUNDLE_TAG}` = '{digest}'")
        )

    def set_alias(self, alias: str, version: int) -> None:
        """Point an alias at a version.

        The champion is moved by promotion.py only. Raises ParameterError, ReferenceNotFound.
        """
        assert alias != CHAMPION, "a promotion compares before it sets the champion"
        if RESERVED_ALIAS.fullmatch(alias):
            raise ParameterError(f"MLflow keeps the alias '{alias}' for itself; take another name.")
        with self.client() as client:
            self.version(client, str(version))
            client.set_registered_model_alias(self.model_name, alias, str(version))

    def aliases(self, client: Any) -> dict[str, str]:
        """Alias -> version; empty before the first registration."""
        model = or_none(client.get_registered_model, self.model_name)
        return {alias: str(version) for alias, version in model.aliases.items()} if model else {}

    def version(self, client: Any, version: str) -> ModelRef:
        found = or_none(client.get_model_version, self.model_name, version)
        if found is None:
            raise self._not_found(f"version {version}")
        return _model_ref(found, self.aliases(client))

    def _not_found(self, what: str) -> ReferenceNotFound:
        return ReferenceNotFound(
            f"The model '{self.model_name}' on {self.shown} has no {what}; `skumatch models` lists what there is."
        )

    def _search(self, client: Any, more: str) -> list[Any]:
        return list(client.search_model_versions(f"name = '{self.model_name}'{more}", max_results=10_000))


def _holds(folder: Path, digest: str) -> bool:
    """Whether `folder` holds that bundle, whole. Raises BundleError if what it holds is no bundle of ours."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    strangers = {path.name for path in folder.iterdir()} - {
        Path(name).parts[0] for name in (MANIFEST, *PARTS)
    }
    if strangers:
        raise BundleError(
            f"{folder} holds other files ({min(strangers)}); give an empty folder for the bundle."
        )
    try:
        verify_bundle(folder, digest)
    except BundleError:
        return False
    return True


def _model_ref(found: Any, aliases: Mapping[str, str]) -> ModelRef:
    version, tags = str(found.version), dict(found.tags)
    named = tuple(sorted(alias for alias, target in aliases.items() if target == version))
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return ModelRef(int(version), tags.get(BUNDLE_TAG, ""), found.run_id or "", created, named, tags)
