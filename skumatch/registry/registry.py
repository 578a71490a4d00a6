"""Versions of the registered model on the MLflow server, their bundles, tags and aliases."""

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

from skumatch.bundle import MANIFEST, PARTS, bundle_hash, verify_bundle
from skumatch.bundle.manifest import WEIGHTS, read_manifest
from skumatch.errors import BundleError, ParameterError, ReferenceNotFound
from skumatch.registry.champion_state import CHAMPION, ChampionState, champion_state
from skumatch.registry.gate_figures import FIGURES_TAG, GateFigures, read_figures
from skumatch.registry.journal import Journal, journal_name
from skumatch.registry.mlflow_model import BUNDLE_TAG, about, upload, uploaded
from skumatch.registry.tracking import (
    DATA_TAG,
    Tracking,
    clean_tags,
    described_model,
    or_none,
)
from skumatch.texts import did_you_mean, visible

HERE = Path(__file__).parents[1]
CHALLENGER, REFRESHED = "challenger", "refreshed"
TOP1_TAG, COMPARED_TAG = "skumatch.top1", "skumatch.compared_with"
ENCODER_TAG = "skumatch.encoder"  # SHA-256 of its weights
TRAINED_TAG = "skumatch.trained_in"  # of a model release that was judged again: the version that was trained
RELEASE_TAG = "skumatch.model_release"  # of a gallery release: the version that brought its encoder
ERASED_TAG = "skumatch.erased"  # of a version whose gallery held an erased picture: date, person, reason
RESERVED_ALIAS = re.compile(r"latest|v?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class ModelRef:
    """One version of the registered model.

    Attributes:
        version: its number.
        bundle: hash of its bundle.
        run_id: the MLflow run that made it.
        created: time of its registration.
        aliases: the aliases that point at it, sorted.
        tags: its tags.
    """

    version: int
    bundle: str
    run_id: str
    created: datetime
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def top1(self) -> float | None:
        """The top-1 that the gate saw, 0 to 1; None without its tag."""
        return float(self.tags[TOP1_TAG]) if TOP1_TAG in self.tags else None

    @property
    def figures(self) -> GateFigures | None:
        """What the gate measured of it; None for a version from before that was recorded."""
        return read_figures(self.tags.get(FIGURES_TAG))

    @property
    def data(self) -> str | None:
        """MD5 of the data version that it was made of; None without its tag."""
        return self.tags.get(DATA_TAG)


def model_release(registry: Registry, ref: ModelRef | None) -> ModelRef | None:
    """Return the version that brought the encoder of a gallery release.

    Returns:
        None for a model release, and for no version.

    Raises:
        ReferenceNotFound: that version was deleted.
    """
    version = ref.tags.get(RELEASE_TAG) if ref else None
    return registry.resolve(version) if version else None


class Registry(Tracking):
    """One registered model on one MLflow server; runs are logged through it too (Tracking).

    Args:
        url: address of the server.
        model_name: name of the registered model.
        locks: folder for lock files that is shared by all processes which fetch bundles on this machine; None
            for the system's temporary folder.
    """

    def __init__(self, url: str, model_name: str = "skumatch", locks: Path | None = None) -> None:
        super().__init__(url)
        self.model_name = model_name
        key = hashlib.sha256(f"{self.url} {model_name}".encode()).hexdigest()[:16]
        self._lock_path = (locks or Path(tempfile.gettempdir())) / f"skumatch-{key}.download"

    def champion(self) -> ModelRef | None:
        """Return the version with the alias `champion`; None if there is none."""
        with self.client() as client:
            version = self.aliases(client).get(CHAMPION)
            return None if version is None else self.version(client, version)

    def champion_state(self) -> ChampionState:
        """Return whether a version serves, and why not where none does."""
        existing = [ref.version for ref in self.versions()]
        with self.client() as client:
            entries = Journal(client, self.model_name, lambda: None).entries()
            aliases = {alias: int(version) for alias, version in self.aliases(client).items()}
        champion, challenger = aliases.get(CHAMPION), aliases.get(CHALLENGER)
        return champion_state(self.model_name, champion, challenger, existing, entries)

    def versions(self) -> list[ModelRef]:
        """Return every version, newest first; none before the first registration."""
        with self.client() as client:
            aliases = self.aliases(client)
            versions = self._search(client, "")
        return sorted((_model_ref(version, aliases) for version in versions), key=lambda ref: -ref.version)

    def resolve(self, ref: str) -> ModelRef:
        """Return the version with an alias or a number.

        Raises:
            ReferenceNotFound: there is no such version; where there is no champion, the sentence says why.
        """
        with self.client() as client:
            aliases = {} if ref.isdecimal() else self.aliases(client)
            version = ref if ref.isdecimal() else aliases.get(ref)
            if version is None and ref == CHAMPION:
                state = self.champion_state()
                raise ReferenceNotFound(f"On {self.shown}, {state.sentence}; {state.cure}.")
            if version is None:
                raise self._not_found(ref, did_you_mean(ref, aliases))
            return self.version(client, version)

    def encoder(self, version: int | None) -> str | None:
        """Return the SHA-256 of the weights of a version's encoder; None where there is no such version.

        Older versions have no tag for it; there the hash is read from the bundle's manifest.
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
        """Fetch the bundle of a version into `folder`, and verify it against its registered hash.

        `folder` gets the whole bundle or nothing. Nothing is fetched if the bundle is there already; a
        damaged one is replaced.

        Raises:
            BundleError: the registry's bytes changed, are gone or were erased, or `folder` holds other files.
        """
        if ERASED_TAG in ref.tags:
            unusable = f"Version {ref.version} of '{self.model_name}' can't serve or be rolled back to"
            cause = f"its gallery held a picture that was {ref.tags[ERASED_TAG]}"
            raise BundleError(f"{unusable}: {cause}; name another one.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self._lock_path):  # two runs on one machine may fetch the same champion
            return folder if _holds(folder, ref.bundle) else self._download(ref, folder)

    def _download(self, ref: ModelRef, folder: Path) -> Path:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
            with self.client() as client:
                from mlflow.artifacts import download_artifacts, list_artifacts

                model_uri = client.get_model_version_download_uri(self.model_name, str(ref.version))
                uri = f"{model_uri}/artifacts/bundle"
                if not list_artifacts(artifact_uri=uri, tracking_uri=self.url):
                    version = f"version {ref.version} of '{self.model_name}'"
                    gone = f"MLflow at {self.shown} has no files of {version} any more"
                    advice = "restore its artifacts from a backup, or promote another version"
                    raise BundleError(f"{gone}; {advice}.")
                downloaded = Path(download_artifacts(artifact_uri=uri, dst_path=aside, tracking_uri=self.url))
            verify_bundle(downloaded, ref.bundle)
            if folder.exists():
                shutil.rmtree(folder)
            downloaded.rename(folder)
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
        """Register the bundle in `folder` as a version, as an MLflow model that matches by itself.

        A bundle that already is a version keeps its number and nothing is written. After an interrupted call
        the next one continues where that stopped.

        Args:
            folder: folder of the bundle.
            run_id: the MLflow run that made it, as log_run returned it.
            tags: tags of the version; credentials are cut out of their values.
            description: description of the version.
            package: folder of the package skumatch that the model carries; None for the running one.
            card: file of the model card.

        Returns:
            The version's number.

        Raises:
            BundleError: the bundle is incomplete.
        """
        verify_bundle(folder)
        digest = bundle_hash(folder)
        with self.client() as client:
            if not self._of_bundle(client, digest):
                model_id = uploaded(client, run_id, digest) or upload(
                    client, run_id, folder, digest, package or HERE, card
                )
                described_model(client, self.model_name, about(journal_name(self.model_name)))
                client.create_model_version(
                    self.model_name, f"models:/{model_id}", run_id, description=description,
                    tags=clean_tags(tags) | {BUNDLE_TAG: digest}, await_creation_for=0, model_id=model_id,
                )  # fmt: skip
            return self._settled(client, digest)

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        """Set changeable tags of a version, such as the champion that it was compared with last."""
        with self.client() as client:
            known = self.version(client, str(version)).tags
            for name, value in clean_tags(tags).items():
                if known.get(name) != value:
                    client.set_model_version_tag(self.model_name, str(version), name, value)

    def _settled(self, client: Any, digest: str) -> int:
        """Return the first version of a bundle and delete the others, except those with an alias.

        Several versions arise if machines register the same bundle at the same time, or if a call is killed.
        MLflow numbers versions one by one. A machine that searches after it made its version sees all earlier
        ones, so all machines agree on the first.
        """
        first, *others = self._of_bundle(client, digest)
        aliased = self.aliases(client).values() if others else ()
        for version in others:
            if str(version) not in aliased:
                or_none(client.delete_model_version, self.model_name, str(version))
        return first

    def _of_bundle(self, client: Any, digest: str) -> list[int]:
        return sorted(
            int(version.version) for version in self._search(client, f" and tags.`{BUNDLE_TAG}` = '{digest}'")
        )

    def set_alias(self, alias: str, version: int) -> None:
        """Point an alias other than `champion`, which only promotion/promotion.py moves, at a version.

        Raises:
            ParameterError: MLflow reserves the alias.
            ReferenceNotFound: there is no such version.
        """
        assert alias != CHAMPION, "a promotion compares before it sets the champion"
        if RESERVED_ALIAS.fullmatch(alias):
            raise ParameterError(f"MLflow keeps the alias '{alias}' for itself; take another name.")
        with self.client() as client:
            self.version(client, str(version))
            client.set_registered_model_alias(self.model_name, alias, str(version))

    def aliases(self, client: Any) -> dict[str, str]:
        """Return the version that each alias points at; empty before the first registration."""
        model = or_none(client.get_registered_model, self.model_name)
        return {alias: str(version) for alias, version in model.aliases.items()} if model else {}

    def version(self, client: Any, version: str) -> ModelRef:
        """Return the version with a number.

        Raises:
            ReferenceNotFound: there is no such version.
        """
        record = or_none(client.get_model_version, self.model_name, version)
        if record is None:
            raise self._not_found(f"version {version}")
        return _model_ref(record, self.aliases(client))

    def _not_found(self, reference: str, hint: str = "") -> ReferenceNotFound:
        lacks = f"The model '{self.model_name}' on {self.shown} has no {visible(reference)}"
        return ReferenceNotFound(f"{hint}{lacks}; `skumatch models` lists what there is.")

    def _search(self, client: Any, condition: str) -> list[Any]:
        query = f"name = '{self.model_name}'{condition}"
        return list(client.search_model_versions(query, max_results=10_000))


def _holds(folder: Path, digest: str) -> bool:
    """Return whether `folder` holds the whole bundle with that hash.

    Raises:
        BundleError: the folder holds files that are no part of a bundle.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return False
    expected = {Path(name).parts[0] for name in (MANIFEST, *PARTS)}
    strangers = {path.name for path in folder.iterdir()} - expected
    if strangers:
        raise BundleError(
            f"{folder} holds other files ({min(strangers)}); give an empty folder for the bundle."
        )
    try:
        verify_bundle(folder, digest)
    except BundleError:
        return False
    return True


def _model_ref(record: Any, aliases: Mapping[str, str]) -> ModelRef:
    version, tags = str(record.version), dict(record.tags)
    return ModelRef(
        version=int(version),
        bundle=tags.get(BUNDLE_TAG, ""),
        run_id=record.run_id or "",
        created=datetime.fromtimestamp(record.creation_timestamp / 1000, UTC),
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == version)),
        tags=tags,
    )
