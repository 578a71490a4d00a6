"""Collect a version's dossier from the stores: MLflow, the DVC remote and git.

Everything is fetched from the stores; this machine's caches are not read.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import yaml

from skumatch.audit.dossier import (
    BUNDLE,
    CHANGES,
    FACTS,
    GIT,
    LISTING,
    MADE,
    NO_COMMIT,
    RUN,
    WORKSPACE,
    Dossier,
    DossierFacts,
    DossierRun,
    Missing,
    Registered,
)
from skumatch.audit.git_proof import keep_proof
from skumatch.audit.link import Broken
from skumatch.config import Settings
from skumatch.errors import BundleError, CodeError, DataError, StorageError
from skumatch.files import write_json
from skumatch.pipeline import inputs
from skumatch.pipeline.data_record import DataRecord
from skumatch.pipeline.erasure_record import ErasureRecord, Erasures
from skumatch.pipeline.repository import Repository, md5_of, pointer
from skumatch.pipeline.worker import stages
from skumatch.progress import Advance, track
from skumatch.promotion import promotion
from skumatch.registry.registry import ModelRef, Registry
from skumatch.registry.tracking import INPUTS_TAG
from skumatch.stages import artefacts
from skumatch.stages.runner import kind_of
from skumatch.texts import first_of

# Errors of a part that the store delivered, but that has other content than it should.
UNREADABLE = (
    BundleError,
    Broken,
    tarfile.TarError,
    yaml.YAMLError,
    ValueError,
    KeyError,
    TypeError,
    FileNotFoundError,
)


def collect(
    settings: Settings,
    registry: Registry,
    ref: ModelRef,
    folder: Path,
    pictures: bool = True,
    whole: bool = True,
) -> Dossier:
    """Fill a folder with a version's dossier.

    Parts that can't be collected are listed in the dossier's facts.

    Args:
        settings: Addresses of the stores, and the project's folder.
        registry: The registry that has the version.
        ref: The version.
        folder: A folder that is empty or doesn't exist yet.
        pictures: Fetch the data's shards as well, which may be large.
        whole: Fetch everything that a verification needs; else only the parts that the chain's facts come
            from, without the shards.

    Raises:
        DataError: The folder isn't empty.
        RegistryUnavailable: MLflow doesn't answer.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} isn't an empty folder; name a new folder for the dossier (--export).")
    missing: list[Missing] = []
    erasures = _erasures(settings)
    with track("collect", 4, "stores") as advance:
        run = _run(registry, ref, folder, missing, advance)
        with _noting(missing, BUNDLE):
            if erasure := erasures.of_bundle(ref.bundle):
                raise Erased(erasure.words)
            registry.download_bundle(ref, folder / BUNDLE)
        advance(text="bundle")
        with _noting(missing, WORKSPACE):
            _workspace(
                settings,
                ref,
                folder,
                pictures=pictures and whole,
                missing=missing,
                whole=whole,
                erasures=erasures,
            )
        advance(text="data and stages")
        with _noting(missing, GIT):
            _commit(settings, folder, missing)
        advance(text="commit")
    heads, champion = promotion.heads(registry), registry.champion()
    registered = Registered(
        model=registry.model_name,
        version=ref.version,
        bundle=ref.bundle,
        created=ref.created,
        aliases=ref.aliases,
        tags=dict(ref.tags),
        champion=champion.version if champion else None,
    )
    facts = DossierFacts(
        collected=datetime.now(UTC).replace(microsecond=0),
        registry=registry.shown,
        registered=registered,
        run=run,
        journal=tuple(promotion.history(registry)),
        heads=heads,
        missing=tuple(missing),
    )
    write_json(folder / FACTS, facts.model_dump(mode="json", by_alias=True))
    return Dossier(folder)


@contextmanager
def _noting(missing: list[Missing], part: str) -> Iterator[None]:
    """Append a part that can't be fetched to `missing` and go on, so that all other links are audited.

    A part is broken if its store answers, but lacks it or has other content there. A part is not broken if
    its store is away.
    """
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, BundleError | Broken):
            reason = f"{part} can't be read ({type(error).__name__}: {reason})"
        missing.append(Missing(part=part, reason=reason, broken=True))
    except (CodeError, StorageError, DataError) as error:
        missing.append(Missing(part=part, reason=str(error), broken=False))


class Erased(DataError):
    """A part is not in its store because of an erasure that is on record."""


def _erasures(settings: Settings) -> Erasures:
    """Return the remote's record of erasures; an empty one if the remote is away.

    The parts that come from the remote report that it is away.
    """
    with suppress(StorageError):
        return ErasureRecord(settings).read()
    return Erasures({})


def _fetch(repository: Repository, erasures: Erasures, *targets: str) -> None:
    """Pull `targets` as Repository.pull does, and tell apart why that fails.

    Raises:
        Broken: The remote answers, but lacks an object or has an object with another hash.
        Erased: The remote lacks objects, and the record of erasures names all of them.
        StorageError, DataError: The remote can't be read, as from Repository.pull.
    """
    try:
        repository.pull(*targets)
    except (StorageError, DataError) as error:
        wrong: list[str] = []
        with suppress(StorageError, DataError):  # away: the fetch's own words say so
            wrong = repository.amiss(*targets)
        if erasure := erasures.of_objects(wrong):
            raise Erased(erasure.words) from error
        if wrong := [digest for digest in wrong if digest not in erasures.objects]:
            digests = first_of(wrong, 3)
            raise Broken(
                f"the DVC remote answers, but what {', '.join(targets)} names"
                f" is gone or changed in it: {digests}"
            ) from error
        raise


