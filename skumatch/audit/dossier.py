"""A version's dossier: one folder with everything that an audit of the version reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skumatch.bundle.manifest import MANIFEST, Manifest
from skumatch.config import load_params
from skumatch.errors import DataError
from skumatch.files import read_json
from skumatch.gate.gate import Decision
from skumatch.lineage.lineage import NO_WEIGHTS, Lineage
from skumatch.params import Params
from skumatch.registry.journal import Entry
from skumatch.registry.registry import CHALLENGER, REFRESHED
from skumatch.retrieval.figures import Evaluation
from skumatch.stages import artefacts
from skumatch.stages.artefacts import CodeFacts, WeightsFacts

Kind = TypeVar("Kind", bound=BaseModel)
FACTS, LISTING, CHANGES = "dossier.json", "data.dir.json", "data.changes.json"
ORIGIN = "origin/provenance.dsse.json"  # among the run's artifacts
RUN, BUNDLE, WORKSPACE, GIT = "run", "bundle", "workspace", "git"
MADE = artefacts.out("bundle")  # by the stage of the registered bundle's name
NO_COMMIT = "the run's code was under no git commit"
# The paths of each part that a store may fail to deliver.
PLACES = {
    RUN: (RUN,),
    BUNDLE: (BUNDLE,),
    MADE: (f"{WORKSPACE}/{MADE}",),
    GIT: (GIT,),
    WORKSPACE: (WORKSPACE, LISTING),
    "data": (f"{WORKSPACE}/data", LISTING),
    "changes": (CHANGES,),
    "weights": (f"{WORKSPACE}/{artefacts.WEIGHTS.path}",),
    "champion": (f"{WORKSPACE}/{artefacts.CHAMPION.path}",),
    "released": (f"{WORKSPACE}/{artefacts.RELEASED.path}",),
    "trained": (f"{WORKSPACE}/{artefacts.TRAINED.path}",),
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Registered(_Record):
    """The version as the registry had it when the dossier was collected.

    Attributes:
        model: Name of the registered model.
        version: The version's number.
        bundle: SHA-256 that the version's bundle was registered with.
        created: Time of the registration.
        aliases: The version's aliases.
        tags: The version's tags.
        champion: Number of the champion's version at that time; None if there was no champion.
    """

    model: str
    version: int
    bundle: str
    created: datetime
    aliases: tuple[str, ...]
    tags: dict[str, str]
    champion: int | None


class DossierRun(_Record):
    """The MLflow run that made the version.

    Attributes:
        id: The run's id; empty if the version names no run.
        status: Status in MLflow; `MISSING` if MLflow has no such run.
        started: Start time, if it is known.
        ended: End time, if it is known.
        params: Parameters as MLflow shows them.
        metrics: Metrics as MLflow shows them, such as `challenger.top1`.
    """

    id: str
    status: str
    started: datetime | None
    ended: datetime | None
    params: dict[str, str]
    metrics: dict[str, float]


class Missing(_Record):
    """A part that could not be put into the dossier.

    Attributes:
        part: A key of PLACES, or the name of a stage.
        reason: The reason in words.
        broken: True if the store lacks the part or has other content there; False if the store is away.
    """

    part: str
    reason: str
    broken: bool

    def covers(self, path: Path) -> bool:
        """Return True if `path`, relative to the dossier, belongs to the part."""
        stage = f"{WORKSPACE}/{artefacts.out(self.part)}"
        places = PLACES.get(self.part, (stage,))
        return any(path.is_relative_to(place) for place in places)


class DossierFacts(_Record):
    """The facts that have no file of their own, from dossier.json.

    Attributes:
        schema_: Version of the format; `schema` in the file.
        collected: Time of the collection, in UTC.
        registry: Address of the registry, without passwords.
        registered: The version as the registry has it.
        run: The MLflow run that made the version.
        journal: All entries of the model's promotion journal, oldest first.
        heads: Version -> NUMBER:HASH of the last closed journal entry when that version was promoted.
        missing: The parts that could not be collected.
    """

    schema_: Literal["skumatch-dossier-1"] = Field(default="skumatch-dossier-1", alias="schema")
    collected: datetime
    registry: str
    registered: Registered
    run: DossierRun
    journal: tuple[Entry, ...]
    heads: dict[int, str] = {}
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True)
class Dossier:
    """Access to the files of a dossier.

    The folder has `run/` (the MLflow run's artifacts), `bundle/`, `workspace/` (the run's input set, its data
    and the outs of every stage), `git/` (the commit and its trees), data.dir.json (DVC's listing of the
    data), data.changes.json (the data's record of changes) and dossier.json.

    Attributes:
        folder: The dossier's folder.
        key: File of the public key (PEM) that must verify the provenance's signature; None to not require a
            signature.
    """

    folder: Path
    key: Path | None = None

    @cached_property
    def facts(self) -> DossierFacts:
        """The content of dossier.json.

        Raises:
            DataError: The folder is no dossier, or was written by another version of skumatch.
        """
        path = self.folder / FACTS
        try:
            return DossierFacts.model_validate(read_json(path))
        except (OSError, ValueError, ValidationError) as error:
            raise DataError(
                f"{path} can't be read as a dossier's facts;"
                " export the audit again (`skumatch audit --export`)."
            ) from error

    @cached_property
    def record(self) -> Lineage:
        """The run's lineage record. Raises DataError if it is missing or has another shape."""
        return self.read(Lineage, "lineage record", RUN, "lineage.json")

    @cached_property
    def code(self) -> CodeFacts:
        """The run's record of its code. Raises DataError if it is missing or has another shape."""
        return self.read(CodeFacts, "facts of code", WORKSPACE, artefacts.CODE.path)

    @cached_property
    def manifest(self) -> Manifest:
        """The registered bundle's bundle.json. Raises DataError if it is missing or has another shape."""
        return self.read(Manifest, "bundle's manifest", BUNDLE, MANIFEST)

    @cached_property
    def weights(self) -> WeightsFacts:
        """The facts of the base weights; for a refresh a record that says that there are none.

        Raises:
            DataError: They are missing or have another shape.
        """
        if self.record.inputs.weights == NO_WEIGHTS:
            return WeightsFacts(name=NO_WEIGHTS)
        return self.read(WeightsFacts, "facts of weights", WORKSPACE, artefacts.WEIGHTS_FACTS.path)

    @cached_property
    def decision(self) -> Decision:
        """The gate's decision as MLflow shows it. Raises DataError if it is missing or has another shape."""
        return self.read(Decision, "decision", RUN, artefacts.DECISION.logged())

    def evaluation(self, place: str, candidate: str) -> Evaluation:
        """Return the evaluation of one candidate.

        Args:
            place: RUN for MLflow's copy, WORKSPACE/out for the stage's own file.
            candidate: `challenger` or `refreshed`.

        Raises:
            DataError: The file is missing or has another shape.
        """
        path = artefacts.EVALUATION.logged(candidate=self.file_of(candidate))
        return self.read(Evaluation, "evaluation", place, path)

    def file_of(self, candidate: str) -> str:
        """Return the name of the candidate's files and figures.

        Runs from before gallery releases (lineage schema 1) call the refreshed candidate `champion`.
        """
        older = self.record.schema_ == "skumatch-lineage-1"
        return "champion" if older and candidate == REFRESHED else candidate

    @property
    def released(self) -> str:
        """The candidate that was registered as the version: `challenger` or `refreshed`."""
        return REFRESHED if self.record.results.verdict == "refresh" else CHALLENGER

    @property
    def made_bundle(self) -> str:
        """Path of the version's bundle as the run's stages wrote it, below WORKSPACE."""
        return artefacts.BUNDLE[self.released].path

    @cached_property
    def params(self) -> Params:
        """The parameters of the run. Raises ParameterError if they can't be used."""
        return load_params(self.workspace / "params.yaml")

    @property
    def workspace(self) -> Path:
        """The folder of the run's workspace."""
        return self.folder / WORKSPACE

    def path(self, *parts: str) -> Path:
        """Return the path of a part of the dossier; it need not exist."""
        return self.folder.joinpath(*parts)

    def there(self, *parts: str) -> Path:
        """Return the path of a part that exists. Raises FileNotFoundError, with the path, if it doesn't."""
        path = self.path(*parts)
        path.stat()
        return path

    def why(self, path: Path) -> Missing | None:
        """Return the entry of `missing` that explains why nothing is at `path`; None if none does.

        An entry that is broken takes precedence.
        """
        inside = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        entries = [entry for entry in self.facts.missing if entry.covers(inside)]
        return next((entry for entry in entries if entry.broken), entries[0] if entries else None)

    def json(self, *parts: str) -> dict[str, Any]:
        """Read a JSON object of the dossier. Raises DataError if it is missing or no JSON object."""
        try:
            tree = read_json(self.path(*parts))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{'/'.join(parts)} is missing or no JSON object") from error
        if not isinstance(tree, dict):
            raise DataError(f"{'/'.join(parts)} is missing or no JSON object")
        return tree

    def read(self, kind: type[Kind], name: str, *parts: str) -> Kind:
        """Read a JSON file of the dossier as a record.

        Args:
            kind: The record's class.
            name: Name of the file's content, for the error message.
            parts: The file's path below the dossier.

        Raises:
            DataError: The file is missing, or has another shape.
        """
        tree = self.json(*parts)
        try:
            return kind.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "all of it"
            problem = f"{'/'.join(parts)} is no {name} of this version of skumatch"
            raise DataError(f"{problem} ({where}: {first['msg']})") from error
