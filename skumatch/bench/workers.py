"""How many retrains the workers of an installation get through: several started together, each with a seed of its own."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from secrets import randbelow

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from rich.console import Console

from skumatch.bench.measure import Row
from skumatch.config import Settings
from skumatch.follow import follow, trigger

BOUND = 1.3  # two workers against one, each with a core of its own


class Throughput(BaseModel):
    """runs: retrains that were started together. seconds: from the first one's start to the last one's end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: PositiveInt
    seconds: PositiveFloat

    @property
    def an_hour(self) -> float:
        return 3600 * self.runs / self.seconds

    @property
    def words(self) -> str:
        return f"{self.runs} retrains in {self.seconds:,.0f} s: {self.an_hour:,.1f} an hour"

    def against(self, before: Throughput) -> Row:
        return Row("retrains an hour, against before", self.an_hour / before.an_hour, BOUND, "x", f"{self.words}; {before.words}", "more")


def throughput(settings: Settings, runs: int, overrides: list[str], told: Callable[[str], None]) -> Throughput:
    """Start `runs` dry runs at once and wait for them all; each has a new seed, so that nothing but validation is cached.

    They go on together as far as `runtime.parallel_runs` and the workers let them. Raises what `trigger` and `follow` raise.
    """
    first, start = randbelow(10**6), time.monotonic()
    started = [trigger(settings, {"overrides": [*overrides, f"seed={first + n}"], "dry_run": True}) for n in range(runs)]
    for run in started:
        follow(settings, run, Console(file=io.StringIO()))
        told(f"{run} ended, {time.monotonic() - start:,.0f} s after the start")
    return Throughput(runs=runs, seconds=round(time.monotonic() - start, 1))
