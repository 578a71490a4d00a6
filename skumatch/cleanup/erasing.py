"""An erasure: find every file that holds erased pictures, report the losses, and delete the files.

The record of data says which pictures were erased. Manifests and listings of data versions are kept, so the
pictures that a version had and its missing shards stay known.

An erasure may be killed at any moment, so its order matters. It first writes its record, with all that it
will delete. Then it tags the model versions, and deletes files in MLflow, in the remote and on this machine.
At the end it writes the record again. In a store it deletes a result before the folders that the result
names, and a folder before its files. The next erasure reads the record of a killed one and deletes the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from skumatch.cleanup import leftovers
from skumatch.cleanup.cleanup import Pile, check_place, steps
from skumatch.cleanup.holders import Contents, HeldVersion, holding, look, made_of, stray_shards
from skumatch.cleanup.references import named, path_of, pointers
from skumatch.cleanup.retention import Deletable, outs_of, unneeded
from skumatch.cleanup.stores import File, ObjectStore
from skumatch.config import Settings
from skumatch.errors import CleaningRefused, LossNotAccepted
from skumatch.files import disk_errors, md5
from skumatch.pipeline.claims import cleaning
from skumatch.pipeline.data_record import DataChange, DataRecord
from skumatch.pipeline.erasure_record import (
    ErasedVersion,
    Erasure,
    ErasureRecord,
    Erasures,
    erase_changes,
    merged,
    new_name,
)
from skumatch.pipeline.inputs import data_pointer
from skumatch.pipeline.message import run_name
from skumatch.pipeline.pull import open_tracking
from skumatch.pipeline.repository import md5_of
from skumatch.progress import Advance, silent
from skumatch.registry import erasable
from skumatch.registry.erasable import KeptGallery, KnownRun, Release
from skumatch.registry.holdings import holdings
from skumatch.registry.tracking import Tracking

FLAG = "--accept-loss"
WITHOUT_PICTURES = "docs.html"  # Great Expectations' pages


@dataclass(frozen=True)
class Losses:
    """Losses that an erasure causes.

    Attributes:
        versions: model versions that can't serve afterwards, or can't be made again.
        data: MD5s of data versions that lack shards afterwards.
    """

    versions: frozenset[ErasedVersion] = frozenset()
    data: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.versions or self.data)

    def beyond(self, accepted: Losses) -> Losses:
        """Return the losses that are not among the accepted ones."""
        return Losses(self.versions - accepted.versions, self.data - accepted.data)


@dataclass(frozen=True, eq=False)
class ErasurePlan:
    """The deletions of an erasure.

    Attributes:
        piles: files to delete, by kind, in the order of their deletion.
        erasure: the record to write; None where no picture was ever erased.
        losses: losses that no earlier erasure has in its record.
        name: the file name of the record of a killed erasure that this one finishes; empty for a new one.
    """

    piles: list[Pile]
    erasure: Erasure | None
    losses: Losses
    name: str = ""

    @property
    def count(self) -> int:
        """The number of files and folders to delete."""
        return sum(len(pile.items) for pile in self.piles)


def plan(settings: Settings, who: str) -> ErasurePlan:
    """Find everything that holds pictures that were erased; nothing is written.

    Args:
        settings: this machine's settings.
        who: the person who erases, for the record.

    Raises:
        CleaningRefused: today's data or a champion's gallery has an erased picture, or a manifest is missing.
        RegistryUnavailable: MLflow is away.
        StorageError: a store is away.
    """
    changes, erasures = DataRecord(settings).erasures(), ErasureRecord(settings).read()
    pictures = {picture for change in changes for picture in change.erased}
    if not pictures:
        return ErasurePlan([], None, Losses())
    tracking, contents = open_tracking(settings), look(settings)
    _check_mlflow(settings, tracking, contents)
    affected = {version.md5: version for version in contents.data_versions() if len(version.having(pictures))}
    _check_current(settings, affected)
    releases, runs = erasable.releases(tracking), erasable.runs(tracking)
    ids = {name: frozenset(version.having(pictures)["id"]) for name, version in affected.items()}
    galleries = [kept for kept in erasable.galleries(tracking, affected.keys()) if kept.ids & ids[kept.data]]
    _check_champions(releases, galleries)
    objects = _objects(contents, runs, releases, galleries, pictures, affected, ids)
    places = _Places(settings, contents, tracking, objects | erasures.objects)
    bundles = {kept.bundle for kept in galleries}
    versions = _versions(contents, releases, bundles, affected, objects)
    recorded = {erased.bundle for erased in erasures.versions if erased.gallery}
    pages = erasable.pages(tracking, affected.keys())
    piles = [
        places.in_mlflow([*(kept.artifact for kept in galleries), *pages]),
        *places.in_stores(contents.vectors(pictures)),
        places.bundles(bundles | recorded),
        places.reports(runs, affected.keys()),
        places.project(),
    ]
    whole = {name: affected[name] for name in affected if path_of(name) in contents.files[1]}
    losses = _losses(versions, whole, erasures)
    erasure = _erasure(who, changes, pictures, piles, objects & contents.digests, versions, whole)
    return _continued(ErasurePlan(piles, erasure, losses), erasures)


def _check_mlflow(settings: Settings, tracking: Tracking, contents: Contents) -> None:
    """Refuse an MLflow server that knows no run of this remote: it can't say what model versions rest on."""
    if any(name.startswith("runs/") for name in contents.files[1]):
        check_place(settings, *contents.files, holdings(tracking, datetime.now(UTC)))


