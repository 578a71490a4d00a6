"""A version made again: its run's workspace from its input set, every stage anew, and what comes out held against what was recorded."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from skumatch.audit.dossier import RUN, Dossier
from skumatch.config import Settings
from skumatch.errors import DataError, StageFailed
from skumatch.files import read_json
from skumatch.pipeline.erasure_record import ErasureRecord
from skumatch.pipeline.repository import Repository
from skumatch.pipeline.worker import Message, own_error, stage_environment, stages, workspace
from skumatch.progress import track
from skumatch.release.lineage import Lineage, stages_of
from skumatch.release.registry import ModelRef, Registry
from skumatch.release.tracking import INPUTS_TAG, MACHINE_TAG
from skumatch.stages.runner import SECONDS

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
    """recorded, found: top-1 of the version then and now. environment: whether the environment's lock here is the run's.

    machine: whether what ran now ran on the processor and as many cores as then, without a GPU.
    """

    model_config = ConfigDict(frozen=True)

    outs: tuple[Out, ...]
    recorded: float
    found: float
    environment: bool
    machine: bool = False

    @property
    def equal(self) -> bool:
        return all(out.equal for out in self.outs)

    @property
    def within(self) -> bool:
        """Whether top-1 is the recorded one within TOLERANCE."""
        return abs(self.found - self.recorded) <= TOLERANCE

    @property
    def holds(self) -> bool:
        """Whether it came out as it must: bit by bit where machine and packages are the same, else within TOLERANCE."""
        return self.within and (self.equal or not (self.environment and self.machine))


def reproduce(settings: Settings, registry: Registry, ref: ModelRef, force: bool) -> Reproduction:
    """Make a version again, with its own code, and compare. Nothing is written to the remote or to MLflow.

    force: run every stage, training from its start; else stages whose result the remote knows are fetched.
    Raises a stage's own error, DataError for a version that names no input set or rests on an erased picture.
    """
    archive = ref.tags.get(INPUTS_TAG)
    if not archive:
        raise DataError(
            f"Version {ref.version} names no input set (its tag {INPUTS_TAG}), so it can't be made again."
        )
    if erasure := ErasureRecord(settings).read().of_version(registry.model_name, ref.version):
        why = f"it rests on a picture that was {erasure.words}"
        raise DataError(f"Version {ref.version} can't be made again: {why}.")
    with tempfile.TemporaryDirectory() as folder:
        registry.download_artifacts(ref.run_id, Path(folder) / RUN)
        then = Dossier(Path(folder))
        record, top1, who = then.record, then.evaluation(RUN, then.released).top1, then.released
    message = Message(run=f"reproduce-{ref.version}-{secrets.token_hex(3)}", inputs=archive)
    with workspace(settings, message, "again") as repository, _stage_environment(settings, force):
        _run(repository, force)
        found = read_json(repository.folder / f"out/evaluate/{who}.json")["top1"]
        same = _constraints(settings.project) == _constraints(repository.folder)
        outs, machine = _outs(record, repository.lock), _same_machine(ref.tags, repository.folder)
        return Reproduction(outs=outs, recorded=top1, found=found, environment=same, machine=machine)


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
    stages_now = stages_of(lock)
    made = {(name, path): digest for name in stages_now for path, digest in stages_now[name].outs.items()}
    return tuple(
        Out(stage=name, path=path, recorded=digest, found=made.get((name, path), "none"))
        for name, stage in record.stages.items()
        for path, digest in stage.outs.items()
    )


def _same_machine(tags: Mapping[str, str], root: Path) -> bool:
    """Whether training and embedding were recorded on one machine without a GPU, and every stage that ran now did so on such a one."""
    told = {machine for name, machine in tags.items() if name.startswith(MACHINE_TAG)}
    files = (root / SECONDS.format(stage=name) for name in stages(root))
    found = {
        read_json(path)["machine"] for path in files if path.is_file()
    }  # a stage that was fetched ran nowhere
    return len(told) == 1 and found <= told and all(machine.endswith(" cores") for machine in told)


@contextmanager
def _stage_environment(settings: Settings, force: bool) -> Iterator[None]:
    """What stages are told while this lasts.

    Vectors are computed again, not read from the remote, nor kept there. Where training is to start anew it
    must not find the checkpoints of the run; those of this one are gone at the end.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="again-", dir=settings.home_dir) as folder:
        os.environ.update(stage_environment(settings) | {"SKUMATCH_VECTORS": "off"})
        os.environ.update({"SKUMATCH_REMOTE": folder} if force else {})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _constraints(folder: Path) -> str:
    path = folder / "requirements/constraints.txt"
    return path.read_text("utf-8") if path.is_file() else ""


def as_json(found: Reproduction) -> str:
    facts = {
        "equal": found.equal,
        "holds": found.holds,
        "within_tolerance": found.within,
        "tolerance": TOLERANCE,
    }
    return json.dumps(found.model_dump(mode="json") | facts, indent=2) + "\n"
