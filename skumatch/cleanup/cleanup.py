"""A clean-up (`skumatch gc`): list the files in all stores that nothing needs any more, and delete them.

It deletes only files that it listed before for the person, and that a second look finds unneeded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from skumatch.cleanup import leftovers
from skumatch.cleanup.references import Objects, closure, in_history, named, path_of
from skumatch.cleanup.retention import (
    Deletable,
    counts,
    idle_checkpoints,
    idle_vectors,
    old_claims,
    stored,
    unneeded,
)
from skumatch.cleanup.stores import File, ObjectStore
from skumatch.config import Settings
from skumatch.errors import CleaningRefused
from skumatch.pipeline.claims import Board, Claim, cleaning
from skumatch.pipeline.pull import open_tracking
from skumatch.pipeline.run_cache import RESULT
from skumatch.progress import Advance, silent
from skumatch.registry.holdings import Holding, holdings
from skumatch.registry.tracking import Tracking

DAY = 86_400.0  # seconds
AT_ONCE = 500  # items per step; before each step the clean-up renews its right to delete


@dataclass(frozen=True)
class Limits:
    """How long a clean-up keeps files.

    Attributes:
        age: days for which every file is kept.
        keep_runs: days for which the objects of MLflow's runs are kept.
        now: seconds since 1970.
    """

    age: float
    keep_runs: float
    now: float

    @property
    def since(self) -> float:
        """Files of this time or later are kept; seconds since 1970."""
        return self.now - self.age * DAY

    @property
    def runs_since(self) -> datetime:
        """The objects of runs of this time or later are kept."""
        return datetime.fromtimestamp(self.now - self.keep_runs * DAY, UTC)


@dataclass(frozen=True)
class Pile:
    """The items of one kind to delete.

    Attributes:
        kind: name of the kind, as the CLI shows it.
        items: files or folders in the order of their deletion.
        remove: deletes items by their names.
    """

    kind: str
    items: tuple[Deletable, ...]
    remove: Callable[[list[str]], None]


def piles(settings: Settings, limits: Limits) -> list[Pile]:
    """Return all items that aren't needed any more, one pile per kind; nothing is written.

    Raises:
        RegistryUnavailable: MLflow is away.
        StorageError: a store can't be read.
        CleaningRefused: the needed objects can't be determined.
    """
    cache, remote = ObjectStore(str(own_place(settings, "cache"))), ObjectStore(settings.remote_url)
    if settings.remote is None:
        own_place(settings, "remote")
    # The files are listed first and the references to them afterwards. So a file that is written meanwhile is
    # not in the list, and a reference that is written meanwhile is seen.
    in_cache, in_remote = cache.files(), remote.files()
    claims = Board(settings.remote_url).claims()
    records = holdings(open_tracking(settings), limits.runs_since)
    check_place(settings, in_cache, in_remote, records)
    young = stored(in_cache, limits.since) | stored(in_remote, limits.since)
    roots, archives = _roots(settings, limits, claims, records, young)
    needed = closure(roots, archives, Objects((cache, remote)))
    folders = leftovers.leftovers(settings.home_dir, limits.now)
    workspaces = tuple(sorted(Deletable(0, str(folder), size) for folder, size in folders.items()))
    return [
        Pile("workspaces", workspaces, _remove_folders),
        Pile("cache", _unneeded(cache, in_cache, needed), cache.remove),
        Pile("remote", _unneeded(remote, in_remote, needed), remote.remove),
        Pile("checkpoints", tuple(idle_checkpoints(in_remote, limits.since)), remote.remove),
        Pile("vectors", tuple(idle_vectors(in_remote, needed, limits.since)), remote.remove),
        Pile("claims", tuple(old_claims(in_remote, claims, limits.since, limits.now)), remote.remove),
    ]


def _roots(
    settings: Settings, limits: Limits, claims: dict[str, Claim], records: list[Holding], young: set[str]
) -> tuple[set[str], set[str]]:
    """Return the objects that are needed, and the input sets, whose pointers name further objects."""
    counted = [claim for claim in claims.values() if counts(claim, limits.since, limits.now)]
    holders = list(records)
    holders += [Holding(f"The claim of run {claim.run}", claim.inputs, claim.lock) for claim in counted]
    in_locks = {digest for holder in holders for digest in named(holder.lock, f"{holder.who}: its lock")}
    return young | in_history(settings.project) | in_locks, {holder.inputs for holder in holders} - {""}


def _unneeded(store: ObjectStore, files: dict[str, File], needed: set[str]) -> tuple[Deletable, ...]:
    """Return a store's results and objects that aren't needed, in the order of their deletion."""
    results = store.read(name for name in files if RESULT.fullmatch(name))
    return tuple(unneeded(files, {name: data for name, data in results.items() if name in files}, needed))


def own_place(settings: Settings, name: str) -> Path:
    """Return the folder `name` in this machine's home.

    Raises:
        CleaningRefused: it is a symbolic link, which a clean-up doesn't follow.
    """
    place = settings.home_dir / name
    if place.is_symlink():
        cure = "set SKUMATCH_HOME or SKUMATCH_REMOTE to where things are"
        raise CleaningRefused(f"{place} is a link, and a clean-up follows none; {cure}.")
    return place


def check_place(
    settings: Settings, in_cache: dict[str, File], in_remote: dict[str, File], records: list[Holding]
) -> None:
    """Raise CleaningRefused if the MLflow server knows no run whose input set is in the remote.

    To another server, or an empty one, every object in the remote would look unneeded.

    Args:
        settings: this machine's settings, with the addresses of remote and server.
        in_cache: files of the cache.
        in_remote: files of the remote.
        records: the holdings that MLflow knows.
    """
    known = any(path_of(holding.inputs) in in_remote for holding in records)
    if not known and any(name.startswith("files/") for name in (*in_cache, *in_remote)):
        store, server = ObjectStore(settings.remote_url).shown, Tracking(settings.mlflow_url).shown
        fault = f"MLflow at {server} knows of no run whose input set is in {store}"
        raise CleaningRefused(
            f"{fault}, so it can't say what is needed there; "
            "check SKUMATCH_MLFLOW and SKUMATCH_REMOTE, or make a first run."
        )


def _remove_folders(names: list[str]) -> None:
    leftovers.remove(Path(name) for name in names)


def delete(
    settings: Settings, limits: Limits, shown: list[Pile], advance: Advance = silent
) -> dict[str, list[Deletable]]:
    """Delete the shown items that still aren't needed, and return the deleted ones by kind.

    Before each kind the needed objects are determined anew. After an error the remaining items stay.

    Args:
        settings: this machine's settings.
        limits: as for `piles`.
        shown: the piles that the person saw.
        advance: called with the number of items that were deleted, after each step.

    Raises:
        CleaningRefused: a run or another clean-up is at work, or as for `piles`.
        RegistryUnavailable: MLflow is away.
        StorageError: a store can't be read or written.
    """
    gone: dict[str, list[Deletable]] = {}
    with cleaning(settings) as still:
        for pile in shown:
            still()
            fresh = _of_kind(pile.kind, piles(settings, limits)) if pile.items else pile
            gone[pile.kind] = []
            for step in steps(set(pile.items) & set(fresh.items)):
                still()
                fresh.remove([item.name for item in step])
                gone[pile.kind] += step
                advance(len(step), text=pile.kind)
    return gone


def _of_kind(kind: str, choices: Iterable[Pile]) -> Pile:
    return next(pile for pile in choices if pile.kind == kind)


def steps(items: Iterable[Deletable]) -> Iterator[list[Deletable]]:
    """Yield the items in order, at most AT_ONCE at a time and never two ranks together."""
    for _, ranked in groupby(sorted(items), key=lambda item: item.rank):
        group = list(ranked)
        yield from (group[start : start + AT_ONCE] for start in range(0, len(group), AT_ONCE))
