"""Printed intervals have their nominal coverage, near 100 % and for any clustering."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.intervals import SCENES, IntervalScene, draw, simulate
from tests.cli import Cli
from tests.proving import PROVING, count

TRIALS = count(150, 1000)
DAILY = (
    IntervalScene(24, "2 to 30", 0.98, 0.4),
    IntervalScene(81, "2 to 30", 0.95, 0.9),
    IntervalScene(81, "long tail", 0.95, 0.4),
    IntervalScene(200, "2 to 30", 0.99, 0.1),
    IntervalScene(200, "2 to 30", 0.95, 0.0),
)


@pytest.mark.parametrize("scene", SCENES if PROVING else DAILY, ids=str)
def test_intervals_hold_the_truth_as_often_as_they_say(scene: IntervalScene) -> None:
    """At least 95 %; a simulation of an interval that does is below this bound once in a thousand times."""
    outcome = simulate(scene, TRIALS, seed=5)
    assert outcome.printed.coverage >= 0.95 - 3.1 * np.sqrt(0.95 * 0.05 / TRIALS)


def test_the_plain_bootstrap_misses_the_truth_far_more_often() -> None:
    outcome = simulate(IntervalScene(81, "2 to 30", 0.99, 0.4), TRIALS, seed=5)
    assert outcome.plain.coverage < 0.88 < outcome.printed.coverage
    assert outcome.plain.above > 5 * outcome.plain.below


@pytest.mark.parametrize("icc", [0.0, 0.4, 1.0])
def test_simulated_hits_are_of_the_law_that_they_say(icc: float) -> None:
    hits, skus = draw(IntervalScene(20_000, "2 to 30", 0.9, icc), np.random.default_rng(1))
    sizes = np.bincount(skus)
    sums = np.bincount(skus, weights=hits)
    both = float(np.sum(sums * (sums - 1)) / np.sum(sizes * (sizes - 1)))  # two queries of one SKU are hits
    assert (sizes.min(), sizes.max(), hits.mean()) == (2, 30, pytest.approx(0.9, abs=0.01))
    assert (both - 0.81) / 0.09 == pytest.approx(icc, abs=0.05)


def test_a_simulation_repeats_and_a_long_tail_is_uneven() -> None:
    scene = IntervalScene(81, "long tail", 0.95, 0.1)
    assert simulate(scene, 3, 1) == simulate(scene, 3, 1) != simulate(scene, 3, 2)
    sizes = np.bincount(draw(scene, np.random.default_rng(1))[1])
    assert sizes.sum() == 16 * 81 and sizes.max() > 10 * np.median(sizes)


def test_the_command_prints_and_writes_every_scene(tmp_path: Path) -> None:
    cli, target = Cli(tmp_path, tmp_path / "home", module="benchmarks"), tmp_path / "figures.json"
    done = cli("intervals", "--trials", "1", "--json", str(target))
    assert done.code == 0, done.err
    figures = json.loads(target.read_text("utf-8"))
    assert {row["scene"]["skus"] for row in figures} == {24, 81, 200, 2388}
    assert all(row["trials"] == 1 and row["printed"]["width"] > 0 for row in figures)
    assert "How many of 100 intervals hold the truth" in done.out
