"""Promotion and rollback: each moves the alias `champion` in one write, within a turn of the journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from skumatch.errors import ParameterError, ReferenceNotFound, Refused, StaleChampion
from skumatch.registry.champion_state import CHAMPION
from skumatch.registry.journal import (
    HEAD,
    Acknowledgement,
    Entry,
    HandMove,
    Journal,
    MoveRequest,
    Request,
    Turn,
    faults,
    hand_moves,
    head_of,
    move_since,
    number_of,
    ways_back,
)
from skumatch.registry.registry import COMPARED_TAG, RELEASE_TAG, ModelRef, Registry
from skumatch.registry.tracking import or_none

PREVIOUS = "previous"


def compared_with(ref: ModelRef) -> int | None:
    """Return the champion that a version was compared with; None if there was none.

    Raises:
        Refused: the version has no record of it.
    """
    compared = ref.tags.get(COMPARED_TAG)
    if compared is None:
        raise Refused(
            f"Nothing says which champion version {ref.version} was compared with; retrain to compare again."
        )
    return None if compared == "none" else int(compared)


def proposed(registry: Registry, ref: ModelRef) -> int | None:
    """Return the champion that a version was compared with, if it still is the champion.

    The journal gets no entry.

    Raises:
        Refused: the version has no record of its comparison.
        StaleChampion: the champion is another one by now.
    """
    expected, now = compared_with(ref), registry.champion()
    current = now.version if now else None
    if current != expected:
        raise stale(registry, ref.version, expected, current)
    return expected


def withdrawn(registry: Registry) -> set[str]:
    """Return the data versions (MD5s) whose releases were rolled back, if nothing was promoted since.

    A person withdrew these galleries, so no run that starts by itself may release one of them again.
    """
    versions: set[int | None] = set()
    for entry in reversed(history(registry)):
        if entry.changed and entry.before:
            if entry.asked.action != "rollback":
                break
            versions.add(entry.before.champion)
    return {ref.data for ref in registry.versions() if ref.version in versions and ref.data}


def gallery_moved(registry: Registry, version: int, expected: int | None) -> bool:
    """Return whether only the champion's gallery changed since a model release was compared with it.

    Then the comparison of encoders still holds, but the version's gallery is old. Its encoder has to be put
    on the newest data and judged again, which needs no training.

    Args:
        registry: the registry that has the versions.
        version: a version that passed the gate.
        expected: the champion that it was compared with; None if there was none.
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
    """Make a version the champion. Promoting the champion again changes nothing.

    Args:
        registry: the registry that has the version.
        version: the version.
        expected: the champion that it was compared with; None if there was none.
        who: the person or run that promotes, for the journal.
        why: the reason, for the journal.

    Returns:
        The new champion.

    Raises:
        StaleChampion: the champion is not `expected` any more.
        ReferenceNotFound: there is no such version.
    """
    return _move(
        registry, MoveRequest(action="promote", version=version, expected=expected, who=who, why=why)
    )


def rollback(registry: Registry, version: int, expected: int | None, who: str, why: str) -> ModelRef:
    """Make an earlier champion the champion again.

    Args:
        registry: the registry that has the version.
        version: the earlier champion.
        expected: the present champion; None if there is none.
        who: the person or run that rolls back, for the journal.
        why: the reason, for the journal.

    Returns:
        The new champion.

    Raises:
        StaleChampion: the champion is not `expected` any more.
        ReferenceNotFound: there is no such version.
    """
    return _move(
        registry, MoveRequest(action="rollback", version=version, expected=expected, who=who, why=why)
    )


