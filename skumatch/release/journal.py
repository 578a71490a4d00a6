"""The promotion journal: append-only, one entry after the other, each chained to the one before by hash.

An entry is a version of the registered model `MODEL-journal`, so that it lies where the models do and every
machine sees the same one. MLflow can't compare and set, but it gives each new version a number of its own, so
the journal is the lock as well: whoever takes a number waits until all before it are closed (a ticket lock;
Mellor-Crummey and Scott 1991). An entry says what was asked, what was found before, and what was there after;
whoever died in between is closed by the next one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from skumatch.errors import ServiceError
from skumatch.release.tracking import or_none, unless_existing

SOURCE = "skumatch:///journal"
ASKED, BEFORE, AFTER = "skumatch.asked", "skumatch.before", "skumatch.after"
# A tag of the model's versions: the last entry that was closed when the version was promoted, NUMBER:HASH.
HEAD = "skumatch.journal"
EXPIRY_SECONDS = 30.0  # an entry in which nothing moved for so long has lost its promoter
PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.2
FAR = 10  # who is so far from its turn, or farther, asks so many times less often than the next one
Outcome = Literal["done", "already", "stale", "failed", "abandoned"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(_Record):
    """Who wants which version as champion, in place of which (`expected`; None = there is none), and why."""

    action: Literal["promote", "rollback"]
    version: int
    expected: int | None
    who: str
    why: str


class Before(_Record):
    """previous: hash of the entry before, empty for the first. champion: the version found when this entry's turn came."""

    previous: str
    champion: int | None
    at: datetime


class After(_Record):
    """champion: the version found when the entry was closed.

    `abandoned`: by the next, since its promoter was gone.
    """

    outcome: Outcome
    champion: int | None
    at: datetime


class Entry(_Record):
    """One entry; `before` and `after` are None while it waits or is at work."""

    number: int
    asked: Asked
    before: Before | None = None
    after: After | None = None

    @property
    def changed(self) -> bool:
        """Whether this entry moved the champion."""
        return (
            self.before is not None and self.after is not None and self.before.champion != self.after.champion
        )

    @property
    def hash(self) -> str:
        """SHA-256 of the closed entry, which the next one names."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


class Turn:
    """The time in which one entry alone may move the champion.

    `outcome` is what will be written at its end.
    """

    def __init__(self, journal: Journal, entry: Entry) -> None:
        self.entry, self._journal = entry, journal
        self.outcome: Outcome = "failed"

    def confirm(self) -> None:
        """Call right before the write.

        Raises ServiceError if another one has given this entry up meanwhile.
        """
        if self._journal.read(self.entry.number).after is not None:
            raise ServiceError(
                f"Entry {self.entry.number} of the journal took so long that another one closed it; try again."
            )


class Journal:
    """`client` is MLflow's; `champion` reads the champion's version as it is now."""

    def __init__(self, client: Any, model: str, champion: Callable[[], int | None]) -> None:
        self.client, self.name, self.champion = client, journal_name(model), champion

    def entries(self) -> list[Entry]:
        """All entries in order. Raises ServiceError for one that isn't ours to read."""
        found = self.client.search_model_versions(f"name = '{self.name}'", max_results=10_000)
        return sorted((_entry(version) for version in found), key=lambda entry: entry.number)

    def read(self, number: int) -> Entry:
        """One entry. Raises ServiceError if it is gone."""
        entry = self._at(number)
        if entry is None:
            raise ServiceError(
                f"Entry {number} of {self.name} was removed in MLflow; `skumatch models --history` shows the break."
            )
        return entry

    @contextmanager
    def turn(self, asked: Asked) -> Iterator[Turn]:
        """Take a number, wait for it, and write what was before and after.

        Raises ServiceError if the wait takes minutes.
        """
        unless_existing(self.client.create_registered_model, self.name)
        text = asked.model_dump_json()
        made = self.client.create_model_version(
            self.name, SOURCE, tags={ASKED: text}, description=asked.why, await_creation_for=0
        )
        entry = self._begin(int(made.version))
        turn = Turn(self, entry)
        try:
            yield turn
        finally:
            if self.read(entry.number).after is None:
                self._close(entry, turn.outcome)

    def _begin(self, number: int) -> Entry:
        self._wait(number)
        entry, last = self.read(number), self._below(number)
        before = Before(previous=last.hash if last else "", champion=self.champion(), at=_now())
        self._write(number, BEFORE, before)
        return entry.model_copy(update={"before": before})

    def _wait(self, number: int) -> None:
        """Until every entry below `number` is closed; one that is stuck is closed for its promoter."""
        first, since, start = self._first_open(number), time.monotonic(), time.monotonic()
        while first is not None:
            now = time.monotonic()
            if now - since > EXPIRY_SECONDS:
                self._close(first if first.before else self._begin(first.number), "abandoned")
            elif now - start > PATIENCE_SECONDS:
                raise ServiceError(
                    f"Entry {first.number} of {self.name} has been open for minutes; see who promotes, then try again."
                )
            time.sleep(POLL_SECONDS * min(number - first.number, FAR))
            seen, first = first, self._next_open(first.number, number)
            if first != seen:
                since = time.monotonic()

    def _first_open(self, number: int) -> Entry | None:
        """The lowest open entry below `number`: entries close in order, so all below the first closed one are closed."""
        lowest = None
        while (below := self._below(number)) is not None and below.after is None:
            lowest, number = below, below.number
        return lowest

    def _next_open(self, lowest: int, number: int) -> Entry | None:
        """The same, where all below `lowest` are known to be closed."""
        return next(
            (entry for one in range(lowest, number) if (entry := self._at(one)) and entry.after is None), None
        )

    def _below(self, number: int) -> Entry | None:
        """The entry before `number`, passing over removed ones."""
        return next((entry for one in range(number - 1, 0, -1) if (entry := self._at(one))), None)

    def _at(self, number: int) -> Entry | None:
        found = or_none(self.client.get_model_version, self.name, str(number))
        return None if found is None else _entry(found)

    def _close(self, entry: Entry, outcome: Outcome) -> None:
        self._write(entry.number, AFTER, After(outcome=outcome, champion=self.champion(), at=_now()))

    def _write(self, number: int, tag: str, record: _Record) -> None:
        self.client.set_model_version_tag(self.name, str(number), tag, record.model_dump_json())


