"""Who served when: the champions of a day, and the aliases of a version, by the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import zip_longest

from skumatch.release.journal import Entry


@dataclass(frozen=True)
class Service:
    """A champion and the time it served.

    Until None: it still does. version None: nobody served. who, why: of its promotion.
    """

    version: int | None
    since: datetime | None
    until: datetime | None
    who: str = ""
    why: str = ""


def services(entries: Sequence[Entry]) -> list[Service]:
    """Every time a version served, in order; before the first promotion nobody did."""
    changes = [
        (entry.after.at, entry.after.champion, entry.asked)
        for entry in entries
        if entry.after and entry.changed
    ]
    starts = [at for at, _, _ in changes]
    first = Service(None, None, starts[0] if starts else None)
    return [first] + [
        Service(version, at, until, asked.who, asked.why)
        for (at, version, asked), until in zip_longest(changes, starts[1:])
    ]


def on(entries: Sequence[Entry], day: date) -> list[Service]:
    """Who served at some time of that day (UTC), in order."""
    begin = datetime.combine(day, time(), UTC)
    end = begin + timedelta(days=1)
    return [
        one
        for one in services(entries)
        if (one.since is None or one.since < end) and (one.until is None or one.until > begin)
    ]


def aliases(
    entries: Sequence[Entry],
    version: int,
    registered: datetime,
    proposed_as: str = "challenger",
) -> list[tuple[datetime, str]]:
    """How a version's aliases went: when, and what happened in words, in order.

    The next version of its kind to be registered takes `proposed_as` from it: of that the journal tells
    nothing. Each move of the champion gives and takes `champion` and `previous`.

    Args:
        entries: the journal.
        version: the version.
        registered: when it was registered.
        proposed_as: the alias that it was registered with, `challenger` or `refreshed`.
    """
    found, previous = [(registered, f"registered as {proposed_as}")], False
    for entry in entries:
        if not (entry.before and entry.after and entry.changed):
            continue
        old, new = entry.before.champion, entry.after.champion
        if new == version:
            what = "became champion"
        elif old == version:
            what = f"became previous, replaced by version {new}"
        elif previous:
            what = f"no longer previous: version {new} replaced version {old}"
        else:
            continue
        found.append((entry.after.at, f"{what} ({entry.asked.who}: {entry.asked.why})"))
        previous = old == version
    return found