def acknowledge(registry: Registry, entry: int | None, who: str, why: str) -> HandMove:
    """Record a person's explanation of a move of the champion that was made outside the journal.

    The champion stays as it is. The explanation is an entry of the journal, chained like the others, and
    explains that one move; a later move by hand needs its own.

    Args:
        registry: the registry that has the model.
        entry: the last entry before the move; None where only one move has no explanation.
        who: the person who explains it.
        why: the explanation.

    Returns:
        The move that was explained.

    Raises:
        ParameterError: `why` is blank, or several moves have no explanation and `entry` is None.
        ReferenceNotFound: no such move lacks an explanation.
        StaleChampion: the champion was moved again, or somebody else explained the move meanwhile.
    """
    if not why.strip():
        raise ParameterError("An explanation is needed; say with --why why the champion was moved by hand.")
    with registry.client() as client:
        journal = _journal(registry, client)
        move = _chosen(unexplained(journal.entries(), _champion(registry, client)), entry)
        request = Acknowledgement(entry=move.entry, was=move.was, found=move.found, who=who, why=why)
        with _turn(registry, client, request) as turn:
            entries = [each for each in journal.entries() if each.number <= turn.entry.number]
            now = {
                (each.entry, each.was, each.found) for each in hand_moves(entries) if not each.acknowledged
            }
            if (move.entry, move.was, move.found) not in now:
                turn.outcome = "stale"
                raise StaleChampion(
                    f"The move after entry {move.entry} was explained or changed meanwhile; "
                    "see `skumatch models --history`, and ask again."
                )
            turn.outcome = "done"
        return replace(move, acknowledged=journal.read(turn.entry.number))


def _chosen(moves: list[HandMove], entry: int | None) -> HandMove:
    """Return the move after `entry`, or the only one."""
    fitting = [move for move in moves if entry in (None, move.entry)]
    if not fitting:
        where = "" if entry is None else f" after entry {entry}"
        raise ReferenceNotFound(
            f"No move of the champion{where} lacks an explanation, so there is nothing to acknowledge; "
            "`skumatch models --history` lists all entries."
        )
    if len(fitting) > 1:
        numbers = ", ".join(str(move.entry) for move in fitting)
        raise ParameterError(
            f"The champion was moved by hand several times; name the entry before the move: {numbers}."
        )
    return fitting[0]


def checked_history(registry: Registry) -> tuple[list[Entry], list[str]]:
    """Return the journal's entries, oldest first, and a sentence for each fault of it.

    Heads and champion are read before the entries: the journal may grow in between.
    """
    journal_heads = heads(registry)
    with registry.client() as client:
        champion = _champion(registry, client)
        entries = _journal(registry, client).entries()
    return entries, faults(entries, journal_heads, champion)


def unexplained(entries: list[Entry], champion: int | None) -> list[HandMove]:
    """Return the moves of the champion by hand that nobody acknowledged, also one since the last entry.

    Args:
        entries: the journal's entries.
        champion: the present champion; None if there is none.
    """
    moves = (*hand_moves(entries), move_since(entries, champion))
    return [move for move in moves if move and move.unexplained]


def rollback_target(registry: Registry, version: int | None = None) -> ModelRef:
    """Return the version that a rollback leads to.

    Args:
        registry: the registry that has the versions.
        version: an earlier champion; None for the last champion before the present one that still exists.

    Raises:
        ReferenceNotFound: `version` never was champion, or no earlier champion is left.
    """
    with registry.client() as client:
        entries, now = _journal(registry, client).entries(), _champion(registry, client)
        if version is not None:
            served = {entry.after.champion for entry in entries if entry.after}
            if version not in served:
                advice = f"promote it with `skumatch promote {version}` if it passed"
                raise ReferenceNotFound(f"Version {version} never was champion; {advice}.")
            return registry.version(client, str(version))
        existing = {ref.version for ref in registry.versions()}
        target = next((candidate for candidate in ways_back(entries, now) if candidate in existing), None)
        if target is None:
            state, left = registry.champion_state(), "No earlier champion is left to roll back to"
            cure = "`skumatch models --history` lists what was" if state.version else state.cure
            raise ReferenceNotFound(f"{left}: {state.sentence}; {cure}.")
        return registry.version(client, str(target))


def history(registry: Registry) -> list[Entry]:
    """Return the journal's entries, oldest first."""
    with registry.client() as client:
        return _journal(registry, client).entries()


def heads(registry: Registry) -> dict[int, str]:
    """Return by version the journal's head at its promotion, where that was recorded.

    Read the heads before the entries: the journal may grow in between.
    """
    return {ref.version: ref.tags[HEAD] for ref in registry.versions() if HEAD in ref.tags}


