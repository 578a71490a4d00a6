"""A person far from the workers follows a run: in the stage's own words, though its log lies elsewhere."""

from __future__ import annotations

import pytest

from tests.deployment.runs import Deployment

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


def test_a_run_that_fails_is_told_in_the_stage_s_own_words(deployment: Deployment) -> None:
    with deployment.workers("told", {"one": "default,gpu"}):
        done = deployment.command("retrain", "--set", "validate.min_skus=1000")
    assert done.returncode == 13, done.stdout + done.stderr
    assert (
        "validate: " in done.stderr
        and "At least 1,000 SKUs" in done.stderr
        and "/tasks/validate)" in done.stderr
    )
