"""Who is at work on the remote: each run's claim to what it rests on, and the turn in which a clean-up alone may delete.

No store knows of a run before its last task, and what it takes from the cache may be old. So each task says first that it works and
then looks for a clean-up; a clean-up says first that it deletes and then looks for tasks: one of the two always sees the other.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from skumatch.config import Settings, params_or_defaults, shown
from skumatch.errors import CleaningRefused, StorageError
from skumatch.files import file_system, put_whole, store_refusals

FOLDER, CLEANING = "claims", "cleaning.json"
MARGIN_HOURS = 2.0  # after its limit a task has ended for certain
EXPIRY_SECONDS = 1200.0  # a clean-up that wasn't heard of for so long has died
PATIENCE_SECONDS, POLL_SECONDS = 2400.0, 2.0


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    host: str
    pid: int
    at: float

    @property
    def gone(self) -> bool:
        """Whether the process is known to have ended: one of another machine is not."""
        return self.host == here() and not psutil.pid_exists(self.pid)


class Claim(_Record):
    """What a run rests on.

    inputs: MD5 of its input set. lock: its lock's text, empty while there is none. at: seconds since 1970.
    lasts_hours: the longest that a task may work.
    """

    run: str
    task: str
    working: bool
    inputs: str = ""
    lock: str = ""
    lasts_hours: float = 24.0

    def at_work(self, now: float) -> bool:
        """Whether its task may still be running; where that can't be seen, until no task would be."""
        return self.working and not self.gone and now - self.at < 3600 * (self.lasts_hours + MARGIN_HOURS)


class Cleaning(_Record):
    """A clean-up at work, heard of last at `at`; `name` tells it from any other."""

    name: str


class Board:
    """The claims in a remote. Every method raises StorageError where the remote refuses."""

    def __init__(self, url: str) -> None:
        self.fs, root = file_system(url)
        self.folder, self.cleaning_file = f"{root}/{FOLDER}", f"{root}/{CLEANING}"
        self.shown = shown(url)

    def claims(self) -> dict[str, Claim]:
        """File name -> claim. Raises CleaningRefused for one that can't be read."""
        with self._storage():
            self.fs.invalidate_cache(self.folder)
            try:
                names = sorted(path.rsplit("/", 1)[-1] for path in self.fs.ls(self.folder, detail=False))
            except FileNotFoundError:
                return {}
            return {name: self._claim(name) for name in names if name.endswith(".json")}

    def _claim(self, name: str) -> Claim:
        try:
            return Claim.model_validate_json(self.fs.cat_file(f"{self.folder}/{name}"))
        except ValidationError as error:
            raise CleaningRefused(
                f"{self.shown}/{FOLDER}/{name} is no claim of a run; see what it is, and remove it."
            ) from error

    def write(self, claim: Claim) -> None:
        with self._storage():
            self.fs.makedirs(self.folder, exist_ok=True)
            self._put(f"{self.folder}/{claim.run}.json", claim)

    def end(self, claim: Claim) -> None:
        """Say that its task works no more, unless a newer try of the run's claims by now."""
        with self._storage():
            try:
                found = self._claim(f"{claim.run}.json")
            except FileNotFoundError:
                found = claim
        if (found.host, found.pid, found.at) == (claim.host, claim.pid, claim.at):
            self.write(claim.model_copy(update={"working": False, "at": time.time()}))

    def cleaning(self) -> Cleaning | None:
        """The clean-up that is at work, None where there is none or it has died."""
        with self._storage():
            try:
                found = Cleaning.model_validate_json(self.fs.cat_file(self.cleaning_file))
            except FileNotFoundError:
                return None
            except ValidationError as error:
                raise StorageError(
                    f"{self.shown}/{CLEANING} can't be read; remove it, then run again."
                ) from error
        return None if found.gone or time.time() - found.at > EXPIRY_SECONDS else found

    def write_cleaning(self, name: str) -> None:
        with self._storage():
            self.fs.makedirs(self.folder, exist_ok=True)
            self._put(self.cleaning_file, Cleaning(host=here(), pid=os.getpid(), at=time.time(), name=name))

    def end_cleaning(self, name: str) -> None:
        """Let runs go on, unless another clean-up took this one's place."""
        with self._storage():
            if (found := self.cleaning()) and found.name == name:
                self.fs.rm_file(self.cleaning_file)

    def _put(self, path: str, record: _Record) -> None:
        put_whole(self.fs, path, record.model_dump_json().encode())

    def _storage(self) -> AbstractContextManager[None]:
        return store_refusals(f"The claims in {self.shown}", "check the remote, then run again")


@contextmanager
def at_work(
    settings: Settings, run: str, task: str, inputs: str = "", lock: str = ""
) -> Iterator[Callable[[str, str], None]]:
    """Claim what a run rests on while one of its tasks works, and after.

    Yields what to call with the new inputs and lock.

    Waits for a clean-up that is deleting. Raises StorageError if that takes longer than 40 minutes.
    """
    board = Board(settings.remote_url)
    claim = Claim(
        host=here(),
        pid=os.getpid(),
        at=time.time(),
        run=run,
        task=task,
        working=True,
        inputs=inputs,
        lock=lock,
        lasts_hours=params_or_defaults(settings).runtime.longest_task_hours,
    )

    def rest_on(inputs: str, lock: str) -> None:
        nonlocal claim
        claim = claim.model_copy(update={"inputs": inputs, "lock": lock})

    board.write(claim)
    try:
        _wait(board)
        yield rest_on
    finally:
        board.end(claim)


def _wait(board: Board) -> None:
    start = time.monotonic()
    while board.cleaning() is not None:
        if time.monotonic() - start > PATIENCE_SECONDS:
            raise StorageError(
                f"A clean-up of {board.shown} has been deleting for 40 minutes; wait for its end, then run again."
            )
        time.sleep(POLL_SECONDS)


@contextmanager
def cleaning(settings: Settings) -> Iterator[Callable[[], None]]:
    """The turn in which a clean-up may delete; yields what to call before each step.

    Raises CleaningRefused while others work.
    """
    board, name, heard = Board(settings.remote_url), uuid.uuid4().hex, time.time()
    if other := board.cleaning():
        raise CleaningRefused(
            f"Another clean-up of {board.shown} is at work (on {other.host}); wait for its end."
        )

    def still() -> None:
        nonlocal heard
        found = board.cleaning()
        if time.time() - heard > EXPIRY_SECONDS / 2 or found is None or found.name != name:
            why = "was held up for minutes, or another one came in between, so runs may have started"
            raise CleaningRefused(
                f"This clean-up of {board.shown} {why}; see that no other is at work and type it again."
            )
        board.write_cleaning(name)
        heard = time.time()

    board.write_cleaning(name)
    try:
        for claim in board.claims().values():
            if claim.at_work(time.time()):
                raise _busy(board, claim)
        yield still
    finally:
        board.end_cleaning(name)


def _busy(board: Board, claim: Claim) -> CleaningRefused:
    killed = f"if it was killed, remove {board.shown}/{FOLDER}/{claim.run}.json"
    return CleaningRefused(
        f"Run {claim.run} is at work ({claim.task}, on {claim.host}); wait for its end, or {killed}, then clean up."
    )


def here() -> str:
    """This machine, or this container on it: where a process id means something."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {space.readlink() if space.is_symlink() else ''}".strip()
