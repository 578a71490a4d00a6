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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
LATE: tuple[Outcome, ...] = ("failed", "abandoned")  # its promoter may have moved the champion later


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

    @property
    def words(self) -> str:
        """The request in two words, such as `promote 2`."""
        return f"{self.action} {self.version}"

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that the request names."""
        return tuple(number for number in (self.version, self.expected) if number is not None)


class Acknowledgement(_Record):
    """A person's explanation of one move of the champion that was made outside the journal.

    Attributes:
        action: `acknowledge`.
        entry: the last entry before the move; 0 for a move before the first entry.
        was: the champion that this entry left; None if there was none.
        found: the champion after the move; None if there was none.
        who: the person who explains the move.
        why: the explanation; not blank.
    """

    action: Literal["acknowledge"] = "acknowledge"
    entry: int
    was: int | None
    found: int | None
    who: str
    why: Annotated[str, Field(pattern=r"\S")]

    @property
    def words(self) -> str:
        """The request in a few words."""
        return f"acknowledge the move after entry {self.entry}"

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that the explained move was from and to."""
        return tuple(number for number in (self.found, self.was) if number is not None)


Request = MoveRequest | Acknowledgement


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
    asked: Annotated[Request, Field(discriminator="action")]
    before: Before | None = None
    after: After | None = None

    @property
    def move(self) -> MoveRequest | None:
        """The request for a promotion or a rollback; None for an acknowledgement."""
        return self.asked if isinstance(self.asked, MoveRequest) else None

    @property
    def explanation(self) -> Acknowledgement | None:
        """The acknowledgement that this entry made; None for another request, or one that was refused."""
        made = self.after is not None and self.after.outcome == "done"
        return self.asked if made and isinstance(self.asked, Acknowledgement) else None

    @property
    def left(self) -> int | None:
        """The champion that this entry left when it was closed; None if there was none."""
        end = self.after if self.move else self.before  # an acknowledgement moves nothing
        return end.champion if end else None

    @property
    def changed(self) -> bool:
        """True if this entry moved the champion."""
        return self.before is not None and self.after is not None and self.before.champion != self.left

    @property
    def hash(self) -> str:
        """SHA-256 of the closed entry, which the next one names."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class HandMove:
    """A move of the champion that no entry of the journal made.

    Attributes:
        entry: number of the last entry before the move; 0 for a move before the first entry.
        was: the champion that this entry left; None if there was none.
        found: the champion after the move; None if there was none.
        since: when that entry was closed; None for a move before the first entry.
        until: when the next entry found the move; None if no entry follows.
        suspect: False where the entry's promoter may have made the move late, or where there was a champion
            before there was a journal.
        acknowledged: the entry by which a person explained the move; None if nobody did.
    """

    entry: int
    was: int | None
    found: int | None
    since: datetime | None
    until: datetime | None
    suspect: bool
    acknowledged: Entry | None = None

    @property
    def unexplained(self) -> bool:
        """True if somebody moved the champion by hand and nobody acknowledged it."""
        return self.suspect and self.acknowledged is None

    @property
    def change(self) -> str:
        """The move in words."""
        was, found = _champion_words(self.was), _champion_words(self.found)
        now = "before the next it was" if self.until else "now it is"
        if not self.entry:
            return f"Before the first entry of the journal the champion was {found}"
        return f"After entry {self.entry} the champion was {was}, {now} {found}"

    @property
    def sentence(self) -> str:
        """The move and its explanation, or what to do where it has none."""
        if entry := self.acknowledged:
            note = f"acknowledged by {entry.asked.who} in entry {entry.number}: {entry.asked.why}"
            return f"{self.change}: it was moved outside the journal, {note}"
        cure = "`skumatch audit acknowledge` records why"
        return f"{self.change}: it was moved outside the journal; {cure}."


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
    def turn(self, request: Request) -> Iterator[Turn]:
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
    """Check the chain, and return a sentence for each fault.

    Faults are entries that were removed, inserted or changed later, moves of the champion outside the journal
    that nobody acknowledged, and acknowledgements of no such move.
    """
    moves = hand_moves(entries)
    unexplained = [move.sentence for move in moves if move.unexplained]
    explained = [move.acknowledged for move in moves if move.acknowledged]
    idle = [
        f"Entry {entry.number} acknowledges a move that the journal doesn't show."
        for entry in entries
        if entry.explanation and entry not in explained
    ]
    return [*_chain_faults(entries), *unexplained, *idle]


def _chain_faults(entries: Sequence[Entry]) -> list[str]:
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
        last = entry.hash
    return faults


def hand_moves(entries: Sequence[Entry]) -> list[HandMove]:
    """Return the moves of the champion that show between two entries, oldest first.

    An acknowledgement explains only the very move that it names, and only one that was made before it. A
    later move by hand between the same versions needs an acknowledgement of its own.
    """
    explanations = {
        (given.entry, given.was, given.found): entry
        for entry in reversed(entries)
        if (given := entry.explanation)
    }
    moves = []
    for entry, following in pairwise([None, *entries]):
        place = entry.number if entry else 0
        if following is None or following.before is None or following.number != place + 1:
            continue
        move = _hand_move(entry, following.before.champion, following.before.at)
        if move:
            by = explanations.get((place, move.was, move.found))
            moves.append(replace(move, acknowledged=by if by and by.number > place else None))
    return moves


def move_since(entries: Sequence[Entry], champion: int | None) -> HandMove | None:
    """Return the move of the champion by hand since the last entry; None if there was none.

    While an entry is open its promoter may be moving the champion.

    Args:
        entries: the journal's entries.
        champion: the present champion.
    """
    closed = [entry for entry in entries if entry.after]
    if champion in {entry.move.version for entry in entries[len(closed) :] if entry.move}:
        return None
    return _hand_move(closed[-1] if closed else None, champion, None)


def _hand_move(entry: Entry | None, champion: int | None, at: datetime | None) -> HandMove | None:
    """Return the move from what `entry` left to `champion`, found at `at`; None if there was none."""
    if entry is None:
        return HandMove(0, None, champion, None, at, suspect=at is None) if champion else None
    if entry.after is None or entry.left == champion:
        return None
    suspect = entry.after.outcome not in LATE
    return HandMove(entry.number, entry.left, champion, entry.after.at, at, suspect)


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


def faults(entries: Sequence[Entry], heads: Mapping[int, str], champion: int | None) -> list[str]:
    """Return a sentence for each fault of the journal, also for a move by hand since its last entry.

    Args:
        entries: the journal's entries.
        heads: value of the tag HEAD by version.
        champion: the present champion; None if there is none.
    """
    end = move_since(entries, champion)
    moved = [end.sentence] if end and end.unexplained else []
    return [*breaks(entries), *unheaded(entries, heads), *moved]


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


def ways_back(entries: Sequence[Entry], champion: int | None) -> list[int]:
    """Return the versions to roll back to, the nearest first; some may have been deleted since.

    Without a champion now, somebody removed its alias or deleted its version. Then the last champion that the
    journal names comes first, and its predecessors follow.

    Args:
        entries: the journal's entries.
        champion: the present champion; None if there is none.
    """
    last = last_champion(entries)
    return predecessors(entries) if champion is not None or last is None else [last, *predecessors(entries)]


def last_champion(entries: Sequence[Entry]) -> int | None:
    """Return the last champion that the journal names; None if it never had one."""
    champions = (entry.after.champion for entry in reversed(entries) if entry.after)
    return next((champion for champion in champions if champion), None)


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