def _run(
    registry: Registry, ref: ModelRef, folder: Path, missing: list[Missing], advance: Advance
) -> DossierRun:
    mlflow_run = registry.run(ref.run_id) if ref.run_id else None
    if mlflow_run is None:
        missing.append(
            Missing(part=RUN, reason=f"MLflow has no run {ref.run_id or '(none named)'}", broken=True)
        )
        advance()
        return DossierRun(id=ref.run_id, status="MISSING", started=None, ended=None, params={}, metrics={})
    with _noting(missing, RUN):
        registry.download_artifacts(ref.run_id, folder / RUN)
    advance(text="run")
    info = mlflow_run.info
    return DossierRun(
        id=ref.run_id,
        status=info.status,
        started=_utc(info.start_time),
        ended=_utc(info.end_time),
        params=dict(mlflow_run.data.params),
        metrics=dict(mlflow_run.data.metrics),
    )


def _utc(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _workspace(
    settings: Settings,
    ref: ModelRef,
    folder: Path,
    pictures: bool,
    missing: list[Missing],
    whole: bool,
    erasures: Erasures,
) -> None:
    """Rebuild the run's workspace from the remote alone: DVC gets a new, empty cache."""
    root = folder / WORKSPACE
    archive = ref.tags.get(INPUTS_TAG, "")
    if not archive:
        raise Broken(f"the version names no input set (its tag {INPUTS_TAG}), so its run can't be rebuilt")
    root.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as home:
        private = settings.model_copy(update={"home": Path(home), "remote": settings.remote_url})
        (root / f"{inputs.ARCHIVE}.dvc").write_text(pointer(archive, inputs.ARCHIVE), "utf-8")
        _fetch(Repository(root, private), erasures, f"{inputs.ARCHIVE}.dvc")
        inputs.unpack(root / inputs.ARCHIVE, root)
        lock = folder / RUN / "dvc.lock"
        if lock.is_file():
            shutil.copyfile(lock, root / "dvc.lock")
        repository = Repository(root, private)
        with _noting(missing, "data"):
            _data(repository, private.home_dir, folder, pictures, erasures)
        with _noting(missing, "changes"):
            chain = DataRecord(private).chain(md5_of((root / "data.dvc").read_text("utf-8")))
            write_json(folder / CHANGES, [change.model_dump(mode="json") for change in chain])
        pointers = {
            name: f"inputs/{name}.dvc" for name in inputs.NONE if (root / f"inputs/{name}.dvc").is_file()
        }
        targets = pointers | {MADE if name == BUNDLE else name: name for name in stages(root)}
        if not whole:  # the chain's facts need the base weights alone, and a refresh has none
            targets = {} if kind_of(root) == "refresh" else {"weights": artefacts.WEIGHTS_FACTS.path}
        for part, target in targets.items():
            with _noting(missing, part):
                _fetch(repository, erasures, target)
        shutil.rmtree(root / ".dvc", ignore_errors=True)


def _data(repository: Repository, home: Path, folder: Path, pictures: bool, erasures: Erasures) -> None:
    """Fetch the whole data, or without `pictures` its tables alone.

    Raises:
        Erased: Shards of the version were erased; its tables have been fetched.
    """
    tables = ["data/manifest.parquet", "data/import.json"]
    try:
        _fetch(repository, erasures, *(["data.dvc"] if pictures else tables))
    except Erased:
        shutil.rmtree(repository.folder / "data", ignore_errors=True)  # shards that were not erased
        _fetch(repository, erasures, *tables)
        _listing(repository.folder, home, folder)
        raise
    _listing(repository.folder, home, folder)


def _listing(root: Path, home: Path, folder: Path) -> None:
    """Copy DVC's listing of the data version into the dossier."""
    version = md5_of((root / "data.dvc").read_text("utf-8"))
    listing = home / "cache/files/md5" / version[:2] / version[2:]
    if not listing.is_file():  # DVC accepts a listing with another hash silently, but doesn't cache it
        raise Broken(f"the DVC remote has another listing than {version[:12]} of the data")
    shutil.copyfile(listing, folder / LISTING)


def _commit(settings: Settings, folder: Path, missing: list[Missing]) -> None:
    if not artefacts.CODE.exists(folder / WORKSPACE):
        return  # without the input set, which is noted, no commit is known
    facts, archive = Dossier(folder).code, folder / WORKSPACE / inputs.ARCHIVE
    reason = NO_COMMIT
    if facts.commit is not None:
        names = inputs.in_repository(inputs.code_of(archive), facts)
        reason = keep_proof(settings.project, facts.commit, names, folder / GIT)
    if reason:
        missing.append(Missing(part=GIT, reason=reason, broken=False))
