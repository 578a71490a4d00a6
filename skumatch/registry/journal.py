"""The promotion journal: append-only, each entry chained to the one before by its hash.

An entry is a version of the registered model `MODEL-journal`, so it is stored with the models and every
machine sees the same journal. MLflow has no compare-and-set, but it numbers new versions one by one. So the
journal is the lock as well: a promoter takes a number and waits until all entries before it are closed (a
ticket lock; Mellor-Crummey and Scott 1991). An entry records the request, the champion before, and the
champion after. If a promoter dies in between, the next one closes its entry.
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
from skumatch.registry.tracking import described_model, or_none

SOURCE = "skumatch:///journal"
ASKED, BEFORE, AFTER = "skumatch.asked", "skumatch.before", "skumatch.after"
# A tag of the model's versions: the last entry that was closed when the version was promoted, NUMBER:HASH.
HEAD = "skumatch.journal"
ABOUT = (
    "Record of who moved the alias `champion` of the model that this one is named after, when and why. "
    "It holds no models: each version is an entry, and names the entry before it by its hash. "
    "Change and delete nothing here; `skumatch models --history` shows it and checks it.\n"
)
EXPIRY_SECONDS = 30.0  # an entry without progress for so long has lost its promoter
PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.2
FAR = 10  # the polling interval grows with the distance from the turn, up to this factor
Outcome = Literal["done", "already", "stale", "failed", "abandoned"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MoveRequest(_Record):
    """The request for a promotion or a rollback.

    Attributes:
        action: `promote` or `rollback`.
        version: the version to make champion.
        expected: the champion that it should replace; None if there is none.
        who: the person or run that asks.
        why: the reason.
    """

    action: Literal["promote", "rollback"]
    version: int
    expected: int | None
    who: str
    why: str


class Before(_Record):
    """The state when an entry's turn came.

    Attributes:
        previous: hash of the entry before; empty for the first one.
        champion: the champion's version at that time; None if there was none.
        at: the time.
    """

    previous: str
    champion: int | None
    at: datetime


class After(_Record):
    """The state when an entry was closed.

    Attributes:
        outcome: the outcome; `abandoned` if the next entry closed this one, since its promoter was gone.
        champion: the champion's version at that time; None if there was none.
        at: the time.
    """

    outcome: Outcome
    champion: int | None
    at: datetime


class Entry(_Record):
    """One entry of the journal.

    Attributes:
        number: its place in the journal, from 1.
        asked: the request.
        before: the state when its turn came; None while it waits.
        after: the state when it was closed; None until then.
    """

    number: int
    asked: MoveRequest
    before: Before | None = None
    after: After | None = None

    @property
    def changed(self) -> bool:
        """True if this entry moved the champion."""
        return (
            self.before is not None and self.after is not None and self.before.champion != self.after.champion
        )

    @property
    def hash(self) -> str:
        """SHA-256 of the closed entry, which the next one names."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


class Turn:
    """Exclusive right to move the champion alias, held by one journal entry.

    Attributes:
        entry: the entry whose turn it is.
        outcome: the outcome that is written when the turn ends.
    """

    def __init__(self, journal: Journal, entry: Entry) -> None:
        self.entry, self._journal = entry, journal
        self.outcome: Outcome = "failed"

    def confirm(self) -> None:
        """Check, right before the write, that this entry still is open.

        Raises:
            ServiceError: another promoter has closed this entry meanwhile.
        """
        if self._journal.read(self.entry.number).after is not None:
            closed = f"Entry {self.entry.number} of the journal took so long that another one closed it"
            raise ServiceError(f"{closed}; try again.")


