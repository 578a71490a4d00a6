"""Who is champion: promotion and rollback, each one alias write in a turn of the journal."""

from __future__ import annotations

from typing import Any

from skumatch.errors import ReferenceNotFound, Refused, StaleChampion
from skumatch.release.journal import Asked, Entry, Journal, predecessors
from skumatch.release.registry import CHAMPION, COMPARED_TAG, ModelRef, Registry

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


def _candidates(entries: list[Entry], now: int | None) -> list[int]:
    """With the champion deleted in MLflow the last one named by the journal is gone, so its predecessors are next."""
    last = next((entry.after.champion for entry in reversed(entries) if entry.after and entry.after.champion), None)
    return predecessors(entries) if now is not None or last is None else [last, *predecessors(entries)]


def _move(registry: Registry, asked: Asked) -> ModelRef:
    with registry.client() as client:
        wanted = registry.version(client, str(asked.version))
        with _journal(registry, client).turn(asked) as turn:
            assert turn.entry.before
            current = turn.entry.before.champion
            if current == asked.version:
                turn.outcome = "already"
                return wanted
            if current != asked.expected:
                turn.outcome = "stale"
                raise stale(asked.version, asked.expected, current, asked.action)
            turn.confirm()
            client.set_registered_model_alias(registry.model_name, CHAMPION, str(asked.version))
            turn.outcome = "done"
            if current is not None:
                client.set_registered_model_alias(registry.model_name, PREVIOUS, str(current))
        return registry.version(client, str(asked.version))


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
