"""How much a test tries: a sample every day, the full count of docs and promises under `make prove`."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "everyday")
PROVING = PROFILE == "prove"
# No example has a deadline, and drawing one may be slow: on a busy machine all is slow.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For tests of minutes; most have a quicker one of their kind that runs every day.
IN_PROOF = pytest.mark.skipif(not PROVING, reason="in `make prove`: it takes minutes")
FIRST_FAILURE = [Phase.explicit, Phase.generate]  # without the search for the shortest example


def load_profile() -> None:
    """Register hypothesis' profiles, and load the one that HYPOTHESIS_PROFILE names (unset: everyday)."""
    settings.register_profile("everyday", UNTIMED, max_examples=30)
    settings.register_profile("prove", UNTIMED, max_examples=500)
    settings.register_profile("mutants", UNTIMED, derandomize=True, database=None, phases=FIRST_FAILURE)
    settings.load_profile(PROFILE)


def count(daily: int, proven: int) -> int:
    return proven if PROVING else daily
