"""A version made again: its run's workspace from its input set, every stage anew, and what comes out held against what was recorded."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from skumatch.audit.dossier import RUN, Dossier
from skumatch.config import Settings
from skumatch.errors import DataError, StageFailed
from skumatch.files import read_json
from skumatch.pipeline.repository import Repository
from skumatch.pipeline.worker import Message, own_error, stage_environment, stages, workspace
from skumatch.progress import track
from skumatch.release.lineage import Lineage, stages_of
from skumatch.release.registry import ModelRef, Registry

TOLERANCE = 0.005  # of top-1, where bits differ: what other hardware may do


class Out(BaseModel):
    """One out of a stage, as recorded and as it came out now."""

    model_config = ConfigDict(frozen=True)

    stage: str
    path: str
    recorded: str
    found: str

    @property
    def equal(self) -> bool:
        return self.recorded == self.found


class Reproduction(BaseModel):
    """recorded, found: top-1 of the version then and now. environment: whether the environment's lock here is the run's."""

    model_config = ConfigDict(frozen=True)

    outs: tuple[Out, ...]
    recorded: float
    found: float
    environment: bool

    @property
    def equal(self) -> bool:
        return all(out.equal for out in self.outs)

    @property
    def within(self) -> bool:
        """Whether top-1 is the recorded one within TOLERANCE."""
        return abs(self.found - self.recorded) <= TOLERANCE


def reproduce(settings: Settings, registry: Registry, ref: ModelRef, force: bool) -> Reproduction:
    """Make a version again, with its own code, and compare. Nothing is written to the remote or to MLflow.

    force: run every stage, training from its start; else stages whose result the remote knows are fetched. Raises a stage's own
    error, DataError for a version that names no input set.
    """
    archive = ref.tags.get("skumatch.inputs")
    if not archive:
        raise DataError(f"Version {ref.version} names no input set (its tag skumatch.inputs), so it can't be made again.")
    with tempfile.TemporaryDirectory() as folder:
        registry.download_artifacts(ref.run_id, Path(folder) / RUN)
        then = Dossier(Path(folder))
        record, top1 = then.record, float(then.json(RUN, "evaluate/challenger.json")["top1"])
    message = Message(run=f"reproduce-{ref.version}-{secrets.token_hex(3)}", inputs=archive)
    with workspace(settings, message, "again") as repository, _stage_environment(settings, force):
        _run(repository, force)
        found = read_json(repository.folder / "out/evaluate/challenger.json")["top1"]
        same = _constraints(settings.project) == _constraints(repository.folder)
        return Reproduction(outs=_outs(record, repository.lock), recorded=top1, found=found, environment=same)


def _run(repository: Repository, force: bool) -> None:
    names = stages(repository.folder)
    with track("reproduce", len(names), "stages") as advance:
        for name in names:
            try:
                repository.reproduce(name, force=force, push=False)
            except StageFailed as failure:
                raise own_error(repository.folder) or failure from failure
            advance(text=name)


def _outs(record: Lineage, lock: str) -> tuple[Out, ...]:
    found = stages_of(lock)
    return tuple(
        Out(stage=name, path=path, recorded=digest, found=found[name].outs[path])
        for name, stage in record.stages.items()
        for path, digest in stage.outs.items()
    )


@contextmanager
def _stage_environment(settings: Settings, force: bool) -> Iterator[None]:
    """What stages are told while this lasts.

    Where training is to start anew it must not find the checkpoints of the run; those of this one are gone at the end.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="again-", dir=settings.home_dir) as folder:
        os.environ.update(stage_environment(settings) | ({"SKUMATCH_REMOTE": folder} if force else {}))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _constraints(folder: Path) -> str:
    path = folder / "requirements/constraints.txt"
    return path.read_text("utf-8") if path.is_file() else ""


def as_json(found: Reproduction) -> str:
    facts = {"equal": found.equal, "within_tolerance": found.within, "tolerance": TOLERANCE}
    return json.dumps(found.model_dump(mode="json") | facts, indent=2) + "\n"
