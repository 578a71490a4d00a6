"""The message: what one task of a run passes to the next."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

PACE = ("images_per_second", "waiting_share")  # figures of the training's live file (stages/runner.py)
Kind = Literal["retrain", "refresh"]


class Message(BaseModel):
    """The state of a run that one task passes to the next.

    Attributes:
        run: the run's id.
        kind: `retrain` trains a new encoder, `refresh` keeps the champion's.
        encoder: the version whose encoder a refresh judges again; None where it judges none.
        approved_by: the person who approved that version; empty where nobody did.
        others_wait_for: `judgement` where further encoders wait to be judged again, else empty.
        by_itself: True where a schedule or an event started the run.
        data: MD5 of the data version.
        basis: SHA-256 of all that a refusal of the data depends on (pipeline/refusals.py).
        inputs: MD5 of the input set.
        started: when the run's first task began. With `ended` the one source of the run's times; None in a
            message of an older skumatch.
        ended: when the last result so far was there, made or taken from the cache; None before the first.
        lock: text of dvc.lock so far; at first that of the last finished run of its kind, empty for none.
        dry_run: True where the run writes nothing to MLflow.
        overrides: of parameters, each `section.name=value`.
        champion: the version that the run is compared with; None where there is none.
        seconds: stage -> duration, of the stages that ran.
        cached: stages whose results were known.
        pace: name (PACE) -> figure of the training since it was last resumed; empty where it was cached.
        machines: stage -> description of the machine, of the stages that ran.
        vectors: encoder -> how many vectors were `computed`, how many were `known`, and how many of the known
            ones are `loose` (model/vector_store.py); of the encoders that a stage embedded with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    kind: Kind = "retrain"
    encoder: int | None = None
    approved_by: str = ""
    others_wait_for: str = ""
    by_itself: bool = False
    data: str = ""
    basis: str = ""
    inputs: str
    started: datetime | None = None
    ended: datetime | None = None
    lock: str = ""
    dry_run: bool = False
    overrides: tuple[str, ...] = ()
    champion: int | None = None
    seconds: dict[str, float] = {}
    cached: tuple[str, ...] = ()
    pace: dict[str, float] = {}
    machines: dict[str, str] = {}
    vectors: dict[str, dict[str, int]] = {}


def run_name(run: str) -> str:
    """Return a run's id as a name for files and folders."""
    return re.sub(r"[^\w.+-]", "-", run)