def _move(registry: Registry, request: MoveRequest) -> ModelRef:
    """Move the champion as `request`, within a turn of the journal."""
    with registry.client() as client:
        registry.version(client, str(request.version))  # one that isn't there leaves no entry
        with _turn(registry, client, request) as turn:
            _set_champion(registry, client, turn)
        return registry.version(client, str(request.version))


def _set_champion(registry: Registry, client: Any, turn: Turn) -> None:
    assert turn.entry.before and turn.entry.move
    request, current = turn.entry.move, turn.entry.before.champion
    if current == request.version:
        turn.outcome = "already"
        _complete(registry, client, current)
        return
    if current != request.expected:
        turn.outcome = "stale"
        raise stale(registry, request.version, request.expected, current, request.action)
    turn.confirm()
    client.set_registered_model_alias(registry.model_name, CHAMPION, str(request.version))
    turn.outcome = "done"
    if current is not None:
        client.set_registered_model_alias(registry.model_name, PREVIOUS, str(current))


def _complete(registry: Registry, client: Any, champion: int) -> None:
    """Point `previous` at the champion before this one, if a promoter died between its two writes."""
    moved = next((entry for entry in reversed(_journal(registry, client).entries()) if entry.changed), None)
    before = moved.before.champion if moved and moved.before else None
    if before in (None, champion) or registry.aliases(client).get(PREVIOUS) == str(before):
        return
    if or_none(client.get_model_version, registry.model_name, str(before)):
        client.set_registered_model_alias(registry.model_name, PREVIOUS, str(before))


@contextmanager
def _turn(registry: Registry, client: Any, request: Request) -> Iterator[Turn]:
    """Hold a turn of the journal, and record its closed entry in a version's tag.

    The tag protects the last entry, since no later entry names its hash yet.
    """
    journal = _journal(registry, client)
    try:
        with journal.turn(request) as turn:
            yield turn
    except StaleChampion:
        _record_head(registry, client, journal.read(turn.entry.number))
        raise
    _record_head(registry, client, journal.read(turn.entry.number))


def _record_head(registry: Registry, client: Any, entry: Entry) -> None:
    """Record the entry as the journal's head in the tags of the champion, or of another version.

    Without a champion it is a version that the request names, or the newest one if these were deleted. A
    head of a later entry stays, since another promoter may have written it first.
    """
    named = [entry.after.champion if entry.after else None, *entry.asked.versions]
    versions = (str(number) for number in named if number is not None)
    registered = next(filter(None, (_found(registry, client, version) for version in versions)), None)
    if registered is None and (refs := registry.versions()):
        registered = _found(registry, client, str(refs[0].version))
    if registered and entry.after and number_of(registered.tags.get(HEAD, "")) < entry.number:
        client.set_model_version_tag(registry.model_name, str(registered.version), HEAD, head_of(entry))


def _found(registry: Registry, client: Any, version: str) -> Any:
    return or_none(client.get_model_version, registry.model_name, version)


def stale(
    registry: Registry, version: int, expected: int | None, current: int | None, action: str = "promote"
) -> StaleChampion:
    """Return the error for a champion that is another one than the version was compared with.

    Args:
        registry: the registry that has the versions.
        version: the version to promote or to roll back to.
        expected: the champion that it was compared with; None if there was none.
        current: the present champion; None if there is none.
        action: `promote` or `rollback`.
    """
    if current == version:
        return StaleChampion(f"Version {version} is the champion already; there is nothing to do.")
    now, cure = f"The champion is now version {current}", "retrain to compare again"
    if current is None:
        state = registry.champion_state()
        now = "There is no champion now" if state.kind == "never" else state.sentence
        cure = cure if state.kind == "never" else state.cure
    then = "none" if expected is None else f"version {expected}"
    if action == "rollback":
        change = f"the rollback to version {version} was asked against {then}"
        return StaleChampion(f"{now}, but {change}; look at it and ask again.")
    return StaleChampion(f"{now}, but version {version} was compared with {then}; {cure}.")


def _champion(registry: Registry, client: Any) -> int | None:
    version = registry.aliases(client).get(CHAMPION)
    return None if version is None else int(version)


def _journal(registry: Registry, client: Any) -> Journal:
    return Journal(client, registry.model_name, lambda: _champion(registry, client))