def _check_current(settings: Settings, affected: Mapping[str, HeldVersion]) -> None:
    """Raise CleaningRefused if today's data version has an erased picture."""
    if not (settings.project / "data.dvc").is_file():
        return
    version = md5_of(data_pointer(settings.project, None))
    if version in affected:
        again = "`skumatch data erase` takes it out, or check out the newest data.dvc"
        refusal = f"data.dvc names data version {version[:12]}, which has a picture that was erased"
        raise CleaningRefused(f"{refusal}; {again}. Nothing was deleted.")


def _check_champions(releases: Iterable[Release], galleries: Iterable[KeptGallery]) -> None:
    """Raise CleaningRefused if a champion's gallery has an erased picture."""
    held = {kept.bundle for kept in galleries}
    for release in releases:
        if release.champion and release.bundle in held:
            refusal = f"The champion of '{release.model}', version {release.version}, has an erased picture"
            cure = "`skumatch refresh` makes one without it first"
            raise CleaningRefused(f"{refusal} in its gallery; {cure}. Nothing was deleted.")


def _objects(
    contents: Contents,
    runs: Iterable[KnownRun],
    releases: Iterable[Release],
    galleries: Iterable[KeptGallery],
    pictures: set[str],
    affected: Mapping[str, HeldVersion],
    ids: Mapping[str, frozenset[str]],
) -> set[str]:
    """Return the MD5s of all of DVC's objects that hold any of the pictures.

    Args:
        contents: objects of cache and remote.
        runs: all runs of MLflow, with their locks.
        releases: all registered versions.
        galleries: MLflow's galleries that hold any of the pictures.
        pictures: SHA-256 of the erased pictures.
        affected: MD5 -> data version, of those that have any of the pictures.
        ids: MD5 of an affected data version -> ids of these pictures in it.
    """
    bundles: dict[str, set[str]] = {}
    for release in releases:
        bundles.setdefault(release.bundle, set()).add(release.data)
    made = made_of(contents, (run.lock for run in runs), bundles)
    shards = {digest for version in affected.values() for digest in version.shards_of(pictures)}
    results = holding(contents, made, pictures, ids)
    return shards | results | {kept.md5 for kept in galleries} | stray_shards(contents, pictures)


def _versions(
    contents: Contents,
    releases: Iterable[Release],
    bundles: set[str],
    affected: Mapping[str, HeldVersion],
    objects: set[str],
) -> list[ErasedVersion]:
    """Return the model versions that can't serve afterwards, or can't be made again.

    A version can't serve if the gallery of its bundle is deleted. It can't be made again if its data version
    is affected, or if its input set names an object that is deleted.
    """
    concerned: list[ErasedVersion] = []
    for release in releases:
        gallery = release.bundle in bundles
        archive = contents.small([release.inputs]).get(release.inputs) if release.inputs else None
        texts = pointers(archive) if archive else ()
        rests_on = {digest for text in texts for digest in named(text, f"The input set {release.inputs}")}
        if gallery or release.data in affected or rests_on & objects:
            fields = {"model": release.model, "version": release.version, "bundle": release.bundle}
            concerned.append(ErasedVersion.model_validate(fields | {"gallery": gallery}))
    return concerned


