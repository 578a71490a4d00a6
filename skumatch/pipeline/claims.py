"""Mutual exclusion between the tasks of runs and clean-ups, without a lock server.

A run is recorded in MLflow only by its last task, and it may use old objects from the cache. So a clean-up
can't tell from the stores what a run in progress needs. Therefore each task writes a claim into the remote,
with the input set and lock of its run.

Each side writes its own flag before it reads the other's (Dekker's algorithm): a task writes its claim and
then looks for a clean-up, a clean-up writes its file and then looks for tasks at work. So of two that start
at the same time at least one sees the other. The task then waits; the clean-up refuses to start.
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
MARGIN_HOURS = 2.0  # so long after its time limit, a task has ended for certain
EXPIRY_SECONDS = 1200.0  # a clean-up that hasn't renewed its file for so long has died
PATIENCE_SECONDS, POLL_SECONDS = 2400.0, 2.0  # how long a task waits for a clean-up, and how often it looks


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    host: str
    pid: int
    at: float

    @property
    def gone(self) -> bool:
        """True where the process is known to have ended; False for a process of another machine."""
        return self.host == here() and not psutil.pid_exists(self.pid)


class Claim(_Record):
    """The objects that a run needs, and whether one of its tasks is at work.

    Attributes:
        host: machine or container of the task (`here`).
        pid: process id of the task.
        at: when the claim was written, in seconds since 1970.
        run: the run's name.
        task: name of the task.
        working: True while the task works.
        inputs: MD5 of the run's input set; empty before it is stored.
        lock: text of the run's dvc.lock; empty while there is none.
        lasts_hours: the longest time that a task may take.
    """

    run: str
    task: str
    working: bool
    inputs: str = ""
    lock: str = ""
    lasts_hours: float = 24.0

    def at_work(self, now: float) -> bool:
        """Return whether its task may still be running at `now`, in seconds since 1970.

        A task of another machine counts as running until its time limit and a margin have passed.
        """
        return self.working and not self.gone and now - self.at < 3600 * (self.lasts_hours + MARGIN_HOURS)


class Cleaning(_Record):
    """A clean-up at work.

    Attributes:
        host: machine or container of the clean-up (`here`).
        pid: its process id.
        at: when it renewed its file last, in seconds since 1970.
        name: random name that identifies it.
    """

    name: str


class Board:
    """The files of tasks and clean-ups at work in a remote: claims, and one file for the clean-up.

    Every method raises StorageError where the remote refuses.
    """

    def __init__(self, url: str) -> None:
        self.fs, root = file_system(url)
        self.folder, self.cleaning_file = f"{root}/{FOLDER}", f"{root}/{CLEANING}"
        self.shown = shown(url)

    def claims(self) -> dict[str, Claim]:
        """Read all claims: file name -> claim.

        Raises:
            CleaningRefused: a claim can't be parsed.
        """
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
        """Write a claim; it replaces the run's last one."""
        with self._storage():
            self.fs.makedirs(self.folder, exist_ok=True)
            self._put(f"{self.folder}/{claim.run}.json", claim)

    def end(self, claim: Claim) -> None:
        """Record that the claim's task has ended, unless a newer try of the run has written its own claim."""
        with self._storage():
            try:
                stored = self._claim(f"{claim.run}.json")
            except FileNotFoundError:
                stored = claim
        if (stored.host, stored.pid, stored.at) == (claim.host, claim.pid, claim.at):
            self.write(claim.model_copy(update={"working": False, "at": time.time()}))

    def cleaning(self) -> Cleaning | None:
        """Return the clean-up that is at work; None where there is none or it has died."""
        with self._storage():
            try:
                other = Cleaning.model_validate_json(self.fs.cat_file(self.cleaning_file))
            except FileNotFoundError:
                return None
            except ValidationError as error:
                raise StorageError(
                    f"{self.shown}/{CLEANING} can't be read; remove it, then run again."
                ) from error
        return None if other.gone or time.time() - other.at > EXPIRY_SECONDS else other

    def write_cleaning(self, name: str) -> None:
        """Write or renew the file of the clean-up `name`."""
        with self._storage():
            self.fs.makedirs(self.folder, exist_ok=True)
            self._put(self.cleaning_file, Cleaning(host=here(), pid=os.getpid(), at=time.time(), name=name))

    def end_cleaning(self, name: str) -> None:
        """Remove the file of the clean-up `name`, so that runs go on; another clean-up's file stays."""
        with self._storage():
            if (other := self.cleaning()) and other.name == name:
                self.fs.rm_file(self.cleaning_file)

    def _put(self, path: str, record: _Record) -> None:
        put_whole(self.fs, path, record.model_dump_json().encode())

    def _storage(self) -> AbstractContextManager[None]:
        return store_refusals(f"The claims in {self.shown}", "check the remote, then run again")


@contextmanager
def at_work(
    settings: Settings, run: str, task: str, inputs: str = "", lock: str = ""
) -> Iterator[Callable[[str, str], None]]:
    """Claim the objects that a run needs, while one of its tasks works and after it.

    It waits for a clean-up that is deleting.

    Args:
        settings: this machine's settings.
        run: the run's name, which is the claim's file name.
        task: name of the task.
        inputs: MD5 of the run's input set; empty before it is stored.
        lock: text of the run's dvc.lock; empty while there is none.

    Yields:
        A function that takes new `inputs` and `lock`, which the claim has once the task ends.

    Raises:
        StorageError: the remote refuses, or the clean-up takes longer than 40 minutes.
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
    """Wait until no clean-up is at work."""
    start = time.monotonic()
    while board.cleaning() is not None:
        if time.monotonic() - start > PATIENCE_SECONDS:
            fault = f"A clean-up of {board.shown} has been deleting for 40 minutes"
            raise StorageError(f"{fault}; wait for its end, then run again.")
        time.sleep(POLL_SECONDS)


@contextmanager
def cleaning(settings: Settings) -> Iterator[Callable[[], None]]:
    """Take the exclusive right to delete, for one clean-up.

    Yields:
        A function to call before each step. It renews the right, and raises CleaningRefused where that was
        lost.

    Raises:
        CleaningRefused: a task or another clean-up is at work.
        StorageError: the remote refuses.
    """
    board, name, heard = Board(settings.remote_url), uuid.uuid4().hex, time.time()
    if other := board.cleaning():
        raise CleaningRefused(
            f"Another clean-up of {board.shown} is at work (on {other.host}); wait for its end."
        )

    def still() -> None:
        nonlocal heard
        current = board.cleaning()
        if time.time() - heard > EXPIRY_SECONDS / 2 or current is None or current.name != name:
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
    fault = f"Run {claim.run} is at work ({claim.task}, on {claim.host})"
    return CleaningRefused(f"{fault}; wait for its end, or {killed}, then clean up.")


def here() -> str:
    """Return a name of the process-id namespace: this machine, or this container on it."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {space.readlink() if space.is_symlink() else ''}".strip()