def journal_name(model: str) -> str:
    return f"{model}-journal"


def breaks(entries: Sequence[Entry]) -> list[str]:
    """Where the chain doesn't hold, a sentence each: an entry removed, put in, or changed after it was written."""
    found: list[str] = []
    last = ""
    for place, entry in enumerate(entries, 1):
        if entry.number != place:
            return [*found, f"Entry {place} is missing."]
        if entry.before is None or entry.after is None:
            return (
                found
                if entry is entries[-1]
                else [*found, f"Entry {place} was never closed, but others follow it."]
            )
        if entry.before.previous != last:
            found.append(f"Entry {place} doesn't follow from the one before it: one of the two was changed.")
        found += _moved(entries[place - 2], entry.before.champion) if place > 1 else []
        last = entry.hash
    return found


def _moved(entry: Entry, found: int | None) -> list[str]:
    """Whether the champion is another than the one that `entry` ended with.

    Whose promoter failed or was gone may have moved it later.
    """
    if entry.after is None or entry.after.outcome in ("failed", "abandoned") or entry.after.champion == found:
        return []
    left, now = (f"version {one}" if one else "none" for one in (entry.after.champion, found))
    return [
        f"After entry {entry.number} the champion was {left}, before the next it was {now}: it was moved outside the journal."
    ]


def unheaded(entries: Sequence[Entry], heads: Mapping[int, str]) -> list[str]:
    """Heads (version -> what its tag HEAD says) that the journal doesn't have, a sentence each: its end was cut off or changed."""
    known = {head_of(entry) for entry in entries if entry.after}
    return [
        f"Version {version} names entry {number_of(head)} of the journal, which was changed or removed since."
        for version, head in sorted(heads.items())
        if head not in known
    ]


def head_of(entry: Entry) -> str:
    """A closed entry as the tag HEAD names it."""
    return f"{entry.number}:{entry.hash}"


def number_of(head: str) -> int:
    """The entry that the tag HEAD names; 0 for what is none."""
    number = head.partition(":")[0]
    return int(number) if number.isdecimal() else 0


def predecessors(entries: Sequence[Entry]) -> list[int]:
    """Versions to roll back to, the nearest first: champions that were replaced by promotion, not rolled away from."""
    stack: list[int] = []
    for entry in entries:
        champion = entry.after.champion if entry.after and entry.changed else None
        if champion is None:
            continue
        if entry.asked.action == "rollback" and champion in stack:
            del stack[stack.index(champion) + 1 :]
        elif champion not in stack[-1:]:
            stack.append(champion)
    return stack[-2::-1]


def _entry(found: Any) -> Entry:
    parts = {
        name: found.tags.get(tag) for name, tag in (("asked", ASKED), ("before", BEFORE), ("after", AFTER))
    }
    try:
        read = {name: json.loads(text) for name, text in parts.items() if text is not None}
        return Entry.model_validate({"number": int(found.version)} | read)
    except (ValueError, ValidationError) as error:
        raise ServiceError(
            f"Version {found.version} of {found.name} is no entry of a journal; leave that model to skumatch."
        ) from error


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
