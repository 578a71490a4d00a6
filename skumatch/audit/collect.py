"""A dossier from the stores: MLflow, the DVC remote, git. Everything comes from there anew, nothing from this machine's caches."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import yaml

from skumatch.audit.dossier import BUNDLE, FACTS, GIT, LISTING, RUN, WORKSPACE, Dossier, Facts, Missing, Registered, Run
from skumatch.audit.git_proof import keep_proof
from skumatch.audit.link import Broken
from skumatch.config import Settings
from skumatch.errors import BundleError, DataError, StorageError
from skumatch.files import read_json, write_json
from skumatch.pipeline import inputs
from skumatch.pipeline.repository import Repository, md5_of, pointer
from skumatch.pipeline.worker import stages
from skumatch.progress import Advance, track
from skumatch.release import promotion
from skumatch.release.registry import ModelRef, Registry

INPUTS_TAG = "skumatch.inputs"
UNREADABLE = (
    BundleError,
    Broken,
    tarfile.TarError,
    yaml.YAMLError,
    ValueError,
    KeyError,
    TypeError,
    FileNotFoundError,
)  # it came, but is something else


def collect(settings: Settings, registry: Registry, ref: ModelRef, folder: Path, pictures: bool = True, whole: bool = True) -> Dossier:
    """Fill the empty `folder` with a version's dossier; what can't be had is named in its facts.

    pictures: the data's shards too, which may be large. whole: all that a verification needs; else what is told of a version.
    Raises DataError for a folder that isn't empty, RegistryUnavailable.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} isn't an empty folder; name a new folder for the dossier (--export).")
    missing: list[Missing] = []
    with track("collect", 4, "stores") as advance:
        run = _run(registry, ref, folder, missing, advance)
        with _noting(missing, BUNDLE):
            registry.download_bundle(ref, folder / BUNDLE)
        advance(text="bundle")
        with _noting(missing, WORKSPACE):
            _workspace(settings, ref, folder, pictures and whole, missing, whole)
        advance(text="data and stages")
        with _noting(missing, GIT):
            _commit(settings, folder, missing)
        advance(text="commit")
    heads, champion = promotion.heads(registry), registry.champion()
    registered = Registered(
        model=registry.model_name, version=ref.version, bundle=ref.bundle, created=ref.created, aliases=ref.aliases,
        tags=dict(ref.tags), champion=champion.version if champion else None,
    )  # fmt: skip
    facts = Facts(
        collected=datetime.now(UTC).replace(microsecond=0), registry=registry.shown, registered=registered, run=run,
        journal=tuple(promotion.history(registry)), heads=heads, missing=tuple(missing),
    )  # fmt: skip
    write_json(folder / FACTS, facts.model_dump(mode="json", by_alias=True))
    return Dossier(folder)


@contextmanager
def _noting(missing: list[Missing], part: str) -> Iterator[None]:
    """Note what a store can't give, and go on: an audit tells of every link it can look at.

    Broken is what a store gave, or should have: one that answers, but has something else there. Who is away broke nothing.
    """
    try:
        yield
    except UNREADABLE as error:
        words = " ".join(str(error).split())
        words = words if isinstance(error, BundleError | Broken) else f"{part} can't be read ({type(error).__name__}: {words})"
        missing.append(Missing(part=part, reason=words, broken=True))
    except (StorageError, DataError) as error:
        missing.append(Missing(part=part, reason=str(error), broken=False))


def _fetch(repository: Repository, *targets: str) -> None:
    """As Repository.pull. Raises Broken where the remote answers, but lacks an object or has other bytes than its hash."""
    try:
        repository.pull(*targets)
    except (StorageError, DataError) as error:
        wrong: list[str] = []
        with suppress(StorageError, DataError):  # away: the fetch's own words say so
            wrong = repository.amiss(*targets)
        if wrong:
            named = f"{', '.join(wrong[:3])}{' and more' if len(wrong) > 3 else ''}"
            raise Broken(f"the DVC remote answers, but what {', '.join(targets)} names is gone or changed in it: {named}") from error
        raise


def _run(registry: Registry, ref: ModelRef, folder: Path, missing: list[Missing], advance: Advance) -> Run:
    found = registry.run(ref.run_id) if ref.run_id else None
    if found is None:
        missing.append(Missing(part=RUN, reason=f"MLflow has no run {ref.run_id or '(none named)'}", broken=True))
        advance()
        return Run(id=ref.run_id, status="MISSING", started=None, ended=None, params={}, metrics={})
    with _noting(missing, RUN):
        registry.download_artifacts(ref.run_id, folder / RUN)
    advance(text="run")
    info = found.info
    started, ended = (datetime.fromtimestamp(at / 1000, UTC) if at else None for at in (info.start_time, info.end_time))
    params, metrics = dict(found.data.params), dict(found.data.metrics)
    return Run(id=ref.run_id, status=info.status, started=started, ended=ended, params=params, metrics=metrics)


def _workspace(settings: Settings, ref: ModelRef, folder: Path, pictures: bool, missing: list[Missing], whole: bool) -> None:
    """Rebuild the run's workspace, all from the remote: DVC gets a cache of its own, which is empty at first."""
    root = folder / WORKSPACE
    archive = ref.tags.get(INPUTS_TAG, "")
    if not archive:
        raise Broken(f"the version names no input set (its tag {INPUTS_TAG}), so its run can't be rebuilt")
    root.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        private = settings.model_copy(update={"home": Path(own), "remote": settings.remote_url})
        (root / f"{inputs.ARCHIVE}.dvc").write_text(pointer(archive, inputs.ARCHIVE), "utf-8")
        _fetch(Repository(root, private), f"{inputs.ARCHIVE}.dvc")
        inputs.unpack(root / inputs.ARCHIVE, root)
        lock = folder / RUN / "dvc.lock"
        if lock.is_file():
            shutil.copyfile(lock, root / "dvc.lock")
        repository = Repository(root, private)
        with _noting(missing, "data"):
            _data(repository, private.home_dir, folder, pictures)
        targets = {"weights": "inputs/weights.dvc", "champion": "inputs/champion.dvc"} | {name: name for name in stages(root)}
        for part, target in targets.items() if whole else (("weights", "inputs/weights/weights.json"),):
            with _noting(missing, part):
                _fetch(repository, target)
        shutil.rmtree(root / ".dvc", ignore_errors=True)


def _data(repository: Repository, home: Path, folder: Path, pictures: bool) -> None:
    root = repository.folder
    version = md5_of((root / "data.dvc").read_text("utf-8"))
    _fetch(repository, *(["data.dvc"] if pictures else ["data/manifest.parquet", "data/import.json"]))
    listing = home / "cache/files/md5" / version[:2] / version[2:]
    if not listing.is_file():  # DVC takes a listing of other files without a word, but doesn't keep it
        raise Broken(f"the DVC remote has another listing than {version[:12]} of the data")
    shutil.copyfile(listing, folder / LISTING)


def _commit(settings: Settings, folder: Path, missing: list[Missing]) -> None:
    code = folder / WORKSPACE / "inputs/code.json"
    commit = read_json(code)["commit"] if code.is_file() else None
    if commit is None:
        missing.append(Missing(part=GIT, reason="the run was made outside a git repository", broken=False))
    elif not keep_proof(settings.project, commit, inputs.code_of(folder / WORKSPACE / inputs.ARCHIVE), folder / GIT):
        why = f"{settings.project} is no git repository that has the commit {commit[:12]}"
        missing.append(Missing(part=GIT, reason=why, broken=False))
