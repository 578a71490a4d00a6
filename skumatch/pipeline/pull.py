"""The task `pull`: resolve a run's data, champion, weights, code and parameters, and store its input set."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from skumatch.config import Settings, check_approval, expanded, load_params
from skumatch.errors import BundleError, NothingNew, ReferenceNotFound, ServiceError, WeightsError
from skumatch.files import sha256
from skumatch.lineage.provenance import check_signing_key
from skumatch.model.fetched import fetched_weights
from skumatch.params import Params
from skumatch.pipeline import inputs, refusals
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.erasure_record import refuse_erased_data
from skumatch.pipeline.message import Kind, Message, run_name
from skumatch.pipeline.repository import md5_of
from skumatch.promotion import waiting
from skumatch.promotion.promotion import withdrawn
from skumatch.registry.registry import COMPARED_TAG, ERASED_TAG, ModelRef, Registry, model_release
from skumatch.registry.tracking import DATA_TAG, INPUTS_TAG, VERDICT_TAG, VERSION_TAG, Tracking
from skumatch.stages import artefacts
from skumatch.started import check_mlflow


class RunRequest(BaseModel):
    """The request for a run.

    Attributes:
        run: the run's id.
        kind: `retrain` trains a new encoder; `refresh` makes a new gallery with the champion's encoder.
        encoder: in a refresh, the version whose encoder is judged again beside the champion's.
        data_ref: a git ref of data.dvc; None for that of the working tree.
        overrides: of parameters, each `section.name=value`.
        dry_run: register nothing.
        scheduled: a schedule or an event started the run. It then judges an encoder that waits to be judged
            again, and is skipped if nothing is new.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    kind: Kind = "retrain"
    encoder: int | None = None
    data_ref: str | None = None
    overrides: tuple[str, ...] = ()
    dry_run: bool = False
    scheduled: bool = False


def open_tracking(settings: Settings) -> Tracking:
    """Return the tracking server of the settings.

    Raises:
        RegistryUnavailable: The MLflow of this home is not up.
    """
    check_mlflow(settings)
    return Tracking(settings.mlflow_url)


def open_registry(settings: Settings, params: Params) -> Registry:
    """Return the registry of the model that the parameters name, with this machine's lock files.

    Raises:
        RegistryUnavailable: The MLflow of this home is not up.
    """
    check_mlflow(settings)
    return Registry(settings.mlflow_url, params.release.model_name, settings.home_dir / "locks")


def pull(settings: Settings, request: RunRequest) -> Message:
    """Resolve a run's inputs, store them as its input set, and return the message for its first stage.

    The inputs are data, champion, weights, code and parameters. They are resolved only here, so that all
    tasks of the run see the same ones.

    Raises:
        NothingNew: a scheduled run would see data that the last finished run saw, or that a stage refused.
        ReferenceNotFound: there is no champion to refresh, or somebody removed the one to compare with.
        ParameterError: the run's last task couldn't use the signing key.
        CodeError: git refuses, or the code can't be taken along.
        DataError: the data version lacks pictures since they were erased.
    """
    started = datetime.now(UTC)
    project, code = settings.project, inputs.read_code(settings.project)
    if code.trouble:
        print(code.trouble.warning)
    params = load_params(project / "params.yaml", request.overrides)
    check_approval(settings, params)
    check_signing_key(settings.signing_key_file)
    data = inputs.data_pointer(project, request.data_ref)
    refuse_erased_data(settings, md5_of(data))
    registry = open_registry(settings, params)
    tracking = open_tracking(settings)
    champion = registry.champion()
    baseline = fetch_baseline(settings, params, data, champion)
    others = {
        "champion": champion and champion.bundle,
        "baseline": baseline,
        "weights": _weights_key(settings, params),
    }
    basis = refusals.basis_of(request.kind, md5_of(data), code.facts()["sha256"], params, others)
    queued = None
    if request.scheduled:
        refusals.check_not_refused(settings, tracking, request.kind, basis)
        queued = _take_encoder(registry, request)
        if queued is None:
            _check_new(tracking, registry, request.kind, md5_of(data), champion)
    check_champion(registry, request.kind, champion)
    trained = queued.ref if queued else registry.resolve(str(request.encoder)) if request.encoder else None
    last = tracking.last_finished(request.kind)
    lock = (last.lock or "") if last else ""
    claim = at_work(settings, run_name(request.run), "pull", lock=lock)
    with claim as rest_on, tempfile.TemporaryDirectory(dir=_made(settings.home_dir / "workspaces")) as folder:
        fetched = inputs.Fetched(
            code=code,
            champion=None,
            weights=fetch_base_weights(settings, params) if request.kind == "retrain" else None,
            baseline=None,
            kind=request.kind,
            trained=fetch_bundle(settings, registry, trained),
        )
        for judged in (*champions_before(registry, request.kind, champion, md5_of(data)), champion):
            whole = replace(
                fetched,
                champion=fetch_bundle(settings, registry, judged),
                released=fetch_released(settings, registry, judged),
                baseline=fetch_baseline(settings, params, data, judged),
            )
            set_hash = inputs.build(Path(folder), project, settings, data, request.overrides, whole)
            if champion and champion.tags.get(INPUTS_TAG) == set_hash:
                break  # these are the inputs of the run that made the champion, so its results are known
        rest_on(set_hash, lock)
    return Message(
        run=request.run,
        started=started,
        by_itself=request.scheduled,
        kind=request.kind,
        encoder=trained.version if trained else None,
        approved_by=queued.approved_by if queued else "",
        others_wait_for="judgement" if queued and queued.others else "",
        basis=basis,
        inputs=set_hash,
        lock=lock,
        dry_run=request.dry_run,
        overrides=request.overrides,
        champion=judged.version if judged else None,
        data=md5_of(data),
    )


