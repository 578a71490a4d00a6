"""Checks, their findings, and the loop that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import TimeoutError as NoAnswer
from multiprocessing.pool import ThreadPool
from typing import Literal

import httpx
from pydantic import BaseModel, ConfigDict

from skumatch.config import Settings, load_params, shown
from skumatch.errors import ParameterError, SkumatchError
from skumatch.files import store_errors
from skumatch.params import Params

Verdict = Literal["ok", "warning", "failed", "skipped"]
SECONDS = 10.0
LONGER = 30.0  # seconds for a check that loads a large library first


class Finding(BaseModel):
    """The result of one check.

    Attributes:
        name: Name of the checked part.
        verdict: `ok`; `warning` for a fault that may do harm later; `failed`; `skipped` for a part that could
            not be checked.
        found: The part's state in words.
        fix: The remedy; empty if none is needed or an earlier finding names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


class Problem(Exception):
    """A check's error for a part that is not well.

    Attributes:
        found: The fault in words.
        fix: The remedy.
        verdict: The finding's verdict.
    """

    def __init__(self, found: str, fix: str, verdict: Verdict = "failed") -> None:
        super().__init__(found)
        self.found, self.fix, self.verdict = found, fix, verdict


@dataclass(frozen=True)
class Place:
    """The installation that is checked.

    Attributes:
        settings: Its settings, from the environment.
        given: Parameters to use instead of those in params.yaml.
    """

    settings: Settings
    given: Params | None = None

    @property
    def params(self) -> Params:
        """The parameters. Raises Problem, with the verdict `skipped`, if params.yaml can't be used."""
        try:
            return self.given or load_params(self.settings.project / "params.yaml")
        except ParameterError as error:
            raise Problem("the parameters are not known", "Mend params.yaml first.", "skipped") from error


@dataclass(frozen=True)
class PartCheck:
    """The check of one part of an installation.

    Attributes:
        name: Name of the part.
        ask: Returns the part's state if it is well; raises Problem or a SkumatchError otherwise.
        cure: The remedy where an error doesn't name one.
        after: Name of the part that this check needs; it is skipped if that part failed. Empty for none.
        seconds: Time limit of the check.
    """

    name: str
    ask: Callable[[Place], str]
    cure: str
    after: str = ""
    seconds: float = SECONDS


def examine(place: Place, checks: Iterable[PartCheck]) -> Iterator[Finding]:
    """Run the checks in order and yield their findings.

    Each check has a time limit, so that a host that doesn't answer doesn't block the other checks.
    """
    away: set[str] = set()
    for check in checks:
        if check.after in away:
            finding = Finding(name=check.name, verdict="skipped", found=f"not asked without {check.after}")
        else:
            finding = _in_time(check, place)
        if finding.verdict in ("failed", "skipped"):
            away.add(check.name)
        yield finding


def _in_time(check: PartCheck, place: Place) -> Finding:
    """Run a check in a thread; after its time limit the thread is abandoned."""
    with ThreadPool(1) as pool:
        try:
            return pool.apply_async(_finding, (check, place)).get(check.seconds)
        except NoAnswer:
            return Finding(
                name=check.name, verdict="failed", found=f"no answer in {check.seconds:.0f} s", fix=check.cure
            )


def _finding(check: PartCheck, place: Place) -> Finding:
    """Run a check and return its finding, whichever error it raises."""
    try:
        return Finding(name=check.name, verdict="ok", found=check.ask(place))
    except Problem as problem:
        return Finding(name=check.name, verdict=problem.verdict, found=shown(problem.found), fix=problem.fix)
    except SkumatchError as error:
        # The messages of our errors have the form `FAULT; REMEDY.`
        fault, _, remedy = str(error).rstrip(".").rpartition("; ")
        if not fault:
            return Finding(name=check.name, verdict="failed", found=remedy, fix=check.cure)
        fix = f"{remedy[0].upper()}{remedy[1:]}."
        return Finding(name=check.name, verdict="failed", found=fault, fix=fix)
    except refusals() as error:
        return Finding(name=check.name, verdict="failed", found=_words(error), fix=check.cure)


def refusals() -> tuple[type[Exception], ...]:
    """Return the exception classes of disks, stores, servers and libraries that are away or refuse."""
    return (*store_errors(), ImportError, ValueError, httpx.HTTPError)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return shown(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    return shown(" ".join(str(error).split())[:300]) or type(error).__name__
