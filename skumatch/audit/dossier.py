"""A version's dossier: a folder with all that an audit of it needs, so that an audit needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skumatch.config import load_params
from skumatch.errors import DataError
from skumatch.files import read_json
from skumatch.params import Params
from skumatch.release.bundle.manifest import MANIFEST, Manifest
from skumatch.release.gate import Decision
from skumatch.release.journal import Entry
from skumatch.release.lineage import NO_WEIGHTS, Lineage
from skumatch.release.registry import CHALLENGER, REFRESHED
from skumatch.retrieval.figures import Evaluation

Kind = TypeVar("Kind", bound=BaseModel)
FACTS, LISTING, CHANGES = "dossier.json", "data.dir.json", "data.changes.json"
ORIGIN = "origin/provenance.dsse.json"  # among the run's artifacts
RUN, BUNDLE, WORKSPACE, GIT = "run", "bundle", "workspace", "git"
MADE = f"out/{BUNDLE}"  # by the stage of the registered bundle's name
NO_COMMIT = "the run's code was under no git commit"
PLACES = {  # of the parts that a store may not give
    RUN: (RUN,),
    BUNDLE: (BUNDLE,),
    MADE: (f"{WORKSPACE}/{MADE}",),
    GIT: (GIT,),
    WORKSPACE: (WORKSPACE, LISTING),
    "data": (f"{WORKSPACE}/data", LISTING),
    "changes": (CHANGES,),
    "weights": (f"{WORKSPACE}/inputs/weights",),
    "champion": (f"{WORKSPACE}/inputs/champion",),
    "released": (f"{WORKSPACE}/inputs/released",),
    "trained": (f"{WORKSPACE}/inputs/trained",),
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Registered(_Record):
    """The version as the registry has it: its hash, what its aliases and tags say, and the champion now."""

    model: str
    version: int
    bundle: str
    created: datetime
    aliases: tuple[str, ...]
    tags: dict[str, str]
    champion: int | None


class Run(_Record):
    """The MLflow run that made the version."""

    id: str
    status: str
    started: datetime | None
    ended: datetime | None
    params: dict[str, str]
    metrics: dict[str, float]


class CodeFacts(BaseModel):
    """inputs/code.json: what the run knew of its code.

    folder: the project's path in its repository, with a slash at its end; empty where it is the root.
    """

    model_config = ConfigDict(strict=True)

    commit: str | None
    dirty: bool
    sha256: str
    folder: str = ""


class WeightsFacts(BaseModel):
    """inputs/weights/weights.json: the base weights; all but the name is missing where they are random."""

    name: str
    source: str = ""
    licence: str = ""


class Copies(BaseModel):
    """Pictures that are copies of others, as split.json counts them."""

    exact_images: int
    near_images: int


class SplitFacts(BaseModel):
    """split/split.json, as far as it is told: how many pictures have each role."""

    images: dict[str, int]
    duplicates: Copies


class SetAside(BaseModel):
    """A delivered picture that could not be used."""

    id: str
    reason: str


class Expectation(BaseModel):
    """What was asked of the data, as far as it is told: whether it was met."""

    passed: bool


class ValidationFacts(BaseModel):
    """validate/validation.json: expectations, sentences of warning, and the pictures that were set aside."""

    expectations: tuple[Expectation, ...]
    warnings: tuple[str, ...]
    quarantined: tuple[SetAside, ...]


class Missing(_Record):
    """A part that could not be put into the dossier. broken: the store has something else there than it should."""

    part: str
    reason: str
    broken: bool

    def covers(self, path: Path) -> bool:
        """Whether a path of the dossier belongs to the part."""
        places = PLACES.get(self.part, (f"{WORKSPACE}/out/{self.part}",))  # else the part is a stage
        return any(path.is_relative_to(place) for place in places)


class Facts(_Record):
    """dossier.json: what isn't a file of its own.

    journal: all entries of the model's journal, oldest first. heads: version -> the last entry (NUMBER:HASH)
        when it was promoted.
    """

    schema_: Literal["skumatch-dossier-1"] = Field(default="skumatch-dossier-1", alias="schema")
    collected: datetime
    registry: str
    registered: Registered
    run: Run
    journal: tuple[Entry, ...]
    heads: dict[int, str] = {}
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True)
class Dossier:
    """The folder: `run/` (the MLflow run's artifacts), `bundle/`, `workspace/` (the run's input set, data and every stage's outs),
    `git/` (the commit and its trees), data.dir.json (DVC's listing of the data), dossier.json.

    key: the public key (PEM) that its provenance must be signed with, if that is to be checked.
    """

    folder: Path
    key: Path | None = None

    @cached_property
    def facts(self) -> Facts:
        """Raises DataError for a folder that is no dossier, or one of another version of skumatch."""
        path = self.folder / FACTS
        try:
            return Facts.model_validate(read_json(path))
        except (OSError, ValueError, ValidationError) as error:
            raise DataError(
                f"{path} can't be read as a dossier's facts; export the audit again (`skumatch audit --export`)."
            ) from error

    @cached_property
    def record(self) -> Lineage:
        """The run's lineage record. Raises DataError if it is missing or none."""
        return self.read(Lineage, "lineage record", RUN, "lineage.json")

    @cached_property
    def code(self) -> CodeFacts:
        """What the run knew of its code. Raises DataError if that is missing or of another shape."""
        return self.read(CodeFacts, "facts of code", WORKSPACE, "inputs/code.json")

    @cached_property
    def manifest(self) -> Manifest:
        """bundle.json of the registered bundle. Raises DataError if it is missing or of another shape."""
        return self.read(Manifest, "bundle's manifest", BUNDLE, MANIFEST)

    @cached_property
    def weights(self) -> WeightsFacts:
        """What is known of the base weights; of a refresh, that there are none.

        Raises DataError if that is missing or of another shape.
        """
        if self.record.inputs.weights == NO_WEIGHTS:
            return WeightsFacts(name=NO_WEIGHTS)
        return self.read(WeightsFacts, "facts of weights", WORKSPACE, "inputs/weights/weights.json")

    @cached_property
    def decision(self) -> Decision:
        """The gate's decision, as MLflow shows it. Raises DataError if it is missing or of another shape."""
        return self.read(Decision, "decision", RUN, "gate/decision.json")

    def evaluation(self, place: str, who: str) -> Evaluation:
        """The evaluation of the candidate `who`, `challenger` or `refreshed`, below RUN or WORKSPACE/out.

        Raises DataError.
        """
        return self.read(Evaluation, "evaluation", place, f"evaluate/{self.file_of(who)}.json")

    def file_of(self, candidate: str) -> str:
        """What files and figures of a candidate are called.

        Before gallery releases the refreshed one was `champion`.
        """
        older = self.record.schema_ == "skumatch-lineage-1"
        return "champion" if older and candidate == REFRESHED else candidate

    @property
    def released(self) -> str:
        """The candidate that the version is of."""
        return REFRESHED if self.record.results.verdict == "refresh" else CHALLENGER

    @property
    def made_bundle(self) -> str:
        """Where the run's stages left the version's bundle, below WORKSPACE."""
        return "out/bundle/refreshed" if self.released == REFRESHED else "out/bundle/model"

    @cached_property
    def params(self) -> Params:
        """The parameters of the run."""
        return load_params(self.workspace / "params.yaml")

    @property
    def workspace(self) -> Path:
        return self.folder / WORKSPACE

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def there(self, *parts: str) -> Path:
        """As path. Raises FileNotFoundError, which names it, where nothing is there."""
        path = self.path(*parts)
        path.stat()
        return path

    def why(self, path: Path) -> Missing | None:
        """Why nothing is at a path, if that is known; what broke comes first."""
        inside = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        found = [one for one in self.facts.missing if one.covers(inside)]
        return next((one for one in found if one.broken), found[0] if found else None)

    def json(self, *parts: str) -> dict[str, Any]:
        """A JSON object of the dossier. Raises DataError if it is missing or none."""
        try:
            tree = read_json(self.path(*parts))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{'/'.join(parts)} is missing or no JSON object") from error
        if not isinstance(tree, dict):
            raise DataError(f"{'/'.join(parts)} is missing or no JSON object")
        return tree

    def read(self, kind: type[Kind], name: str, *parts: str) -> Kind:
        """A JSON file of the dossier as a record.

        Args:
            kind: the record's class.
            name: what the file is, for the sentence.
            parts: its path.

        Raises:
            DataError: the file is missing, or of another shape.
        """
        tree = self.json(*parts)
        try:
            return kind.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "all of it"
            said = f"{'/'.join(parts)} is no {name} of this version of skumatch"
            raise DataError(f"{said} ({where}: {first['msg']})") from error