class Journal:
    """The journal of one registered model.

    Attributes:
        client: MLflow's client.
        name: name of the registered model that holds the entries.
        champion: a function that reads the champion's present version.
    """

    def __init__(self, client: Any, model: str, champion: Callable[[], int | None]) -> None:
        self.client, self.name, self.champion = client, journal_name(model), champion

    def entries(self) -> list[Entry]:
        """Return all entries in order.

        Raises:
            ServiceError: a version of the journal's model is no entry.
        """
        versions = self.client.search_model_versions(f"name = '{self.name}'", max_results=10_000)
        return sorted((_entry(version) for version in versions), key=lambda entry: entry.number)

    def read(self, number: int) -> Entry:
        """Return one entry.

        Raises:
            ServiceError: it was removed.
        """
        entry = self._at(number)
        if entry is None:
            gone = f"Entry {number} of {self.name} was removed in MLflow"
            raise ServiceError(f"{gone}; `skumatch models --history` shows the break.")
        return entry

    @contextmanager
    def turn(self, request: MoveRequest) -> Iterator[Turn]:
        """Take a number, wait for its turn, and record the champion before and after.

        Raises:
            ServiceError: the wait takes minutes.
        """
        described_model(self.client, self.name, ABOUT)
        text = request.model_dump_json()
        version = self.client.create_model_version(
            self.name, SOURCE, tags={ASKED: text}, description=request.why, await_creation_for=0
        )
        entry = self._begin(int(version.version))
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
        """Wait until every entry below `number` is closed; close one that makes no progress."""
        first, since, start = self._first_open(number), time.monotonic(), time.monotonic()
        while first is not None:
            now = time.monotonic()
            if now - since > EXPIRY_SECONDS:
                self._close(first if first.before else self._begin(first.number), "abandoned")
            elif now - start > PATIENCE_SECONDS:
                stuck = f"Entry {first.number} of {self.name} has been open for minutes"
                raise ServiceError(f"{stuck}; see who promotes, then try again.")
            time.sleep(POLL_SECONDS * min(number - first.number, FAR))
            seen, first = first, self._next_open(first.number, number)
            if first != seen:
                since = time.monotonic()

    def _first_open(self, number: int) -> Entry | None:
        """Return the lowest open entry below `number`.

        Entries close in order, so the search ends at the first closed one.
        """
        lowest = None
        while (below := self._below(number)) is not None and below.after is None:
            lowest, number = below, below.number
        return lowest

    def _next_open(self, lowest: int, number: int) -> Entry | None:
        """Return the lowest open entry from `lowest` up to below `number`; all below `lowest` are closed."""
        entries = (self._at(place) for place in range(lowest, number))
        return next((entry for entry in entries if entry and entry.after is None), None)

    def _below(self, number: int) -> Entry | None:
        """Return the nearest entry below `number` that was not removed."""
        entries = (self._at(place) for place in range(number - 1, 0, -1))
        return next((entry for entry in entries if entry), None)

    def _at(self, number: int) -> Entry | None:
        version = or_none(self.client.get_model_version, self.name, str(number))
        return None if version is None else _entry(version)

    def _close(self, entry: Entry, outcome: Outcome) -> None:
        self._write(entry.number, AFTER, After(outcome=outcome, champion=self.champion(), at=_now()))

    def _write(self, number: int, tag: str, record: _Record) -> None:
        self.client.set_model_version_tag(self.name, str(number), tag, record.model_dump_json())


def journal_name(model: str) -> str:
    """Return the name of the registered model that holds the journal of `model`."""
    return f"{model}-journal"


def breaks(entries: Sequence[Entry]) -> list[str]:
    """Check the chain and return a sentence for each entry that was removed, inserted or changed later."""
    faults: list[str] = []
    last = ""
    for place, entry in enumerate(entries, 1):
        if entry.number != place:
            return [*faults, f"Entry {place} is missing."]
        if entry.before is None or entry.after is None:
            unclosed = f"Entry {place} was never closed, but others follow it."
            return faults if entry is entries[-1] else [*faults, unclosed]
        if entry.before.previous != last:
            faults.append(f"Entry {place} doesn't follow from the one before it: one of the two was changed.")
        faults += _moved(entries[place - 2], entry.before.champion) if place > 1 else []
        last = entry.hash
    return faults


def _moved(entry: Entry, champion: int | None) -> list[str]:
    """Return a sentence if `champion`, that of the next entry, is another than the one after `entry`.

    If the entry's outcome is `failed` or `abandoned`, its promoter may have moved the champion later.
    """
    after = entry.after
    if after is None or after.outcome in ("failed", "abandoned") or after.champion == champion:
        return []
    left, now = _champion_words(after.champion), _champion_words(champion)
    change = f"After entry {entry.number} the champion was {left}, before the next it was {now}"
    return [f"{change}: it was moved outside the journal."]


def _champion_words(version: int | None) -> str:
    return f"version {version}" if version else "none"


def unheaded(entries: Sequence[Entry], heads: Mapping[int, str]) -> list[str]:
    """Return a sentence for each head that the journal lacks: its end was cut off or changed.

    Args:
        entries: the journal's entries.
        heads: value of the tag HEAD by version.
    """
    known = {head_of(entry) for entry in entries if entry.after}
    return [
        f"Version {version} names entry {number_of(head)} of the journal, which was changed or removed since."
        for version, head in sorted(heads.items())
        if head not in known
    ]


def head_of(entry: Entry) -> str:
    """Return the value of the tag HEAD for a closed entry: NUMBER:HASH."""
    return f"{entry.number}:{entry.hash}"


def number_of(head: str) -> int:
    """Return the number of the entry that a value of the tag HEAD names; 0 for an invalid value."""
    number = head.partition(":")[0]
    return int(number) if number.isdecimal() else 0


def predecessors(entries: Sequence[Entry]) -> list[int]:
    """Return the versions to roll back to, the nearest first.

    These are champions that were replaced by a promotion; versions that were rolled away from are left out.
    """
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


def _entry(version: Any) -> Entry:
    tags = {"asked": ASKED, "before": BEFORE, "after": AFTER}
    parts = {name: version.tags.get(tag) for name, tag in tags.items()}
    try:
        fields = {name: json.loads(text) for name, text in parts.items() if text is not None}
        return Entry.model_validate({"number": int(version.version)} | fields)
    except (ValueError, ValidationError) as error:
        stranger = f"Version {version.version} of {version.name} is no entry of a journal"
        raise ServiceError(f"{stranger}; leave that model to skumatch.") from error


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
