"""A version's dossier: a folder with all that an audit of it needs, so that an audit needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skumatch.config import load_params
from skumatch.errors import DataError
from skumatch.files import read_json
from skumatch.params import Params
from skumatch.release.journal import Entry
from skumatch.release.lineage import Lineage

FACTS, LISTING = "dossier.json", "data.dir.json"
ORIGIN = "origin/provenance.dsse.json"  # among the run's artifacts
RUN, BUNDLE, WORKSPACE, GIT = "run", "bundle", "workspace", "git"
PLACES = {  # of the parts that a store may not give
    RUN: (RUN,),
    BUNDLE: (BUNDLE,),
    GIT: (GIT,),
    WORKSPACE: (WORKSPACE, LISTING),
    "data": (f"{WORKSPACE}/data", LISTING),
    "weights": (f"{WORKSPACE}/inputs/weights",),
    "champion": (f"{WORKSPACE}/inputs/champion",),
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

    journal: all entries of the model's journal, oldest first. heads: version -> the last entry (NUMBER:HASH) when it was promoted.
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
            raise DataError(f"{path} can't be read as a dossier's facts; export the audit again (`skumatch audit --export`).") from error

    @cached_property
    def record(self) -> Lineage:
        """The run's lineage record. Raises DataError if it is missing or none."""
        try:
            return Lineage.model_validate(self.json(RUN, "lineage.json"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "all of it"
            raise DataError(f"{RUN}/lineage.json is no lineage record of this version of skumatch ({where}: {first['msg']})") from error

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
        path = self.path(*parts)
        try:
            found: Mapping[str, Any] = read_json(path)
            return dict(found)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{'/'.join(parts)} is missing or no JSON object") from error