def champions_before(
    registry: Registry, kind: Kind, champion: ModelRef | None, data: str
) -> tuple[ModelRef, ...]:
    """Return the version that today's champion was compared with, if today's is a gallery of the same data.

    A refresh that follows its own release would read another champion than that run did, though nothing else
    changed. With the champion of that run it has the same inputs, and all results come from the cache.

    Args:
        registry: of the model.
        kind: of the run.
        champion: today's; None where there is none.
        data: MD5 of the run's data version.

    Returns:
        One version or none. It is empty for a retrain, and where erased pictures are in that version.
    """
    if kind != "refresh" or champion is None or champion.data != data:
        return ()
    compared = champion.tags.get(COMPARED_TAG, "none")
    versions = (ref for ref in registry.versions() if str(ref.version) == compared)
    return tuple(ref for ref in versions if ERASED_TAG not in ref.tags)


def _take_encoder(registry: Registry, request: RunRequest) -> waiting.Taken | None:
    """Take the next trained encoder that waits to be judged again; none for a retrain."""
    return waiting.take(registry, "judgement", request.run) if request.kind == "refresh" else None


def _check_new(
    tracking: Tracking, registry: Registry, kind: Kind, data: str, champion: ModelRef | None
) -> None:
    """Raise NothingNew if a run that a schedule or an event started has nothing to do.

    A retrain has nothing to do if the last finished retrain saw the same data.

    A refresh counts runs of both kinds, because a retrain judges the refreshed gallery, too. It has nothing
    to do if the last run saw the same data, and either made the champion or judged the champion's gallery
    without proposing a challenger. So a refresh goes on where a challenger waits for a person, or where
    another version became champion since. It doesn't bring back a gallery from which a person rolled back.

    Args:
        tracking: MLflow's runs.
        registry: of the model.
        kind: of the run.
        data: MD5 of the data version.
        champion: today's; None where there is none.
    """
    if kind == "refresh" and champion is None:
        if registry.champion_state().kind == "never":
            raise NothingNew("There is no champion yet whose gallery could be refreshed.")
        return
    if kind == "refresh" and data in withdrawn(registry):
        raise NothingNew(
            "A person rolled back from the gallery of this data; `skumatch refresh` brings it back."
        )
    last = tracking.last_finished("retrain" if kind == "retrain" else None, plain=True)
    if last and last.tags.get(DATA_TAG) == data and (kind == "retrain" or _judged(last.tags, champion)):
        cure = "nothing to do until a new version is committed"
        raise NothingNew(f"The data is the same as in the last finished run; {cure}.")


def _judged(tags: Mapping[str, str], champion: ModelRef | None) -> bool:
    """Return whether the run with these tags made the champion, or judged it and proposed no challenger."""
    version = str(champion.version) if champion else "none"
    if tags.get(VERSION_TAG) == version:
        return True
    return tags.get(COMPARED_TAG) == version and tags.get(VERDICT_TAG) != "promote"


