"""The tasks of a run's stages: rebuild its workspace on any machine, run stages, and pass the lock on."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from skumatch.config import Settings
from skumatch.errors import Relayed, StageFailed
from skumatch.files import read_json, replacing, write_text
from skumatch.pipeline import inputs, refusals
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.message import PACE, Message, run_name
from skumatch.pipeline.repository import Repository, pointer
from skumatch.stages.runner import ERROR, LIVE, PAGES, SECONDS, VECTORS


@contextmanager
def workspace(settings: Settings, message: Message, label: str) -> Iterator[Repository]:
    """Make a private folder with the run's code, parameters, pointers and lock, and remove it afterwards.

    Args:
        settings: this machine's settings.
        message: the run's message.
        label: prefix of the folder's name.

    Yields:
        The folder, as a repository of DVC.
    """
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
    """Return the environment variables for the process of a stage, which runs in another folder.

    They have this machine's settings with absolute paths, and this Python first in PATH.
    """
    return {
        "SKUMATCH_PROJECT": str(settings.project.resolve()),
        "SKUMATCH_HOME": str(settings.home_dir),
        "SKUMATCH_REMOTE": settings.remote_url,
        "SKUMATCH_MLFLOW": settings.mlflow_url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def run_stages(settings: Settings, message: Message, stages: Sequence[str]) -> Message:
    """Run stages one after the other in one workspace, and return the message for the next task.

    Args:
        settings: this machine's settings.
        message: that of the task before.
        stages: names of stages in dvc.yaml, at least one. The last one names the claim and the workspace.

    Raises:
        SkumatchError: a stage's own error; the stages after it are not begun.
        StageFailed: a stage ended without an error of its own.
        StorageError: the remote or the disk refuses.
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
            "ended": datetime.now(UTC),
            "seconds": message.seconds | ({stage: ran["seconds"]} if ran else {}),
            "machines": message.machines | ({stage: ran["machine"] + _loosely(vectors)} if ran else {}),
            "cached": message.cached if ran else (*message.cached, stage),
            "pace": message.pace | _pace(repository.folder / LIVE),
            "vectors": message.vectors | vectors,
        }
    )


def _pace(live: Path) -> dict[str, float]:
    """Return the figures PACE of the live file's last line; they cover the training since its last start."""
    lines = live.read_text("utf-8").splitlines() if live.is_file() else []
    last = json.loads(lines[-1]) if lines else {}
    return {name: last[name] for name in PACE if name in last}


def _vectors(noted: Path) -> dict[str, dict[str, int]]:
    """Return a stage's counts of vectors from the file `noted`; empty where it embedded nothing."""
    counts: dict[str, dict[str, int]] = read_json(noted) if noted.is_file() else {}
    return counts


def _loosely(vectors: dict[str, dict[str, int]]) -> str:
    """Return a suffix for the machine's description where some vectors came from earlier runs.

    Such results may differ in their last bits if all is computed again on that machine. `reproduce` demands
    equal bits only where the description ends with the number of cores, so the suffix turns that off.
    """
    return ", vectors of earlier runs" if any(counts["loose"] for counts in vectors.values()) else ""


def own_error(folder: Path, pages: Path | None = None) -> Relayed | None:
    """Read the error that a stage's process wrote into its workspace; None where it wrote none.

    Args:
        folder: the workspace.
        pages: the folder to which the stage's pages were copied, which replaces the old one in the message.
    """
    path = folder / ERROR
    if not path.is_file():
        return None
    fields = read_json(path)
    sentence = fields["sentence"].replace(str(folder / PAGES), str(pages or folder / PAGES))
    return Relayed(**fields | {"sentence": sentence})


def keep_pages(settings: Settings, message: Message, stage: str, folder: Path) -> Path | None:
    """Copy the pages that a failed stage left for a person to this machine's reports.

    Args:
        settings: this machine's settings.
        message: the run's message.
        stage: name of the stage.
        folder: the run's workspace.

    Returns:
        The folder of the copies; None if the stage left no pages.
    """
    made, kept = folder / PAGES, reports(settings, message.run) / stage
    if not made.is_dir():
        return None
    for page in sorted(made.iterdir()):
        with replacing(kept / page.name) as aside:
            shutil.copyfile(page, aside)
    return kept


def reports(settings: Settings, run: str) -> Path:
    """Return the folder of a run's pages; its report lies beside it, as `<folder>.html`."""
    return settings.home_dir / "reports" / run_name(run)


def stages(project: Path) -> list[str]:
    """Return the pipeline's stages in the order of dvc.yaml."""
    return list(yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))["stages"])
