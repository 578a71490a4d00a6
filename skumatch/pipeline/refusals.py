"""Refusals: data that a stage refused is recorded in MLflow, so that no scheduled run tries it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skumatch.config import Settings, load_params
from skumatch.errors import (
    DataError,
    ImageError,
    NothingNew,
    SkumatchError,
    TrainingDiverged,
    ValidationFailed,
)
from skumatch.files import sha256
from skumatch.params import STAGES, Params
from skumatch.pipeline.inputs import fingerprint
from skumatch.pipeline.message import Message
from skumatch.promotion import waiting
from skumatch.registry.registry import Registry
from skumatch.registry.tracking import (
    DATA_TAG,
    KIND_TAG,
    NOTE_TAG,
    REFUSED_TAG,
    RUN_TAG,
    STAGE_TAG,
    Tracking,
)
from skumatch.stages import artefacts
from skumatch.stages.runner import TRAINING

# Errors that a stage raises again for the same data, code and parameters. Other errors may come from the
# machine: a ParameterError from a missing GPU, a WeightsError or BundleError from a damaged file.
REPEATED = frozenset(error.kind for error in (ValidationFailed, DataError, ImageError, TrainingDiverged))


def basis_of(kind: str, data: str, code: str, params: Params, others: dict[str, Any]) -> str:
    """Return a SHA-256 over everything that a refusal depends on.

    A run with another value may end differently.

    Args:
        kind: of the run, `retrain` or `refresh`.
        data: MD5 of the data version.
        code: SHA-256 of the code.
        params: with the run's overrides.
        others: name -> fact of the other inputs of stages: champion, baseline, base weights.
    """
    return fingerprint([kind, data, code, params.model_dump(mode="json", by_alias=True), others])


def check_not_refused(settings: Settings, tracking: Tracking, kind: str, basis: str) -> None:
    """Raise NothingNew if a run on the same basis was refused.

    Args:
        settings: this machine's settings.
        tracking: MLflow's runs.
        kind: of the run, `retrain` or `refresh`.
        basis: as of `basis_of`.
    """
    refused = tracking.last_refused(basis)
    if refused:
        page = tracking.run_page(refused.run_id, settings.mlflow_shown)
        stage, run = refused.tags.get(STAGE_TAG), refused.tags.get(RUN_TAG)
        raise NothingNew(
            f"The stage {stage} refused this data with this code and these parameters in the run {run} "
            f"({page}); `skumatch {kind}` tries all the same."
        )


def record(
    settings: Settings,
    message: Message,
    stage: str,
    error: SkumatchError,
    folder: Path,
    pages: Path | None,
) -> None:
    """Record a refusal as a failed run in MLflow; other errors and dry runs are not recorded.

    If MLflow is away, a printed line says so, and the next run tries the data again.

    Args:
        settings: this machine's settings.
        message: the run's message.
        stage: the stage that refused the data.
        error: the stage's error.
        folder: the run's workspace.
        pages: the folder with the pages that the stage left for a person; None for none.
    """
    if error.kind not in REPEATED or message.dry_run or not _of_the_data(message, stage):
        return
    code = artefacts.CODE.read(folder)
    tags = {
        RUN_TAG: message.run,
        KIND_TAG: message.kind,
        DATA_TAG: message.data,
        REFUSED_TAG: message.basis,
        STAGE_TAG: stage,
        "skumatch.decision": str(error),
        NOTE_TAG: f"A {message.kind} that ended early: the stage `{stage}` refused the data. {error}",
        "skumatch.code": code.sha256,
        "skumatch.commit": str(code.commit),
        "skumatch.params": sha256(folder / "params.yaml"),
    }
    files = {f"{stage}/{page.name}": page for page in sorted(pages.iterdir())} if pages else {}
    files["params.yaml"] = folder / "params.yaml"
    try:
        registry = Registry(settings.mlflow_url, load_params(folder / "params.yaml").release.model_name)
        registry.log_run(message.run, {}, {}, tags, files, "FAILED", started=message.started)
        if message.encoder:  # the encoder was not judged, so it waits for other data
            waiting.wait(registry, message.encoder, "judgement", message.approved_by)
    except SkumatchError as failure:
        print(f"The refusal could not be recorded, so the next run meets it again: {failure}")


def _of_the_data(message: Message, stage: str) -> bool:
    """Return whether a run would have ended the same way without the encoder that it judges again.

    That encoder takes part only from the first training stage on.
    """
    return message.encoder is None or STAGES.index(stage) < min(STAGES.index(name) for name in TRAINING)
