"""The history of serving, read from the journal: the champions of a day and a version's aliases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import zip_longest

from skumatch.errors import SkumatchError
from skumatch.registry.journal import Entry, HandMove, hand_moves, move_since
from skumatch.texts import alike

Labels = Callable[[int], Collection[str]]


@dataclass(frozen=True)
class Naming:
    """A period in which all champions had the product in their gallery.

    Attributes:
        since: Start of the period.
        until: End of the period; None if its last version still serves.
        versions: The champions of the period, in order.
        reason: Empty; or why the gallery can't be read, so that its products are unknown.
    """

    since: datetime
    until: datetime | None
    versions: tuple[int, ...]
    reason: str = ""


def namings(services: Sequence[Service], sku: str, labels: Labels) -> list[Naming]:
    """Return the periods in which a product could be named, in order.

    Args:
        services: The champions and their times, in order.
        sku: The product's name, in any equivalent spelling.
        labels: Returns the SKUs of a version's gallery; raises SkumatchError if they can't be read.
    """
    spelling, known = alike(sku), dict[int, bool | str]()
    periods: list[Naming] = []
    for service in services:
        if service.version is None or service.since is None:
            continue
        if service.version not in known:
            known[service.version] = _names(labels, service.version, spelling)
        nameable = known[service.version]
        if nameable is False:
            continue
        reason = nameable if isinstance(nameable, str) else ""
        naming = Naming(service.since, service.until, (service.version,), reason)
        if periods and periods[-1].until == naming.since and not periods[-1].reason and not reason:
            periods[-1] = replace(
                periods[-1], until=naming.until, versions=(*periods[-1].versions, service.version)
            )
        else:
            periods.append(naming)
    return periods


def in_words(times: Sequence[Naming]) -> list[str]:
    """Return one sentence about all known periods, and one for each unknown period."""
    spells = [f"{_span(time)}, by {_versions(time.versions)}" for time in times if not time.reason]
    unknown = [time for time in times if time.reason]
    negation = "could not be named by what served" if unknown else "could never be named by what served"
    first = f"Nameable by what served: {'; '.join(spells)} (UTC)." if spells else f"It {negation}."
    return [
        first,
        *(f"Not known {_span(time)}, of version {time.versions[0]}: {time.reason}" for time in unknown),
    ]


def _names(labels: Labels, version: int, spelling: str) -> bool | str:
    """Return True if the version can name the product; the error's message if its labels can't be read."""
    try:
        return any(alike(sku) == spelling for sku in labels(version))
    except SkumatchError as error:
        return str(error)


def _span(time: Naming) -> str:
    until = f"to {time.until:%Y-%m-%d %H:%M}" if time.until else "until now"
    return f"from {time.since:%Y-%m-%d %H:%M} {until}"


def _versions(versions: Sequence[int]) -> str:
    *most, last = dict.fromkeys(versions)
    return f"versions {', '.join(map(str, most))} and {last}" if most else f"version {last}"


@dataclass(frozen=True)
class Service:
    """A champion and the period in which it served.

    Attributes:
        version: The version's number; None if there was no champion.
        since: Start of the period; None for the time before the first promotion.
        until: End of the period; None if it lasts.
        who: The person or run that promoted the version.
        why: The reason of the promotion.
    """

    version: int | None
    since: datetime | None
    until: datetime | None
    who: str = ""
    why: str = ""


def services(entries: Sequence[Entry]) -> list[Service]:
    """Return every period of serving, in order; the first one, before any promotion, has no version.

    A move by hand begins a period when the next entry of the journal finds it.
    """
    moves = {move.entry: move for move in hand_moves(entries)}
    periods: list[Service] = []
    for entry in entries:
        if move := moves.get(entry.number - 1):
            periods.append(Service(move.found, move.until, None, _mover(move), _explanation(move)))
        if entry.after and entry.changed:
            periods.append(Service(entry.left, entry.after.at, None, entry.asked.who, entry.asked.why))
    whole = [Service(None, None, None), *periods]
    return [
        replace(period, until=following.since if following else None)
        for period, following in zip_longest(whole, periods)
    ]


def by_hand(entries: Sequence[Entry], champion: int | None) -> list[str]:
    """Return a sentence for each move of the champion outside the journal, and for each explanation.

    Args:
        entries: The journal's entries, oldest first.
        champion: The present champion; None if there is none.
    """
    moves = (*hand_moves(entries), move_since(entries, champion))
    return [move.sentence.rstrip(".") for move in moves if move and (move.suspect or move.acknowledged)]


def _mover(move: HandMove) -> str:
    return "somebody, outside the journal" if move.suspect else f"not known (after entry {move.entry})"


def _explanation(move: HandMove) -> str:
    if move.acknowledged:
        return f"acknowledged by {move.acknowledged.asked.who}: {move.acknowledged.asked.why}"
    return "not acknowledged" if move.suspect else ""


def on(entries: Sequence[Entry], day: date) -> list[Service]:
    """Return the periods of serving that overlap a day (UTC), in order."""
    start = datetime.combine(day, time(), UTC)
    end = start + timedelta(days=1)
    return [
        service
        for service in services(entries)
        if (service.since is None or service.since < end) and (service.until is None or service.until > start)
    ]


def aliases(
    entries: Sequence[Entry],
    version: int,
    registered: datetime,
    proposed_as: str = "challenger",
) -> list[tuple[datetime, str]]:
    """Return the changes of a version's aliases in order, each as its time and a phrase.

    Each move of the champion changes `champion` and `previous`. The journal doesn't record that the next
    registered version of the same kind takes over the alias `proposed_as`.

    Args:
        entries: The journal's entries, oldest first.
        version: The version's number.
        registered: Time of the version's registration.
        proposed_as: The alias that it was registered with, `challenger` or `refreshed`.
    """
    events, previous = [(registered, f"registered as {proposed_as}")], False
    moves = {move.entry: move for move in hand_moves(entries)}
    for entry in entries:
        move = moves.get(entry.number - 1)
        if move and move.until and version in (move.was, move.found):
            state = "found as champion" if move.found == version else "found champion no more"
            events.append((move.until, f"{state} ({_mover(move)}: {_explanation(move)})"))
        if not (entry.before and entry.after and entry.changed):
            continue
        old, new = entry.before.champion, entry.left
        if new == version:
            event = "became champion"
        elif old == version:
            event = f"became previous, replaced by version {new}"
        elif previous:
            event = f"no longer previous: version {new} replaced version {old}"
        else:
            continue
        events.append((entry.after.at, f"{event} ({entry.asked.who}: {entry.asked.why})"))
        previous = old == version
    return events
