"""What a check says, and how all of them are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import TimeoutError as NoAnswer
from multiprocessing.pool import ThreadPool
from typing import Literal

import httpx
from pydantic import BaseModel, ConfigDict

from skumatch.config import Settings, shown
from skumatch.errors import SkumatchError
from skumatch.params import Params

Verdict = Literal["ok", "warning", "failed", "skipped"]
SECONDS = 30.0


class Finding(BaseModel):
    """verdict: `warning` may harm later, `skipped` could not be looked at. found: what is there. fix: what to do, unless all is well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Place:
    """The installation as it is told by its environment and params.yaml."""

    settings: Settings
    params: Params


class Problem(Exception):
    """Raised by a check for something that is wrong: what was found, and how to mend it."""

    def __init__(self, found: str, fix: str, verdict: Verdict = "failed") -> None:
        super().__init__(found)
        self.found, self.fix, self.verdict = found, fix, verdict


Check = Callable[[Place], str]


def examine(place: Place, checks: Iterable[tuple[str, Check]], seconds: float = SECONDS) -> Iterator[Finding]:
    """Ask every check, each for so many seconds at most: a host that doesn't answer must not keep the others from being asked."""
    for name, check in checks:
        with ThreadPool(1) as pool:  # which it leaves with its thread still waiting, if it must
            try:
                yield pool.apply_async(_asked, (name, check, place)).get(seconds)
            except NoAnswer:
                fix = "See whether its host is up and reachable."
                yield Finding(name=name, verdict="failed", found=f"no answer in {seconds:.0f} s", fix=fix)


def _asked(name: str, check: Check, place: Place) -> Finding:
    try:
        return Finding(name=name, verdict="ok", found=check(place))
    except Problem as problem:
        return Finding(name=name, verdict=problem.verdict, found=problem.found, fix=problem.fix)
    except (SkumatchError, OSError, ImportError, httpx.HTTPError) as error:
        return Finding(name=name, verdict="failed", found=shown(str(error)))