def _losses(versions: Iterable[ErasedVersion], affected: Iterable[str], erasures: Erasures) -> Losses:
    """Return the losses that no erasure has in its record yet.

    A version that couldn't be made again counts once more where it now loses its gallery, too.
    """
    # version -> whether a recorded erasure deleted its gallery; -1 below stands for a version without record
    recorded = {(erased.model, erased.version): False for erased in erasures.versions}
    recorded |= {(erased.model, erased.version): True for erased in erasures.versions if erased.gallery}
    new = [erased for erased in versions if erased.gallery > recorded.get((erased.model, erased.version), -1)]
    return Losses(frozenset(new), frozenset(name for name in affected if erasures.of_data(name) is None))


def _erasure(
    who: str,
    changes: list[DataChange],
    pictures: set[str],
    piles: list[Pile],
    objects: set[str],
    versions: list[ErasedVersion],
    affected: Mapping[str, HeldVersion],
) -> Erasure:
    """Return the record of all deletions of this erasure."""
    names = {pile.kind: [item.name for item in pile.items] for pile in piles}
    shards = {name: objects.intersection(version.shards_of(pictures)) for name, version in affected.items()}
    return Erasure(
        begun=datetime.now(UTC),
        who=who,
        changes=erase_changes(changes),
        pictures=sorted(pictures),
        data={name: sorted(digests) for name, digests in shards.items() if digests},
        objects=sorted(objects),
        versions=versions,
        vectors=names["vectors"],
        artifacts=names["mlflow"],
    )


def _continued(made: ErasurePlan, erasures: Erasures) -> ErasurePlan:
    """Add the deletions that a killed erasure has in its record to the plan, so that it finishes them."""
    if erasures.open and made.erasure:
        name, begun = erasures.open
        return ErasurePlan(made.piles, merged([begun, made.erasure]), made.losses, name)
    return made


def erase(
    settings: Settings, who: str, accepted: Losses, advance: Advance = silent
) -> dict[str, list[Deletable]]:
    """Make a new plan, delete everything that holds erased pictures, and return the deleted items by kind.

    Args:
        settings: this machine's settings.
        who: the person who erases, for the record.
        accepted: the losses that the person accepted.
        advance: called with the number of files that were deleted, after each step.

    Raises:
        LossNotAccepted: more would be lost than is accepted; nothing was deleted.
        CleaningRefused: a run is at work, or as for `plan`.
        RegistryUnavailable: MLflow is away.
        StorageError: a store is away.
    """
    record = ErasureRecord(settings)
    with cleaning(settings) as still:
        made = plan(settings, who)
        if beyond := made.losses.beyond(accepted):
            raise LossNotAccepted(f"{in_words(beyond)}; nothing was deleted. Say {FLAG} if that may be.")
        erasure, name = made.erasure, made.name
        gone: dict[str, list[Deletable]] = {pile.kind: [] for pile in made.piles}
        if erasure is None or (not made.count and not name):
            return gone
        name = name or new_name(erasure.begun)
        record.write(name, erasure)
        _mark(open_tracking(settings), erasure)
        for pile in made.piles:
            for step in steps(pile.items):
                still()
                pile.remove([item.name for item in step])
                gone[pile.kind] += step
                advance(len(step), text=pile.kind)
        record.write(name, erasure.model_copy(update={"finished": datetime.now(UTC)}))
    return gone


def _mark(tracking: Tracking, erasure: Erasure) -> None:
    """Tag the model versions whose gallery is deleted, except those that have the tag already."""
    marked = {(release.model, release.version) for release in erasable.releases(tracking) if release.erased}
    for erased in erasure.versions:
        if erased.gallery and (erased.model, erased.version) not in marked:
            erasable.mark(tracking, erased.model, erased.version, erasure.words)


