"""What one Airflow task does: rebuild the run's workspace anywhere, do one stage, hand on the lock."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from skumatch.config import Settings
from skumatch.errors import Relayed, StageFailed
from skumatch.files import read_json, replacing, write_text
from skumatch.pipeline import inputs, refusals
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.repository import Repository, pointer
from skumatch.stages.runner import ERROR, LIVE, PAGES, SECONDS, VECTORS

PACE = ("images_per_second", "waiting_share")
Kind = Literal["retrain", "refresh"]


class Message(BaseModel):
    """What travels between tasks.

    kind: `retrain` makes a new encoder, `refresh` keeps the champion's. encoder: the version whose encoder a
    refresh judges again. approved_by: who approved that version. others_wait_for: `judgement` where further
    encoders wait to be judged again, else empty. by_itself: whether no person started the run. data: MD5 of
    the data version. basis: SHA-256 of all that a refusal of the data rests on (pipeline/refusals.py).
    inputs: MD5 of the input set. lock: dvc.lock's text. champion: the version evaluated against. pace: how
    fast the training went, by name, since it was last taken up; empty where it was cached. machines: what
    each stage that ran was done on. vectors: of each encoder that a stage embedded with, how many vectors
    were `computed`, how many `known`, and how many of these are `loose` (model/vector_store.py).
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
    lock: str = ""
    dry_run: bool = False
    overrides: tuple[str, ...] = ()
    champion: int | None = None
    seconds: dict[str, float] = {}
    cached: tuple[str, ...] = ()
    pace: dict[str, float] = {}
    machines: dict[str, str] = {}
    vectors: dict[str, dict[str, int]] = {}


@contextmanager
def workspace(settings: Settings, message: Message, label: str) -> Iterator[Repository]:
    """A private folder with the run's code, params, pointers and lock; gone afterwards."""
    root = settings.home_dir / "workspaces" / run_name(message.run)
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{label}-", dir=root))
    try:
        yield _rebuild(folder, settings, message)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rebuild(folder: Path, settings: Settings, message: Message) -> Repository:
    write_text(folder / f"{inputs.ARCHIVE}.dvc", pointer(message.inputs, inputs.ARCHIVE))
    Repository(folder, settings).pull(f"{inputs.ARCHIVE}.dvc")
    inputs.unpack(folder / inputs.ARCHIVE, folder)
    if message.lock:
        write_text(folder / "dvc.lock", message.lock)
    return Repository(folder, settings)


def stage_environment(settings: Settings) -> dict[str, str]:
    """What a stage's process, which runs in another folder, is told: this machine's places, absolute, and this Python first."""
    return {
        "SKUMATCH_PROJECT": str(settings.project.resolve()),
        "SKUMATCH_HOME": str(settings.home_dir),
        "SKUMATCH_REMOTE": settings.remote_url,
        "SKUMATCH_MLFLOW": settings.mlflow_url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def run_stages(settings: Settings, message: Message, stages: Sequence[str]) -> Message:
    """Do stages of the run, one after the other in one workspace, and return the message for the next task.

    Args:
        settings: this machine's places.
        message: what the task before handed on.
        stages: names of dvc.yaml, at least one. Claim and workspace are called by the last.

    Raises: SkumatchError: a stage's own error, after which no further stage is begun; StageFailed if it ended
        without one; StorageError if the remote or disk refuses.
    """
    claim = at_work(settings, run_name(message.run), stages[-1], message.inputs, message.lock)
    with claim as rest_on, workspace(settings, message, stages[-1]) as repository:
        for stage in stages:
            message = _run_stage(settings, message, stage, repository)
            rest_on(message.inputs, message.lock)
    return message


def _run_stage(settings: Settings, message: Message, stage: str, repository: Repository) -> Message:
    try:
        repository.reproduce(stage)
    except StageFailed as failure:
        pages = keep_pages(settings, message, stage, repository.folder)
        error = own_error(repository.folder, pages)
        if error:
            refusals.record(settings, message, stage, error, repository.folder, pages)
        raise error or failure from failure
    path = repository.folder / SECONDS.format(stage=stage)
    ran = read_json(path) if path.is_file() else None
    vectors = _vectors(repository.folder / VECTORS)
    return message.model_copy(
        update={
            "lock": repository.lock,
            "seconds": message.seconds | ({stage: ran["seconds"]} if ran else {}),
            "machines": message.machines | ({stage: ran["machine"] + _loosely(vectors)} if ran else {}),
            "cached": message.cached if ran else (*message.cached, stage),
            "pace": message.pace | _pace(repository.folder / LIVE),
            "vectors": message.vectors | vectors,
        }
    )


def _pace(live: Path) -> dict[str, float]:
    """PACE as the live file's last line has it: over the whole training, or since it was taken up again."""
    lines = live.read_text("utf-8").splitlines() if live.is_file() else []
    last = json.loads(lines[-1]) if lines else {}
    return {name: last[name] for name in PACE if name in last}


def _vectors(noted: Path) -> dict[str, dict[str, int]]:
    """What a stage noted of its vectors; nothing where it was cached or embeds none."""
    counts: dict[str, dict[str, int]] = read_json(noted) if noted.is_file() else {}
    return counts


def _loosely(vectors: dict[str, dict[str, int]]) -> str:
    """What is added to the machine's words where last bits may be others if all is computed there again.

    `reproduce` demands equal bits only of words that end with the cores.
    """
    return ", vectors of earlier runs" if any(counts["loose"] for counts in vectors.values()) else ""


def own_error(folder: Path, pages: Path | None = None) -> Relayed | None:
    """The error the stage process left in its workspace, as it was raised there.

    `pages` is where its pages are now.
    """
    path = folder / ERROR
    if not path.is_file():
        return None
    fields = read_json(path)
    return Relayed(
        **fields | {"sentence": fields["sentence"].replace(str(folder / PAGES), str(pages or folder / PAGES))}
    )


def keep_pages(settings: Settings, message: Message, stage: str, folder: Path) -> Path | None:
    """Copy the pages that a failed stage left for a person to this machine's reports.

    Return where, None if there are none.
    """
    made, kept = folder / PAGES, reports(settings, message.run) / stage
    if not made.is_dir():
        return None
    for page in sorted(made.iterdir()):
        with replacing(kept / page.name) as aside:
            shutil.copyfile(page, aside)
    return kept


def reports(settings: Settings, run: str) -> Path:
    """The folder of a run's pages; its report lies beside it, as `<folder>.html`."""
    return settings.home_dir / "reports" / run_name(run)


def stages(project: Path) -> list[str]:
    """The pipeline's stages in the order dvc.yaml lists them."""
    return list(yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))["stages"])


def run_name(run: str) -> str:
    """A run's id as a name for files and folders."""
    return re.sub(r"[^\w.+-]", "-", run)
