"""User-facing errors: one class for each kind, with a sentence and an exit code.

The sentence says what failed, where, and what to do. A programming mistake is an `assert` instead.
"""

from __future__ import annotations

import re

CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")  # user and password of a URL


class SkumatchError(Exception):
    """Base class of all user-facing errors.

    Sentences often quote other programs, so user and password of any URL in them are removed here.

    Attributes:
        exit_code: Tells the kind of error apart for scripts and for Airflow.
        retry: Whether the same call may succeed later by itself (a server is away, a disk was full).
        kind: Name of the class, or of the class that a relayed error had.
    """

    exit_code = 1
    retry = False
    kind = "SkumatchError"

    def __init__(self, sentence: str) -> None:
        super().__init__(CREDENTIALS.sub("", sentence))

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__

    def as_dict(self) -> dict[str, str | int | bool]:
        """Return the fields kind, sentence, exit_code and retry, for other processes."""
        return {"kind": self.kind, "sentence": str(self), "exit_code": self.exit_code, "retry": self.retry}


class ParameterError(SkumatchError):
    """A parameter doesn't exist or is out of its range."""

    exit_code = 10


class DataError(SkumatchError):
    """A data set can't be used: it is missing, empty, of another layout, or has no test side."""

    exit_code = 11


class ImageError(SkumatchError):
    """An image can't be used.

    Attributes:
        reason: The word under which the image is counted.
    """

    exit_code = 12

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class ValidationFailed(SkumatchError):
    """Data broke an expectation."""

    exit_code = 13


class WeightsError(SkumatchError):
    """Encoder weights are missing, belong to another model, or were changed."""

    exit_code = 14


class TrainingDiverged(SkumatchError):
    """A training's loss or gradients are no numbers any more."""

    exit_code = 15


class BundleError(SkumatchError):
    """A model bundle is incomplete, changed, or of a format this version can't read."""

    exit_code = 16


class ReferenceNotFound(SkumatchError):
    """A model reference (champion, a version, a folder) names nothing."""

    exit_code = 17


class StaleChampion(SkumatchError):
    """The champion changed between evaluation and promotion."""

    exit_code = 18


class CodeError(SkumatchError):
    """A run can't take the code along, or git can't name its commit."""

    exit_code = 19


class RegistryUnavailable(SkumatchError):
    """The MLflow server doesn't answer."""

    exit_code = 20
    retry = True


class StorageError(SkumatchError):
    """A disk or a remote refuses a write (full, read-only, away)."""

    exit_code = 21
    retry = True


class Fenced(SkumatchError):
    """Another attempt of the same stage took over, so this one stops."""

    exit_code = 22


class LatencyExceeded(SkumatchError):
    """A bundle answers too slowly, as measured in this attempt."""

    exit_code = 23
    retry = True


class PortInUse(SkumatchError):
    """Another program listens on a port."""

    exit_code = 30


class ServiceError(SkumatchError):
    """Airflow or MLflow did not start, stopped, or answers with an error."""

    exit_code = 31


class StageFailed(SkumatchError):
    """A stage ended without an error of its own (killed, crashed)."""

    exit_code = 32
    retry = True


class Refused(SkumatchError):
    """The gate refused the model of a run: the workflow worked, but there is nothing to release."""

    exit_code = 40


class AuditFailed(SkumatchError):
    """A lineage chain has a broken link: present data differ from the record."""

    exit_code = 41


class CleaningRefused(SkumatchError):
    """A clean-up can't tell what is needed, or would disturb a run: nothing (more) was deleted."""

    exit_code = 42


class Unwell(SkumatchError):
    """A part of the installation doesn't work as it should."""

    exit_code = 43


class LossNotAccepted(SkumatchError):
    """An erasure would leave versions that can't serve or be made again, and nobody has accepted that.

    Nothing was deleted.
    """

    exit_code = 44


class NothingNew(SkumatchError):
    """A scheduled run has no new data: not a failure, but nothing is done."""

    exit_code = 99


class Relayed(SkumatchError):
    """An error of a stage's own process, raised again with its kind, exit code and retry."""

    def __init__(self, sentence: str, kind: str, exit_code: int, retry: bool) -> None:
        super().__init__(sentence)
        self.kind, self.exit_code, self.retry = kind, exit_code, retry


class RunFailed(SkumatchError):
    """A workflow run failed; carries the failing stage's own sentence and exit code."""

    def __init__(self, sentence: str, exit_code: int = 33) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
