"""The history of serving, read from the journal: the champions of a day and a version's aliases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import zip_longest

from skumatch.registry.journal import Entry


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
    """Return every period of serving, in order; the first one, before any promotion, has no version."""
    changes = [
        (entry.after.at, entry.after.champion, entry.asked)
        for entry in entries
        if entry.after and entry.changed
    ]
    starts = [at for at, _, _ in changes]
    first = Service(None, None, starts[0] if starts else None)
    return [first] + [
        Service(version, at, until, request.who, request.why)
        for (at, version, request), until in zip_longest(changes, starts[1:])
    ]


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
    for entry in entries:
        if not (entry.before and entry.after and entry.changed):
            continue
        old, new = entry.before.champion, entry.after.champion
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
