"""The lineage record of a run: its inputs, the inputs and outputs of each stage, its results, by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from skumatch.errors import DataError
from skumatch.files import canonical_json

SHA256 = r"^[0-9a-f]{64}$"
NO_WEIGHTS = "none: the champion's encoder"  # of a refresh, which starts from no base weights
Hash = Field(pattern=SHA256)
MaybeHash = Field(default=None, pattern=SHA256)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackageRecord(_Record):
    """An installed skumatch.

    Attributes:
        version: its version.
        sha256: hash over its files as its wheel lists them; empty for an installation from a checkout.
    """

    version: str
    sha256: str


class CodeRecord(_Record):
    """The code of a run.

    Attributes:
        commit: the commit; None outside a repository.
        dirty: whether the working tree differed from the commit.
        files: one hash over all code files.
        package: the installed skumatch; None if the project's own folder skumatch/ was the code.
    """

    commit: str | None
    dirty: bool
    files: str = Hash
    package: PackageRecord | None = None


class Inputs(_Record):
    """The inputs of a run.

    Attributes:
        kind: `retrain` or `refresh`.
        archive: MD5 of the input set, from which the run can be rebuilt.
        data: DVC's hash of data/ (`md5:....dir`).
        champion: hash of the champion's bundle; None if there was none.
        champion_version: the champion's version.
        released: hash of the bundle in which the champion's encoder was first released; None if that is the
            champion.
        trained: hash of the bundle whose encoder was judged again; None if this run trained it, or there is
            none.
        weights: name of the base weights.
        weights_sha256: their hash.
        params: hash of params.yaml as it ran, `overrides` included.
        overrides: the overrides of parameters, each as section.name=value.
        environment: hash of constraints.txt.
    """

    kind: Literal["retrain", "refresh"] = "retrain"
    archive: str
    data: str
    champion: str | None = MaybeHash
    champion_version: int | None = None
    released: str | None = MaybeHash
    trained: str | None = MaybeHash
    weights: str
    weights_sha256: str | None = MaybeHash
    params: str = Hash
    overrides: tuple[str, ...] = ()
    environment: str = Hash


class Stage(_Record):
    """One stage of dvc.lock.

    Attributes:
        command: its command.
        deps: `algorithm:hash` of each path that it read.
        params: the parameters that it depends on.
        outs: `algorithm:hash` of each path that it wrote.
    """

    command: str
    deps: dict[str, str]
    params: dict[str, Any]
    outs: dict[str, str]


class Results(_Record):
    """The results of a run. The registered version is recorded in MLflow only.

    Attributes:
        challenger: hash of the challenger's evaluation; None in a refresh.
        champion: hash of the evaluation of the champion's encoder on today's gallery; None without one.
        answers: hash of the table of served answers of each candidate.
        decision: hash of the decision's file.
        verdict: the gate's verdict.
        bundle: hash of the bundle.
    """

    challenger: str | None = MaybeHash
    champion: str | None = MaybeHash
    answers: str | None = MaybeHash
    decision: str = Hash
    verdict: Literal["first", "promote", "refresh", "keep", "refuse"]
    bundle: str = Hash


class Lineage(_Record):
    """The whole record. Records of schemas 1 and 2 still can be read.

    Schema 1 is from before there were gallery releases, schema 2 from before the run's times were recorded.

    Attributes:
        schema_: name of the schema (`schema` in JSON).
        run: skumatch's name of the run.
        started: when its first task began; None where that isn't recorded.
        ended: when its last result was there, before its registration; None where that isn't recorded.
        code: its code.
        inputs: its inputs.
        stages: its stages by name.
        results: its results.
    """

    schema_: Literal["skumatch-lineage-1", "skumatch-lineage-2", "skumatch-lineage-3"] = Field(
        default="skumatch-lineage-3", alias="schema"
    )
    run: str = Field(min_length=1)
    started: datetime | None = None
    ended: datetime | None = None
    code: CodeRecord
    inputs: Inputs
    stages: dict[str, Stage]
    results: Results


def lineage(
    run: str,
    started: datetime | None,
    ended: datetime | None,
    code: CodeRecord,
    inputs: Inputs,
    lock: str,
    results: Results,
) -> dict[str, Any]:
    """Return the lineage record of a run, ready for write_json.

    Args:
        run: skumatch's name of the run.
        started: when its first task began; None if that isn't known.
        ended: when its last result was there.
        code: its code.
        inputs: its inputs.
        lock: the text of its dvc.lock.
        results: its results.

    Raises:
        DataError: the lock can't be read.
    """
    record = Lineage(
        run=run,
        started=started,
        ended=ended,
        code=code,
        inputs=inputs,
        stages=stages_of(lock),
        results=results,
    )
    return record.model_dump(mode="json", by_alias=True)


def record_hash(record: dict[str, Any]) -> str:
    """Return the hash of a record: SHA-256 of its canonical JSON, which is also the hash of its file."""
    return hashlib.sha256(canonical_json(record).encode()).hexdigest()


def stages_of(lock: str) -> dict[str, Stage]:
    """Return the stages of a dvc.lock in order of name.

    Raises:
        DataError: the text is no complete lock.
    """
    try:
        tree = yaml.safe_load(lock)
        stages = {str(name): _stage(entry) for name, entry in sorted(tree["stages"].items())}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"The run's dvc.lock can't be read ({type(error).__name__}); run the workflow again."
        ) from error
    if not stages:
        raise DataError("The run's dvc.lock has no stages; run the workflow again.")
    return stages


def _stage(entry: dict[str, Any]) -> Stage:
    return Stage(
        command=str(entry["cmd"]),
        deps=_hashes(entry.get("deps", [])),
        params=entry.get("params", {}),
        outs=_hashes(entry.get("outs", [])),
    )


def _hashes(entries: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {
        entry["path"]: f"{algorithm}:{entry[algorithm]}"
        for entry in entries
        for algorithm in [entry.get("hash", "md5")]
    }
