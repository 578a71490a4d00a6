"""What a check says, and how all of them are asked."""

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
LONGER = 30.0  # for a check that loads a large library first


class Finding(BaseModel):
    """verdict: `warning` may harm later, `skipped` could not be looked at. found: what is there. fix: what to do, empty where all is
    well or an earlier finding says it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


class Problem(Exception):
    """Raised by a check for something that is wrong: what was found, and how to mend it."""

    def __init__(self, found: str, fix: str, verdict: Verdict = "failed") -> None:
        super().__init__(found)
        self.found, self.fix, self.verdict = found, fix, verdict


@dataclass(frozen=True)
class Place:
    """The installation as it is told by its environment and params.yaml; other parameters may be `given`."""

    settings: Settings
    given: Params | None = None

    @property
    def params(self) -> Params:
        """Raises Problem where params.yaml can't be used: what depends on it can't be looked at."""
        try:
            return self.given or load_params(self.settings.project / "params.yaml")
        except ParameterError as error:
            raise Problem("the parameters are not known", "Mend params.yaml first.", "skipped") from error


@dataclass(frozen=True)
class Check:
    """One part of an installation.

    ask: returns what is there if all is well, or raises Problem or one of our errors. cure: what to do where
    an error doesn't say. after: the part without which this one can't be looked at. seconds: how long it is
    waited for.
    """

    name: str
    ask: Callable[[Place], str]
    cure: str
    after: str = ""
    seconds: float = SECONDS


def examine(place: Place, checks: Iterable[Check]) -> Iterator[Finding]:
    """Ask each check, and wait for it no longer than its time: a host that doesn't answer must not keep the others from being asked."""
    away: set[str] = set()
    for check in checks:
        if check.after in away:
            found = Finding(name=check.name, verdict="skipped", found=f"not asked without {check.after}")
        else:
            found = _in_time(check, place)
        if found.verdict in ("failed", "skipped"):
            away.add(check.name)
        yield found


def _in_time(check: Check, place: Place) -> Finding:
    with ThreadPool(1) as pool:  # which it leaves with its thread still waiting, if it must
        try:
            return pool.apply_async(_asked, (check, place)).get(check.seconds)
        except NoAnswer:
            return Finding(
                name=check.name, verdict="failed", found=f"no answer in {check.seconds:.0f} s", fix=check.cure
            )


def _asked(check: Check, place: Place) -> Finding:
    try:
        return Finding(name=check.name, verdict="ok", found=check.ask(place))
    except Problem as problem:
        return Finding(name=check.name, verdict=problem.verdict, found=shown(problem.found), fix=problem.fix)
    except SkumatchError as error:
        found, _, fix = str(error).rstrip(".").rpartition("; ")  # our sentences end with what to do
        said, cure = (found, f"{fix[0].upper()}{fix[1:]}.") if found else (fix, check.cure)
        return Finding(name=check.name, verdict="failed", found=said, fix=cure)
    except refusals() as error:
        return Finding(name=check.name, verdict="failed", found=_words(error), fix=check.cure)


def refusals() -> tuple[type[Exception], ...]:
    """What disks, stores, servers and libraries raise that are away or say no: for `except`."""
    return (*store_errors(), ImportError, ValueError, httpx.HTTPError)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return shown(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    return shown(" ".join(str(error).split())[:300]) or type(error).__name__
