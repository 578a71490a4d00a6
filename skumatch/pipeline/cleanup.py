"""A clean-up: look through all stores, say what isn't needed any more, and delete what was shown and still isn't needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from skumatch.config import Settings
from skumatch.errors import CleaningRefused
from skumatch.pipeline import leftovers
from skumatch.pipeline.claims import Board, Claim, cleaning
from skumatch.pipeline.references import Objects, closure, in_history, named, path_of
from skumatch.pipeline.retention import (
    RESULT,
    Item,
    counts,
    idle_checkpoints,
    idle_vectors,
    old_claims,
    stored,
    unneeded,
)
from skumatch.pipeline.stores import File, Store
from skumatch.progress import Advance, silent
from skumatch.release.holdings import Holding, holdings
from skumatch.release.tracking import Tracking

DAY = 86_400.0
AT_ONCE = 500


@dataclass(frozen=True)
class Limits:
    """age: days for which everything is kept. keep_runs: days for which MLflow's runs are. now: seconds since 1970."""

    age: float
    keep_runs: float
    now: float

    @property
    def since(self) -> float:
        return self.now - self.age * DAY

    @property
    def runs_since(self) -> datetime:
        return datetime.fromtimestamp(self.now - self.keep_runs * DAY, UTC)


@dataclass(frozen=True)
class Pile:
    """What is taken of one kind, in the order of its deletion, and how it is deleted."""

    kind: str
    items: tuple[Item, ...]
    remove: Callable[[list[str]], None]


def piles(settings: Settings, limits: Limits) -> list[Pile]:
    """All that isn't needed any more, a pile a kind; nothing is written.

    Raises RegistryUnavailable, StorageError; CleaningRefused where it can't be told what is needed.
    """
    cache, remote = Store(str(own_place(settings, "cache"))), Store(settings.remote_url)
    if settings.remote is None:
        own_place(settings, "remote")
    # In this order: what comes into being meanwhile isn't among the files, and what is needed is known at its
    # latest.
    in_cache, in_remote = cache.files(), remote.files()
    claims, records = (
        Board(settings.remote_url).claims(),
        holdings(Tracking(settings.mlflow_url), limits.runs_since),
    )
    check_place(settings, in_cache, in_remote, records)
    young = stored(in_cache, limits.since) | stored(in_remote, limits.since)
    needed = closure(*_roots(settings, limits, claims, records, young), Objects((cache, remote)))
    left = leftovers.leftovers(settings.home_dir, limits.now)
    return [
        Pile(
            "workspaces",
            tuple(sorted(Item(0, str(folder), size) for folder, size in left.items())),
            _remove_folders,
        ),
        Pile("cache", _unneeded(cache, in_cache, needed), cache.remove),
        Pile("remote", _unneeded(remote, in_remote, needed), remote.remove),
        Pile("checkpoints", tuple(idle_checkpoints(in_remote, limits.since)), remote.remove),
        Pile("vectors", tuple(idle_vectors(in_remote, needed, limits.since)), remote.remove),
        Pile("claims", tuple(old_claims(in_remote, claims, limits.since, limits.now)), remote.remove),
    ]


def _roots(
    settings: Settings, limits: Limits, claims: dict[str, Claim], records: list[Holding], young: set[str]
) -> tuple[set[str], set[str]]:
    """Objects that are needed, and input sets, which need more."""
    counted = [claim for claim in claims.values() if counts(claim, limits.since, limits.now)]
    held = [
        *records,
        *(Holding(f"The claim of run {claim.run}", claim.inputs, claim.lock) for claim in counted),
    ]
    in_locks = {digest for one in held for digest in named(one.lock, f"{one.who}: its lock")}
    return young | in_history(settings.project) | in_locks, {one.inputs for one in held} - {""}


def _unneeded(store: Store, files: dict[str, File], needed: set[str]) -> tuple[Item, ...]:
    results = store.read(name for name in files if RESULT.fullmatch(name))
    return tuple(unneeded(files, {name: data for name, data in results.items() if name in files}, needed))


def own_place(settings: Settings, name: str) -> Path:
    place = settings.home_dir / name
    if place.is_symlink():
        raise CleaningRefused(
            f"{place} is a link, and a clean-up follows none; set SKUMATCH_HOME or SKUMATCH_REMOTE to where things are."
        )
    return place


def check_place(
    settings: Settings, in_cache: dict[str, File], in_remote: dict[str, File], records: list[Holding]
) -> None:
    """An MLflow that never heard of this remote (another server, an empty one) says of everything that nobody needs it."""
    known = any(path_of(holding.inputs) in in_remote for holding in records)
    if not known and any(name.startswith("files/") for name in (*in_cache, *in_remote)):
        store, server = Store(settings.remote_url).shown, Tracking(settings.mlflow_url).shown
        raise CleaningRefused(
            f"MLflow at {server} knows of no run whose input set is in {store}, so it can't say what is needed there; "
            "check SKUMATCH_MLFLOW and SKUMATCH_REMOTE, or make a first run."
        )


def _remove_folders(names: list[str]) -> None:
    leftovers.remove(Path(name) for name in names)


def delete(
    settings: Settings, limits: Limits, shown: list[Pile], advance: Advance = silent
) -> dict[str, list[Item]]:
    """Delete what was shown, each kind after another look at what is needed; returns what is gone, by kind.

    Raises CleaningRefused while a run is at work, and whatever `piles` raises: then what is left stays.
    """
    gone: dict[str, list[Item]] = {}
    with cleaning(settings) as still:
        for pile in shown:
            still()
            fresh = (
                next(one for one in piles(settings, limits) if one.kind == pile.kind) if pile.items else pile
            )
            gone[pile.kind] = []
            for step in steps(set(pile.items) & set(fresh.items)):
                still()
                fresh.remove([item.name for item in step])
                gone[pile.kind] += step
                advance(len(step), text=pile.kind)
    return gone


def steps(items: Iterable[Item]) -> Iterator[list[Item]]:
    """In order, so many at once, but never of two ranks."""
    for _, ranked in groupby(sorted(items), key=lambda item: item.rank):
        group = list(ranked)
        yield from (group[start : start + AT_ONCE] for start in range(0, len(group), AT_ONCE))
