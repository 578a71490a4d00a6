"""A dossier from the stores: MLflow, the DVC remote, git. Everything comes from there anew, nothing from this machine's caches."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from skumatch.audit.dossier import BUNDLE, FACTS, GIT, LISTING, RUN, WORKSPACE, Dossier, Facts, Missing, Registered, Run
from skumatch.audit.git_proof import keep_proof
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
MD5 = "md5:"


def collect(settings: Settings, registry: Registry, ref: ModelRef, folder: Path, pictures: bool = True, whole: bool = True) -> Dossier:
    """Fill the empty `folder` with a version's dossier; what can't be had is named in its facts.

    pictures: the data's shards too, which may be large. whole: all that a verification needs; else what is told of a version.
    Raises DataError for a folder that isn't empty, RegistryUnavailable.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} isn't empty; name a new folder for the dossier (--export).")
    missing: list[Missing] = []
    with track("collect", 4, "stores") as advance:
        run = _run(registry, ref, folder, missing, advance)
        with _noting(missing, BUNDLE):
            registry.download_bundle(ref, folder / BUNDLE)
        advance(text="bundle")
        with _noting(missing, WORKSPACE):
            _workspace(settings, ref, folder, pictures and whole, missing, whole)
        advance(text="data and stages")
        _commit(settings, folder, missing)
        advance(text="commit")
    champion = registry.champion()
    registered = Registered(
        model=registry.model_name, version=ref.version, bundle=ref.bundle, created=ref.created, aliases=ref.aliases,
        tags=dict(ref.tags), champion=champion.version if champion else None,
    )  # fmt: skip
    facts = Facts(
        collected=datetime.now(UTC).replace(microsecond=0), registry=registry.shown, registered=registered, run=run,
        journal=tuple(promotion.history(registry)), missing=tuple(missing),
    )  # fmt: skip
    write_json(folder / FACTS, facts.model_dump(mode="json", by_alias=True))
    return Dossier(folder)


@contextmanager
def _noting(missing: list[Missing], part: str) -> Iterator[None]:
    """Note what a store can't give, and go on: an audit tells of every link it can look at."""
    try:
        yield
    except (BundleError, StorageError, DataError) as error:
        missing.append(Missing(part=part, reason=str(error), broken=isinstance(error, BundleError)))


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
        raise DataError("The version names no input set (its tag skumatch.inputs), so its run can't be rebuilt")
    root.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        private = settings.model_copy(update={"home": Path(own), "remote": settings.remote_url})
        (root / f"{inputs.ARCHIVE}.dvc").write_text(pointer(archive, inputs.ARCHIVE), "utf-8")
        Repository(root, private).pull(f"{inputs.ARCHIVE}.dvc")
        inputs.unpack(root / inputs.ARCHIVE, root)
        lock = folder / RUN / "dvc.lock"
        if lock.is_file():
            shutil.copyfile(lock, root / "dvc.lock")
        repository = Repository(root, private)
        with _noting(missing, "data"):
            _data(repository, private.home_dir, folder, pictures)
        targets = ("inputs/weights.dvc", "inputs/champion.dvc", *stages(root)) if whole else ("inputs/weights/weights.json",)
        for target in targets:
            with _noting(missing, target.removesuffix(".dvc").removeprefix("inputs/")):
                repository.pull(target)
        shutil.rmtree(root / ".dvc", ignore_errors=True)


def _data(repository: Repository, home: Path, folder: Path, pictures: bool) -> None:
    root = repository.folder
    version = md5_of((root / "data.dvc").read_text("utf-8"))
    repository.pull(*(["data.dvc"] if pictures else ["data/manifest.parquet", "data/import.json"]))
    shutil.copyfile(home / "cache/files/md5" / version[:2] / version[2:], folder / LISTING)


def _commit(settings: Settings, folder: Path, missing: list[Missing]) -> None:
    code = folder / WORKSPACE / "inputs/code.json"
    commit = read_json(code)["commit"] if code.is_file() else None
    if commit is None:
        missing.append(Missing(part=GIT, reason="the run was made outside a git repository", broken=False))
    elif not keep_proof(settings.project, commit, inputs.code_of(folder / WORKSPACE / inputs.ARCHIVE), folder / GIT):
        why = f"{settings.project} is no git repository that has the commit {commit[:12]}"
        missing.append(Missing(part=GIT, reason=why, broken=False))
