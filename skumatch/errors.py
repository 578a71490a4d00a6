"""Every failure a user can meet, one class each: a sentence that says what, where and what to do, and an exit code.

A programming mistake is an `assert`, never one of these.
"""

from __future__ import annotations

import re

CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")  # user and password of a URL


class SkumatchError(Exception):
    """Base of all user-facing errors.

    `exit_code` tells the kind apart for scripts and for Airflow; `retry` is true only where the same call may
    succeed later by itself (a server that is away, a disk that was full). Sentences often quote what others
    said, so the credentials of any URL in them are cut out here.
    """

    exit_code = 1
    retry = False
    kind = "SkumatchError"

    def __init__(self, sentence: str) -> None:
        super().__init__(CREDENTIALS.sub("", sentence))

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__

    def as_dict(self) -> dict[str, str | int | bool]:
        """kind, sentence, exit_code, retry: what programs pass on."""
        return {"kind": self.kind, "sentence": str(self), "exit_code": self.exit_code, "retry": self.retry}


class ParameterError(SkumatchError):
    """A parameter that doesn't exist or is out of its range."""

    exit_code = 10


class DataError(SkumatchError):
    """A data set that can't be used: missing, empty, of another layout, or with no test side."""

    exit_code = 11


class ImageError(SkumatchError):
    """One image that can't be used; `reason` is the word it is counted under."""

    exit_code = 12

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class ValidationFailed(SkumatchError):
    """Data that broke an expectation."""

    exit_code = 13


class WeightsError(SkumatchError):
    """Encoder weights that are missing, of another model, or changed."""

    exit_code = 14


class TrainingDiverged(SkumatchError):
    """A loss that is no number any more."""

    exit_code = 15


class BundleError(SkumatchError):
    """A model bundle that is incomplete, changed, or of a format this version can't read."""

    exit_code = 16


class ReferenceNotFound(SkumatchError):
    """A model reference (champion, a version, a folder) that names nothing."""

    exit_code = 17


class StaleChampion(SkumatchError):
    """The champion changed between evaluation and promotion."""

    exit_code = 18


class CodeError(SkumatchError):
    """Code that a run can't take along, or whose commit git refuses to tell."""

    exit_code = 19


class RegistryUnavailable(SkumatchError):
    """The MLflow server doesn't answer."""

    exit_code = 20
    retry = True


class StorageError(SkumatchError):
    """A disk or a remote that refuses a write (full, read-only, away)."""

    exit_code = 21
    retry = True


class Fenced(SkumatchError):
    """Another attempt of the same stage took over; this one stops."""

    exit_code = 22


class LatencyExceeded(SkumatchError):
    """A bundle that answers too slowly, as far as this attempt could measure."""

    exit_code = 23
    retry = True


class PortInUse(SkumatchError):
    """A port that another program listens on."""

    exit_code = 30


class ServiceError(SkumatchError):
    """Airflow or MLflow did not start, stopped, or answers with an error."""

    exit_code = 31


class StageFailed(SkumatchError):
    """A stage that ended without an error of its own (killed, crashed)."""

    exit_code = 32
    retry = True


class Refused(SkumatchError):
    """A run that worked and whose model the gate refused: no failure of the workflow, but nothing to release either."""

    exit_code = 40


class AuditFailed(SkumatchError):
    """A chain of lineage with a broken link: what is there isn't what was recorded."""

    exit_code = 41


class CleaningRefused(SkumatchError):
    """A clean-up that can't tell what is still needed, or that would disturb a run: nothing (more) was deleted."""

    exit_code = 42


class Unwell(SkumatchError):
    """A part of the installation doesn't work as it should."""

    exit_code = 43


class LossNotAccepted(SkumatchError):
    """An erasure after which versions can't serve or be made again, which nobody has accepted yet: nothing was deleted."""

    exit_code = 44


class NothingNew(SkumatchError):
    """A scheduled run that would see nothing it hasn't seen: not a failure, but nothing is done."""

    exit_code = 99


class Relayed(SkumatchError):
    """An error raised in a stage's own process, told onward with its kind and exit code."""

    def __init__(self, sentence: str, kind: str, exit_code: int, retry: bool) -> None:
        super().__init__(sentence)
        self.kind, self.exit_code, self.retry = kind, exit_code, retry


class RunFailed(SkumatchError):
    """A workflow run that failed; carries the failing stage's own sentence and exit code."""

    def __init__(self, sentence: str, exit_code: int = 33) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
