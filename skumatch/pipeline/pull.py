"""pull: resolve data, champion, weights, code and parameters once, and store them as the run's input set."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from skumatch.config import Settings, check_approval, load_params
from skumatch.errors import NothingNew, WeightsError
from skumatch.files import sha256
from skumatch.model.fetched import fetched_weights
from skumatch.params import Params
from skumatch.pipeline import inputs
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.repository import md5_of
from skumatch.pipeline.worker import Message, run_name
from skumatch.release.registry import ModelRef, Registry
from skumatch.release.tracking import DATA_TAG, Tracking

PROFILE = "validate/profile.json"  # as register logs it


class Request(BaseModel):
    """What a run is asked for. data_ref: a git ref of data.dvc, None for the working tree's. scheduled: skip if nothing is new."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    data_ref: str | None = None
    overrides: tuple[str, ...] = ()
    dry_run: bool = False
    scheduled: bool = False


def open_registry(settings: Settings, params: Params) -> Registry:
    return Registry(settings.mlflow_url, params.release.model_name, settings.home_dir / "locks")


def pull(settings: Settings, request: Request) -> Message:
    """Resolve data, champion, weights, code and parameters once, store them as the run's input set, and name it.

    Raises NothingNew if a scheduled run would see the same data as the last finished one.
    """
    project = settings.project
    params = load_params(project / "params.yaml", request.overrides)
    check_approval(settings, params)
    data = inputs.data_pointer(project, request.data_ref)
    registry = open_registry(settings, params)
    tracking = Tracking(settings.mlflow_url)
    last, usual = tracking.last_finished(), tracking.last_finished(plain=True) if request.scheduled else None
    if usual and usual.tags.get(DATA_TAG) == md5_of(data):
        raise NothingNew("The data is the same as in the last finished run; nothing to do until a new version is committed.")
    champion = registry.champion()
    lock = (last.lock or "") if last else ""
    claim = at_work(settings, run_name(request.run), "pull", lock=lock)
    with claim as rest_on, tempfile.TemporaryDirectory(dir=_made(settings.home_dir / "workspaces")) as folder:
        fetched = inputs.Fetched(
            champion=fetch_champion(settings, registry, champion),
            weights=fetch_base_weights(settings, params),
            baseline=fetch_baseline(settings, params, data),
        )
        set_hash = inputs.build(Path(folder), project, settings, data, request.overrides, fetched)
        rest_on(set_hash, lock)
    return Message(
        run=request.run,
        inputs=set_hash,
        lock=lock,
        dry_run=request.dry_run,
        overrides=request.overrides,
        champion=champion.version if champion else None,
    )


def fetch_champion(settings: Settings, registry: Registry, champion: ModelRef | None) -> Path | None:
    """The champion's bundle in this machine's cache, verified against its registered hash."""
    return registry.download_bundle(champion, _made(settings.home_dir / "bundles") / champion.bundle) if champion else None


def fetch_baseline(settings: Settings, params: Params, data: str) -> dict[str, Any] | None:
    """The profile of the last data version that passed, of the same registered model; None if there was none.

    A version of other data than `data` (the text of data.dvc): so a rerun on the same data finds the same one, and stays cached.
    """
    found = Tracking(settings.mlflow_url).earlier_version(md5_of(data), params.release.model_name, PROFILE)
    return None if found is None else dict(json.loads(found))


def fetch_base_weights(settings: Settings, params: Params) -> Path:
    """The folder of the encoder's base weights in this machine's cache; a local file is looked at each time."""
    local = Path(params.encoder.weights).expanduser()
    key = inputs.fingerprint([params.encoder.model, params.encoder.weights, sha256(local) if local.is_file() else None])[:32]
    folder = settings.home_dir / "weights" / key
    with FileLock(_made(settings.home_dir / "locks") / "weights.lock"):
        try:
            fetched_weights(folder)
        except WeightsError:  # not there yet, or damaged
            from skumatch.model.weights import fetch_weights  # torch takes seconds to import

            fetch_weights(params.encoder, folder)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
