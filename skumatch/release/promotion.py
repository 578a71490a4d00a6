"""Who is champion: promotion and rollback, each one alias write in a turn of the journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skumatch.errors import ReferenceNotFound, Refused, StaleChampion
from skumatch.release.journal import HEAD, Asked, Entry, Journal, Turn, head_of, number_of, predecessors
from skumatch.release.registry import CHAMPION, COMPARED_TAG, ModelRef, Registry
from skumatch.release.tracking import or_none

PREVIOUS = "previous"


def compared_with(ref: ModelRef) -> int | None:
    """The champion that a version was compared with; None: there was none. Raises Refused if nothing says."""
    compared = ref.tags.get(COMPARED_TAG)
    if compared is None:
        raise Refused(f"Nothing says which champion version {ref.version} was compared with; retrain to compare again.")
    return None if compared == "none" else int(compared)


def proposed(registry: Registry, ref: ModelRef) -> int | None:
    """As compared_with, looked at without a word in the journal. Raises StaleChampion if the champion is another by now."""
    expected, now = compared_with(ref), registry.champion()
    current = now.version if now else None
    if current != expected:
        raise stale(ref.version, expected, current)
    return expected


def promote(registry: Registry, version: int, expected: int | None, who: str, why: str) -> ModelRef:
    """Make `version` the champion, if the champion still is `expected`, the one it was compared with (None: there was none).

    Promoting the champion again changes nothing. Raises StaleChampion, ReferenceNotFound.
    """
    return _move(registry, Asked(action="promote", version=version, expected=expected, who=who, why=why))


def rollback(registry: Registry, version: int, expected: int | None, who: str, why: str) -> ModelRef:
    """Make an earlier champion the champion again, if the champion still is `expected`. Raises StaleChampion, ReferenceNotFound."""
    return _move(registry, Asked(action="rollback", version=version, expected=expected, who=who, why=why))


def rollback_target(registry: Registry, version: int | None = None) -> ModelRef:
    """The version that a rollback leads to: `version`, or the last champion before this one that still is there.

    Raises ReferenceNotFound if there is none, or if `version` never was champion: only what served before is rolled back to.
    """
    with registry.client() as client:
        entries, now = _journal(registry, client).entries(), _champion(registry, client)
        if version is not None:
            served = {entry.after.champion for entry in entries if entry.after}
            if version not in served:
                raise ReferenceNotFound(f"Version {version} never was champion; promote it with `skumatch promote {version}` if it passed.")
            return registry.version(client, str(version))
        there = {ref.version for ref in registry.versions()}
        found = next((one for one in _candidates(entries, now) if one in there), None)
        if found is None:
            raise ReferenceNotFound("No earlier champion is left to roll back to; `skumatch models --history` lists what was.")
        return registry.version(client, str(found))


def history(registry: Registry) -> list[Entry]:
    """The journal's entries, oldest first."""
    with registry.client() as client:
        return _journal(registry, client).entries()


def heads(registry: Registry) -> dict[int, str]:
    """Version -> the journal's head when it was promoted, where that was recorded. To be read before the entries: the journal grows."""
    return {ref.version: ref.tags[HEAD] for ref in registry.versions() if HEAD in ref.tags}


def _candidates(entries: list[Entry], now: int | None) -> list[int]:
    """With the champion deleted in MLflow the last one named by the journal is gone, so its predecessors are next."""
    last = next((entry.after.champion for entry in reversed(entries) if entry.after and entry.after.champion), None)
    return predecessors(entries) if now is not None or last is None else [last, *predecessors(entries)]


def _move(registry: Registry, asked: Asked) -> ModelRef:
    with registry.client() as client:
        registry.version(client, str(asked.version))  # one that isn't there leaves no entry
        with _turn(registry, client, asked) as turn:
            _set_champion(registry, client, turn)
        return registry.version(client, str(asked.version))


def _set_champion(registry: Registry, client: Any, turn: Turn) -> None:
    assert turn.entry.before
    asked, current = turn.entry.asked, turn.entry.before.champion
    if current == asked.version:
        turn.outcome = "already"
        return
    if current != asked.expected:
        turn.outcome = "stale"
        raise stale(asked.version, asked.expected, current, asked.action)
    turn.confirm()
    client.set_registered_model_alias(registry.model_name, CHAMPION, str(asked.version))
    turn.outcome = "done"
    if current is not None:
        client.set_registered_model_alias(registry.model_name, PREVIOUS, str(current))


@contextmanager
def _turn(registry: Registry, client: Any, asked: Asked) -> Iterator[Turn]:
    """A turn of the journal, whose closed entry is then named by a version's tag: no later entry vouches for the last one."""
    journal = _journal(registry, client)
    try:
        with journal.turn(asked) as turn:
            yield turn
    except StaleChampion:
        _record_head(registry, client, journal.read(turn.entry.number))
        raise
    _record_head(registry, client, journal.read(turn.entry.number))


def _record_head(registry: Registry, client: Any, entry: Entry) -> None:
    """The champion names it, or the version asked for where there is none. A head recorded later stays: promoters may overtake here."""
    version = str((entry.after and entry.after.champion) or entry.asked.version)
    found = or_none(client.get_model_version, registry.model_name, version)
    if found and entry.after and number_of(found.tags.get(HEAD, "")) < entry.number:
        client.set_model_version_tag(registry.model_name, version, HEAD, head_of(entry))


def stale(version: int, expected: int | None, current: int | None, action: str = "promote") -> StaleChampion:
    """What is told where the champion is another than the one that a version was compared with."""
    if current == version:
        return StaleChampion(f"Version {version} is the champion already; there is nothing to do.")
    now = "There is no champion now" if current is None else f"The champion is now version {current}"
    then = "none" if expected is None else f"version {expected}"
    if action == "rollback":
        return StaleChampion(f"{now}, but the rollback to version {version} was asked against {then}; look at it and ask again.")
    return StaleChampion(f"{now}, but version {version} was compared with {then}; retrain to compare again.")


def _champion(registry: Registry, client: Any) -> int | None:
    found = registry.aliases(client).get(CHAMPION)
    return None if found is None else int(found)


def _journal(registry: Registry, client: Any) -> Journal:
    return Journal(client, registry.model_name, lambda: _champion(registry, client))
