"""How often the rules for a refreshed gallery err, in simulated weeks and years of one model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import MIDDLE, RP2K, SMALL, STRONG, UNED, Clustering, Shape
from benchmarks.refresh import FEW, Fault, Outcome, Week, draw_week, simulate_week, simulate_years
from skumatch.gate.fitness import hold_back, judge
from skumatch.params import RefreshParams
from tests.cli import Cli
from tests.proving import IN_PROOF, PROVING, count

FIVE_OF_31, TWO_TO_TEN_PERCENT = (5 / 31, 5 / 31), (0.02, 0.1)
NEW = {FEW.name: FIVE_OF_31, SMALL.name: TWO_TO_TEN_PERCENT, RP2K.name: TWO_TO_TEN_PERCENT}
TINY = Shape("tiny", 200, 20)


def trials(shape: Shape) -> int:
    return count(12, 200) if shape is RP2K else count(60, 800)


def least(share: float, number: int) -> float:
    """Return the bound below which the observed share of `number` trials falls once in a thousand times."""
    return share - 3.1 * float(np.sqrt(share * (1 - share) / number))


@pytest.mark.parametrize(
    ("shape", "clustering"),
    [(RP2K, MIDDLE), (RP2K, STRONG), (SMALL, MIDDLE), (FEW, MIDDLE)],
)
def test_harmless_weeks_are_released(shape: Shape, clustering: Clustering) -> None:
    outcome = simulate_week(Week(shape, clustering, NEW[shape.name], "none"), trials(shape), seed=5)
    assert outcome.released >= least(0.95, outcome.trials)
    assert outcome.held_back < 0.05


@pytest.mark.parametrize(("fault", "caught"), [("lost", 0.8), ("swallowed", 0.95), ("unknown", 0.95)])
def test_faults_are_caught_at_the_shape_of_rp2k(fault: Fault, caught: float) -> None:
    outcome = simulate_week(Week(RP2K, MIDDLE, NEW[RP2K.name], fault), trials(RP2K), seed=5)
    assert outcome.caught >= least(caught, outcome.trials)


def test_small_losses_do_not_add_up_in_a_year_of_many_products() -> None:
    year = simulate_years(RP2K if PROVING else UNED, MIDDLE, 0.005, count(1, 20), seed=5)
    assert year.bounded >= 0.95 and 0 < year.loss <= 0.015 + 1e-9


def test_a_week_has_the_fault_that_it_says() -> None:
    week = Week(SMALL, MIDDLE, NEW[SMALL.name], "swallowed")
    answers, new, faulty = draw_week(week, np.random.default_rng(1), 1)
    assert faulty in new and set(answers.loc[answers["status"].eq("new"), "sku"]) == set(new)
    victims = answers.loc[answers["refreshed"].eq(faulty) & answers["status"].eq("old"), "sku"]
    assert victims.value_counts(normalize=True).iloc[0] > 0.5
    shares = {}
    for fault in ("none", "lost", "unknown"):
        answers, _, nobody = draw_week(replace(week, fault=fault), np.random.default_rng(1), 1)
        old = answers[answers["status"].eq("old")]
        shares[fault] = (old["refreshed"].ne(old["sku"]).mean(), old["refreshed_unknown"].mean())
        assert nobody is None
    assert shares["lost"][0] == pytest.approx(shares["none"][0] + 0.02, abs=0.015)
    assert shares["unknown"][1] == pytest.approx(shares["none"][1] + 0.05, abs=0.02)


def test_answers_have_the_form_that_fitness_takes() -> None:
    answers, *_ = draw_week(Week(FEW, STRONG, FIVE_OF_31, "none"), np.random.default_rng(2), 2)
    gallery = answers[answers["asked_as"].eq("gallery")]
    assert len(gallery) and gallery["served"].isna().all() and gallery["status"].eq("new").all()
    policy = RefreshParams()
    assert judge(answers, policy, "", 7).checks and isinstance(hold_back(answers, policy), dict)


def test_a_simulated_week_repeats() -> None:
    week = Week(TINY, MIDDLE, (0.2, 0.2), "half swallowed")
    assert simulate_week(week, 4, 1) == simulate_week(week, 4, 1)
    assert simulate_years(TINY, MIDDLE, None, 1, 1) == simulate_years(TINY, MIDDLE, None, 1, 1)


@pytest.mark.parametrize(
    ("fault", "share", "holds"),
    [("none", 0.95, True), ("none", 0.94, False), ("lost", 0.8, True), ("lost", 0.7, False)],
)
def test_a_promise_about_weeks_holds_or_not(fault: Fault, share: float, holds: bool) -> None:
    week = Week(TINY, MIDDLE, (0.1, 0.1), fault, 0.95 if fault == "none" else 0.8)
    outcome = Outcome(week, 10, share, share, 0.0)
    assert outcome.holds is holds and replace(outcome, week=replace(week, bound=None)).holds is None


@IN_PROOF
def test_the_command_prints_and_writes_the_weeks(tmp_path: Path) -> None:
    cli, target = Cli(tmp_path, tmp_path / "home", module="benchmarks"), tmp_path / "figures.json"
    done = cli("gate", "--only", "galleries", "--weeks", "4", "--json", str(target))
    assert done.code == 0, done.err
    figures = json.loads(target.read_text("utf-8"))
    assert figures.keys() == {"refreshes", "refresh_years"} and len(figures["refreshes"]) == 22
    assert {row["week"]["shape"]["name"] for row in figures["refreshes"]} == {"RP2K", "81 SKUs", "31 SKUs"}
    assert "harmless" in done.out and "held back" in done.out