def check_champion(registry: Registry, kind: Kind, champion: ModelRef | None) -> None:
    """Refuse a run that lacks the champion it needs.

    A refresh needs one. A retrain needs one if there was one and a rollback brings it or an earlier one back:
    without, a model would become champion by its floor alone, compared with nothing.

    Args:
        registry: of the model.
        kind: of the run.
        champion: today's; None where there is none.

    Raises:
        ReferenceNotFound: the champion is missing; the sentence says why, and what to do.
    """
    if champion is not None:
        return
    state = registry.champion_state()
    if kind == "refresh":
        raise ReferenceNotFound(
            f"There is no champion whose gallery could be refreshed: {state.sentence}; {state.cure}."
        )
    if state.kind != "never" and state.next is not None:
        raise ReferenceNotFound(f"There is no champion to compare with: {state.sentence}; {state.cure}.")


def fetch_bundle(settings: Settings, registry: Registry, ref: ModelRef | None) -> Path | None:
    """Fetch a version's bundle into this machine's cache, verified against its registered hash.

    Args:
        settings: this machine's settings.
        registry: of the version.
        ref: the version; None for none.

    Returns:
        The bundle's folder; None for no version.
    """
    return registry.download_bundle(ref, _made(settings.home_dir / "bundles") / ref.bundle) if ref else None


def fetch_released(settings: Settings, registry: Registry, champion: ModelRef | None) -> Path | None:
    """Fetch the bundle in which the champion's encoder was first released.

    If that can't be fetched, a refresh is compared with the champion alone, and a printed line says so.

    Args:
        settings: this machine's settings.
        registry: of the champion.
        champion: None where there is none.

    Returns:
        The bundle's folder; None where that release is the champion itself, or can't be fetched.
    """
    try:
        return fetch_bundle(settings, registry, model_release(registry, champion))
    except (ReferenceNotFound, BundleError) as error:
        fault = "The model release of the champion's encoder can't be fetched"
        print(f"{fault}, so it is compared with what serves alone: {error}")
        return None


def fetch_baseline(
    settings: Settings, params: Params, data: str, champion: ModelRef | None
) -> dict[str, Any] | None:
    """Fetch the profile of the data version that drift is measured against.

    It is the champion's data version. So many small changes of the data can't get through where one large
    change would not. If the champion was made from the same data, or its profile can't be read, it is the
    last other data version that passed, in a run of the same registered model. A rerun on the same data gets
    the same profile, so its results are cached.

    Args:
        settings: this machine's settings.
        params: the run's, with the name of the registered model.
        data: the text of data.dvc.
        champion: the version that serves; None where there is none.

    Returns:
        The profile; None if there is no such data version.
    """
    tracking = open_tracking(settings)
    if champion and champion.data not in (None, md5_of(data)):
        try:
            return dict(json.loads(tracking.artifact(champion.run_id, artefacts.PROFILE.logged())))
        except ServiceError as error:
            fault = f"The profile of version {champion.version} can't be read"
            print(f"{fault}, so drift is measured against the last run's: {error}")
    profile = tracking.earlier_version(md5_of(data), params.release.model_name, artefacts.PROFILE.logged())
    return None if profile is None else dict(json.loads(profile))


def fetch_base_weights(settings: Settings, params: Params) -> Path:
    """Fetch the encoder's base weights into this machine's cache, and return their folder.

    A local file of weights is hashed each time, because the folder's name depends on its content.
    """
    spec, local = params.encoder, settings.project / expanded(params.encoder.weights)
    if spec.weights.endswith(".safetensors"):
        spec = spec.model_copy(update={"weights": str(local)})
    folder = settings.home_dir / "weights" / _weights_key(settings, params)
    with FileLock(_made(settings.home_dir / "locks") / "weights.lock"):
        try:
            fetched_weights(folder)
        except WeightsError:  # not there yet, or damaged
            from skumatch.model.weights import fetch_weights  # torch takes seconds to import

            fetch_weights(spec, folder)
    return folder


def _weights_key(settings: Settings, params: Params) -> str:
    """Return a hash of the base weights' model and address, and of the content of a local file."""
    local = settings.project / expanded(params.encoder.weights)
    content = sha256(local) if local.is_file() else None
    return inputs.fingerprint([params.encoder.model, params.encoder.weights, content])[:32]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
