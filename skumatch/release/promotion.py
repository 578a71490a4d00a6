"""Who is champion: promotion and rollback, each one alias write in a turn of the journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skumatch.errors import ReferenceNotFound, Refused, StaleChampion
from skumatch.release.journal import HEAD, Asked, Entry, Journal, Turn, head_of, number_of, predecessors
from skumatch.release.registry import CHAMPION, COMPARED_TAG, RELEASE_TAG, ModelRef, Registry
from skumatch.release.tracking import or_none

PREVIOUS = "previous"


def compared_with(ref: ModelRef) -> int | None:
    """The champion that a version was compared with; None: there was none. Raises Refused if nothing says."""
    compared = ref.tags.get(COMPARED_TAG)
    if compared is None:
        raise Refused(
            f"Nothing says which champion version {ref.version} was compared with; retrain to compare again."
        )
    return None if compared == "none" else int(compared)


def proposed(registry: Registry, ref: ModelRef) -> int | None:
    """As compared_with, looked at without a word in the journal.

    Raises StaleChampion if the champion is another by now.
    """
    expected, now = compared_with(ref), registry.champion()
    current = now.version if now else None
    if current != expected:
        raise stale(ref.version, expected, current)
    return expected


def withdrawn(registry: Registry) -> set[str]:
    """MD5s of the data versions whose releases were rolled back from, and nothing was promoted since.

    No run that starts by itself may bring such a gallery back: a person took it away.
    """
    versions: set[int | None] = set()
    for entry in reversed(history(registry)):
        if entry.changed and entry.before:
            if entry.asked.action != "rollback":
                break
            versions.add(entry.before.champion)
    return {ref.data for ref in registry.versions() if ref.version in versions and ref.data}


def gallery_moved(registry: Registry, version: int, expected: int | None) -> bool:
    """Whether only the champion's gallery changed since the model release `version` was compared with `expected`.

    Then the comparison of encoders stands, but the version's gallery is old: its encoder has to be put on the newest
    data and judged again, which needs no training.

    Args:
        version: one that passed the gate.
        expected: the champion that it was compared with.
    """
    if expected is None or RELEASE_TAG in registry.resolve(str(version)).tags:
        return False
    refs = {ref.version: ref for ref in registry.versions()}
    before, now = refs.get(expected), registry.champion()
    if before is None or now is None or now.version in (version, expected):
        return False
    by_refresh = any(RELEASE_TAG in ref.tags for ref in (before, now))
    return by_refresh and registry.encoder(now.version) == registry.encoder(expected)


def promote(registry: Registry, version: int, expected: int | None, who: str, why: str) -> ModelRef:
    """Make `version` the champion, if the champion still is `expected`, the one it was compared with (None: there was none).

    Promoting the champion again changes nothing. Raises StaleChampion, ReferenceNotFound.
    """
    return _move(registry, Asked(action="promote", version=version, expected=expected, who=who, why=why))


def rollback(registry: Registry, version: int, expected: int | None, who: str, why: str) -> ModelRef:
    """Make an earlier champion the champion again, if the champion still is `expected`.

    Raises StaleChampion, ReferenceNotFound.
    """
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
                raise ReferenceNotFound(
                    f"Version {version} never was champion; promote it with `skumatch promote {version}` if it passed."
                )
            return registry.version(client, str(version))
        there = {ref.version for ref in registry.versions()}
        found = next((one for one in _candidates(entries, now) if one in there), None)
        if found is None:
            raise ReferenceNotFound(
                "No earlier champion is left to roll back to; `skumatch models --history` lists what was."
            )
        return registry.version(client, str(found))


def history(registry: Registry) -> list[Entry]:
    """The journal's entries, oldest first."""
    with registry.client() as client:
        return _journal(registry, client).entries()


def heads(registry: Registry) -> dict[int, str]:
    """Version -> the journal's head when it was promoted, where that was recorded.

    To be read before the entries: the journal grows.
    """
    return {ref.version: ref.tags[HEAD] for ref in registry.versions() if HEAD in ref.tags}


def _candidates(entries: list[Entry], now: int | None) -> list[int]:
    """With the champion deleted in MLflow the last one named by the journal is gone, so its predecessors are next."""
    last = next(
        (entry.after.champion for entry in reversed(entries) if entry.after and entry.after.champion), None
    )
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
        _complete(registry, client, current)
        return
    if current != asked.expected:
        turn.outcome = "stale"
        raise stale(asked.version, asked.expected, current, asked.action)
    turn.confirm()
    client.set_registered_model_alias(registry.model_name, CHAMPION, str(asked.version))
    turn.outcome = "done"
    if current is not None:
        client.set_registered_model_alias(registry.model_name, PREVIOUS, str(current))


def _complete(registry: Registry, client: Any, champion: int) -> None:
    """Point `previous` at the champion before this one, where a promoter was gone between its two writes."""
    moved = next((entry for entry in reversed(_journal(registry, client).entries()) if entry.changed), None)
    before = moved.before.champion if moved and moved.before else None
    if before in (None, champion) or registry.aliases(client).get(PREVIOUS) == str(before):
        return
    if or_none(client.get_model_version, registry.model_name, str(before)):
        client.set_registered_model_alias(registry.model_name, PREVIOUS, str(before))


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
    """The champion names it, or the version asked for where there is none.

    A head recorded later stays: promoters may overtake here.
    """
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
        return StaleChampion(
            f"{now}, but the rollback to version {version} was asked against {then}; look at it and ask again."
        )
    return StaleChampion(f"{now}, but version {version} was compared with {then}; retrain to compare again.")


def _champion(registry: Registry, client: Any) -> int | None:
    found = registry.aliases(client).get(CHAMPION)
    return None if found is None else int(found)


def _journal(registry: Registry, client: Any) -> Journal:
    return Journal(client, registry.model_name, lambda: _champion(registry, client))