def in_words(losses: Losses) -> str:
    """Return the losses as the beginning of a sentence."""
    serve = sorted(erased.version for erased in losses.versions if erased.gallery)
    again = sorted(erased.version for erased in losses.versions if not erased.gallery)
    data = sorted(name[:12] for name in losses.data)
    parts = [f"version {', '.join(map(str, serve))} could serve no more"] if serve else []
    parts += [f"version {', '.join(map(str, again))} could not be made again"] if again else []
    parts += [f"data version {', '.join(data)} would lack shards"] if data else []
    return "; ".join(parts).capitalize()


@dataclass(frozen=True, eq=False)
class _Places:
    """The places with files that hold erased pictures; each method returns the piles of one.

    Attributes:
        settings: this machine's settings.
        contents: objects of cache and remote.
        tracking: MLflow.
        objects: MD5s of DVC's objects that hold erased pictures now, or did by the record of an erasure.
    """

    settings: Settings
    contents: Contents
    tracking: Tracking
    objects: set[str]

    def in_mlflow(self, artifacts: Iterable[erasable.Artifact]) -> Pile:
        """Return the artifacts of MLflow as a pile."""
        by_name = {artifact.name: artifact for artifact in artifacts}
        items = tuple(sorted(Deletable(0, name, artifact.size) for name, artifact in by_name.items()))

        def remove(names: list[str]) -> None:
            for name in names:
                erasable.remove(self.tracking, by_name[name])

        return Pile("mlflow", items, remove)

    def in_stores(self, vectors: list[str]) -> list[Pile]:
        """Return the piles of the remote, of the vector store's parts `vectors` in it, and of the cache."""
        (cache, remote), (in_cache, in_remote) = self.contents.stores, self.contents.files
        ranks = {name: 0 if name.endswith(".json") else 1 for name in vectors}
        parts = tuple(sorted(Deletable(rank, name, in_remote[name].size) for name, rank in ranks.items()))
        return [
            Pile("remote", self._doomed(remote, in_remote), remote.remove),
            Pile("vectors", parts, remote.remove),
            Pile("cache", self._doomed(cache, in_cache), cache.remove),
        ]

    def _doomed(self, store: ObjectStore, files: dict[str, File]) -> tuple[Deletable, ...]:
        """Return a store's objects to delete, and the results that offer any of them."""
        results = {name: data for name, data in self.contents.results(store, files).items() if name in files}
        outs = {digest for data in results.values() for digest in outs_of(data) or ()}
        return tuple(unneeded(files, results, (self.contents.digests | outs) - self.objects))

    def bundles(self, hashes: Iterable[str]) -> Pile:
        """Return this machine's copies of the bundles with these hashes as a pile."""
        folders = [self.settings.home_dir / "bundles" / digest for digest in sorted(hashes)]
        existing = [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]
        items = tuple(Deletable(0, str(folder), _size_of(folder)) for folder in existing)
        return Pile("bundles", items, lambda names: leftovers.remove(map(Path, names)))

    def reports(self, runs: Iterable[KnownRun], affected: Iterable[str]) -> Pile:
        """Return the pages of all runs except those that MLflow knows to be of other data.

        MLflow doesn't know dry runs, so their pages are deleted, too.
        """
        doomed, root = set(affected), self.settings.home_dir / "reports"
        kept = {run_name(run.name) for run in runs if run.data not in doomed}
        pages = [page for page in root.rglob("*.html") if page.name != WITHOUT_PICTURES] if doomed else []
        names = {page: page.relative_to(root).parts[0].removesuffix(".html") for page in pages}
        return self._files("reports", [page for page, name in names.items() if name not in kept])

    def project(self) -> Pile:
        """Return the results of stages that were run by hand in the project."""
        root = self.settings.project
        files = [path for name in ("out", "inputs") for path in (root / name).rglob("*") if path.is_file()]
        doomed = [path for path in files if md5(path) in self.objects]
        pages = list((root / "log/pages").glob("*.html")) if self.objects else []
        return self._files("project", [*doomed, *pages])

    def _files(self, kind: str, paths: list[Path]) -> Pile:
        return Pile(
            kind, tuple(Deletable(0, str(path), path.stat().st_size) for path in sorted(paths)), _unlink
        )


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _unlink(names: list[str]) -> None:
    with disk_errors("this machine's home"):
        for name in names:
            Path(name).unlink(missing_ok=True)
