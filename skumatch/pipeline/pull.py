"""pull: resolve data, champion, weights, code and parameters once, and store them as the run's input set."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from skumatch.config import Settings, check_approval, expanded, load_params
from skumatch.errors import BundleError, NothingNew, ReferenceNotFound, ServiceError, WeightsError
from skumatch.files import sha256
from skumatch.model.fetched import fetched_weights
from skumatch.params import Params
from skumatch.pipeline import inputs, refusals
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.erasure_record import refuse_erased_data
from skumatch.pipeline.repository import md5_of
from skumatch.pipeline.worker import Kind, Message, run_name
from skumatch.release import waiting
from skumatch.release.promotion import withdrawn
from skumatch.release.provenance import check_signing_key
from skumatch.release.registry import COMPARED_TAG, ERASED_TAG, ModelRef, Registry, model_release
from skumatch.release.tracking import DATA_TAG, INPUTS_TAG, VERDICT_TAG, VERSION_TAG, Tracking

PROFILE = "validate/profile.json"  # as register logs it


class Request(BaseModel):
    """What a run is asked for.

    kind: `retrain` trains a new encoder; `refresh` puts the champion's on today's data. encoder: of a
    refresh, the version whose encoder is judged again beside it. data_ref: a git ref of data.dvc, None for
    the working tree's. scheduled: a schedule or an event started it, so judge an encoder that waits for it,
    and skip the run if nothing is new.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    kind: Kind = "retrain"
    encoder: int | None = None
    data_ref: str | None = None
    overrides: tuple[str, ...] = ()
    dry_run: bool = False
    scheduled: bool = False


def open_registry(settings: Settings, params: Params) -> Registry:
    return Registry(settings.mlflow_url, params.release.model_name, settings.home_dir / "locks")


