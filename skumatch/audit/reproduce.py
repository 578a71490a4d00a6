"""Reproduce a version: run every stage again from its input set and compare the outs with the record."""

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
from skumatch.lineage.lineage import Lineage, stages_of
from skumatch.pipeline.erasure_record import ErasureRecord
from skumatch.pipeline.message import Message
from skumatch.pipeline.repository import Repository
from skumatch.pipeline.worker import own_error, stage_environment, stages, workspace
from skumatch.progress import track
from skumatch.registry.registry import ModelRef, Registry
from skumatch.registry.tracking import INPUTS_TAG, MACHINE_TAG
from skumatch.stages import artefacts
from skumatch.stages.runner import SECONDS

TOLERANCE = 0.005  # allowed difference of top-1 where bits differ, as on other hardware


class Out(BaseModel):
    """One out of a stage, as recorded and as reproduced.

    Attributes:
        stage: The stage's name.
        path: The out's path in the workspace.
        recorded: Its hash (`md5:...`) in the lineage record.
        found: Its hash now; `none` if the stage has no such out.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    path: str
    recorded: str
    found: str

    @property
    def equal(self) -> bool:
        """True if both hashes are equal."""
        return self.recorded == self.found


class Reproduction(BaseModel):
    """The result of a reproduction.

    Attributes:
        outs: Every recorded out with its hash now.
        recorded: The version's recorded top-1, from 0 to 1.
        found: Top-1 now.
        environment: True if the environment's lock here is the run's.
        machine: True if every stage that ran now ran on the same processor as then, with as many cores and
            without a GPU.
    """

    model_config = ConfigDict(frozen=True)

    outs: tuple[Out, ...]
    recorded: float
    found: float
    environment: bool
    machine: bool = False

    @property
    def equal(self) -> bool:
        """True if all outs are equal, bit by bit."""
        return all(out.equal for out in self.outs)

    @property
    def within(self) -> bool:
        """True if top-1 differs from the recorded one by at most TOLERANCE."""
        return abs(self.found - self.recorded) <= TOLERANCE

    @property
    def holds(self) -> bool:
        """True if the version was reproduced.

        Top-1 must be within TOLERANCE. Where machine and packages are the same, all outs must be equal too.
        """
        return self.within and (self.equal or not (self.environment and self.machine))


def reproduce(settings: Settings, registry: Registry, ref: ModelRef, force: bool) -> Reproduction:
    """Make a version again, with its own code, and compare it with its record.

    Nothing is written to the remote or to MLflow.

    Args:
        settings: Addresses of the stores, and the project's folder.
        registry: The registry that has the version.
        ref: The version.
        force: Run every stage, and training from its start; else results that the remote has are fetched.

    Raises:
        DataError: The version names no input set, or rests on an erased picture.
        SkumatchError: A stage failed; this is the stage's own error.
    """
    archive = ref.tags.get(INPUTS_TAG)
    if not archive:
        raise DataError(
            f"Version {ref.version} names no input set (its tag {INPUTS_TAG}), so it can't be made again."
        )
    if erasure := ErasureRecord(settings).read().of_version(registry.model_name, ref.version):
        reason = f"it rests on a picture that was {erasure.words}"
        raise DataError(f"Version {ref.version} can't be made again: {reason}.")
    with tempfile.TemporaryDirectory() as folder:
        registry.download_artifacts(ref.run_id, Path(folder) / RUN)
        dossier = Dossier(Path(folder))
        record, released = dossier.record, dossier.released
        top1 = dossier.evaluation(RUN, released).top1
    message = Message(run=f"reproduce-{ref.version}-{secrets.token_hex(3)}", inputs=archive)
    with workspace(settings, message, "again") as repository, _stage_environment(settings, force):
        _run(repository, force)
        return Reproduction(
            recorded=top1,
            found=artefacts.EVALUATION.read(repository.folder, candidate=released).top1,
            environment=_constraints(settings.project) == _constraints(repository.folder),
            outs=_outs(record, repository.lock),
            machine=_same_machine(ref.tags, repository.folder),
        )


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
    """Return True if all recorded stages and all stages that ran now ran on the same kind of machine.

    A machine's description ends in ` cores` if the stage used no GPU; any other description returns False.

    Args:
        tags: The version's tags, with the machines of training and embedding.
        root: The workspace of the reproduction.
    """
    recorded = {machine for name, machine in tags.items() if name.startswith(MACHINE_TAG)}
    files = (root / SECONDS.format(stage=name) for name in stages(root))
    # A stage whose result was fetched has no such file.
    used = {read_json(path)["machine"] for path in files if path.is_file()}
    return len(recorded) == 1 and used <= recorded and all(machine.endswith(" cores") for machine in recorded)


@contextmanager
def _stage_environment(settings: Settings, force: bool) -> Iterator[None]:
    """Set the environment variables of stages while this lasts.

    Vectors are computed again; they are neither read from the remote nor written to it. With `force`, stages
    use an empty folder as remote, so that training doesn't resume from the run's checkpoints; the folder is
    deleted at the end.
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


def as_json(reproduction: Reproduction) -> str:
    """Return the reproduction and its verdicts as JSON text."""
    verdicts = {
        "equal": reproduction.equal,
        "holds": reproduction.holds,
        "within_tolerance": reproduction.within,
        "tolerance": TOLERANCE,
    }
    return json.dumps(reproduction.model_dump(mode="json") | verdicts, indent=2) + "\n"