def pull(settings: Settings, request: Request) -> Message:
    """Resolve data, champion, weights, code and parameters once, store them as the run's input set, and name it.

    Raises:
        NothingNew: if a scheduled run would see data that the last finished run saw, or that a stage refused.
        ReferenceNotFound: for a refresh where no champion is.
        ParameterError: for a signing key that the run's last task couldn't use.
        CodeError: where git refuses or the code can't be taken along.
        DataError: for a data version that lacks pictures since they were erased.
    """
    project, code = settings.project, inputs.read_code(settings.project)
    if code.trouble:
        print(code.trouble.warning)
    params = load_params(project / "params.yaml", request.overrides)
    check_approval(settings, params)
    check_signing_key(settings.signing_key_file)
    data = inputs.data_pointer(project, request.data_ref)
    refuse_erased_data(settings, md5_of(data))
    registry = open_registry(settings, params)
    tracking = Tracking(settings.mlflow_url)
    champion = registry.champion()
    baseline = fetch_baseline(settings, params, data, champion)
    others = {"champion": champion and champion.bundle, "baseline": baseline}
    others["weights"] = _weights_key(settings, params)
    basis = refusals.basis_of(request.kind, md5_of(data), code.facts()["sha256"], params, others)
    taken = None
    if request.scheduled:
        refusals.check_not_refused(settings, tracking, request.kind, basis)
        taken = _take_encoder(registry, request)
        if taken is None:
            _check_new(tracking, registry, request.kind, md5_of(data), champion)
    check_champion(request.kind, champion)
    trained = taken.ref if taken else registry.resolve(str(request.encoder)) if request.encoder else None
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
            bundle, released = (
                fetch_bundle(settings, registry, judged),
                fetch_released(settings, registry, judged),
            )
            profile = fetch_baseline(settings, params, data, judged)
            whole = replace(fetched, champion=bundle, released=released, baseline=profile)
            set_hash = inputs.build(Path(folder), project, settings, data, request.overrides, whole)
            if champion and champion.tags.get(INPUTS_TAG) == set_hash:
                break  # the run that made the champion, once more
        rest_on(set_hash, lock)
    return Message(
        run=request.run,
        by_itself=request.scheduled,
        kind=request.kind,
        encoder=trained.version if trained else None,
        approved_by=taken.approved_by if taken else "",
        others_wait_for="judgement" if taken and taken.others else "",
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
    """The champion that today's was compared with, where it is a gallery of the same data; none otherwise.

    A refresh that follows its own release would read another champion than the run before it, though nothing
    changed. Started from the same inputs it is that run again, so its results are known.

    Args:
        data: MD5 of the data version.
    """
    if kind != "refresh" or champion is None or champion.data != data:
        return ()
    compared = champion.tags.get(COMPARED_TAG, "none")
    versions = (ref for ref in registry.versions() if str(ref.version) == compared)
    return tuple(ref for ref in versions if ERASED_TAG not in ref.tags)


def _take_encoder(registry: Registry, request: Request) -> waiting.Taken | None:
    """Take up the next trained encoder that waits to be judged again; a retrain judges only its own."""
    return waiting.take(registry, "judgement", request.run) if request.kind == "refresh" else None


def _check_new(
    tracking: Tracking, registry: Registry, kind: Kind, data: str, champion: ModelRef | None
) -> None:
    """Raise NothingNew where a run that nobody asked for by hand has nothing to do.

    A retrain also judges the refreshed gallery, so a refresh has nothing to add to the last run of either
    kind on the same data, if that run made what serves, or judged the gallery of what serves. It has where a
    challenger waits for a person, or where another champion came since. It must not bring back by itself what
    a person rolled back.

    Args:
        data: MD5 of the data version.
    """
    if kind == "refresh" and champion is None:
        raise NothingNew("There is no champion yet whose gallery could be refreshed.")
    if kind == "refresh" and data in withdrawn(registry):
        raise NothingNew(
            "A person rolled back from the gallery of this data; `skumatch refresh` brings it back."
        )
    last = tracking.last_finished("retrain" if kind == "retrain" else None, plain=True)
    if last and last.tags.get(DATA_TAG) == data and (kind == "retrain" or _judged(last.tags, champion)):
        raise NothingNew(
            "The data is the same as in the last finished run; nothing to do until a new version is committed."
        )


def _judged(tags: Mapping[str, str], champion: ModelRef | None) -> bool:
    """Whether the run with these tags made the champion, or judged its gallery and proposed no challenger instead."""
    version = str(champion.version) if champion else "none"
    return tags.get(VERSION_TAG) == version or (
        tags.get(COMPARED_TAG) == version and tags.get(VERDICT_TAG) != "promote"
    )


def check_champion(kind: Kind, champion: ModelRef | None) -> None:
    """Raises ReferenceNotFound for a refresh where no champion is."""
    if kind == "refresh" and champion is None:
        raise ReferenceNotFound(
            "There is no champion whose gallery could be refreshed; `skumatch retrain` makes the first."
        )


def fetch_bundle(settings: Settings, registry: Registry, ref: ModelRef | None) -> Path | None:
    """A version's bundle in this machine's cache, verified against its registered hash; None for none."""
    return registry.download_bundle(ref, _made(settings.home_dir / "bundles") / ref.bundle) if ref else None


def fetch_released(settings: Settings, registry: Registry, champion: ModelRef | None) -> Path | None:
    """The bundle in which the champion's encoder was first released.

    None if it is the champion itself, or gone.

    If it is gone, a refresh is held against what serves alone, and a line says so.
    """
    try:
        return fetch_bundle(settings, registry, model_release(registry, champion))
    except (ReferenceNotFound, BundleError) as error:
        print(
            f"The model release of the champion's encoder can't be fetched, so it is compared with what serves alone: {error}"
        )
        return None


def fetch_baseline(
    settings: Settings, params: Params, data: str, champion: ModelRef | None
) -> dict[str, Any] | None:
    """The profile of the data version that drift is measured against: that of what serves.

    So many small changes of the data can't pass what one large change would not. Where what serves is of the
    same data (or its profile is gone) it is the last other version that passed, of the same registered model:
    a rerun on the same data finds the same one, and stays cached.

    Args:
        data: the text of data.dvc.
        champion: what serves; None for nothing.

    Returns:
        None if there is no such version.
    """
    tracking = Tracking(settings.mlflow_url)
    if champion and champion.data not in (None, md5_of(data)):
        try:
            return dict(json.loads(tracking.artifact(champion.run_id, PROFILE)))
        except ServiceError as error:
            print(
                f"The profile of version {champion.version} can't be read, so drift is measured against the last run's: {error}"
            )
    profile = tracking.earlier_version(md5_of(data), params.release.model_name, PROFILE)
    return None if profile is None else dict(json.loads(profile))


def fetch_base_weights(settings: Settings, params: Params) -> Path:
    """The folder of the encoder's base weights in this machine's cache.

    A local file is looked at each time.
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
    """Of the base weights: a local file counts by what it holds."""
    local = settings.project / expanded(params.encoder.weights)
    content = sha256(local) if local.is_file() else None
    return inputs.fingerprint([params.encoder.model, params.encoder.weights, content])[:32]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
