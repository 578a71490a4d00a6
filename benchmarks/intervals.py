"""Coverage of the printed intervals, on simulated hits near 100 % whose errors are clustered by SKU.

Each SKU's own share of hits is drawn from a beta distribution; given that share, the hits of its queries are
independent (beta-binomial).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.gate import SPREAD
from skumatch.retrieval import statistics
from skumatch.retrieval.metrics import Flags, Places

CONFIDENCE = 0.95
RESAMPLES = 1000
MEAN = 16  # queries of a SKU
ICCS = (0.0, 0.1, 0.4, 0.9)
Sizes = Literal["2 to 30", "long tail"]  # queries of a SKU: uniformly distributed, or as uneven as RP2K's


@dataclass(frozen=True)
class IntervalScene:
    """One distribution of hits.

    Attributes:
        skus: number of SKUs.
        sizes: distribution of the number of queries of a SKU.
        truth: true share of hits.
        icc: intra-cluster correlation, from 0 (queries are independent) to 1 (all queries of a SKU are hits
            or none is).
    """

    skus: int
    sizes: Sizes
    truth: float
    icc: float


SHAPES: tuple[tuple[int, Sizes, tuple[float, ...]], ...] = (
    (24, "2 to 30", (0.95, 0.98, 0.99, 0.995)),
    (81, "2 to 30", (0.95, 0.98, 0.99, 0.995)),
    (200, "2 to 30", (0.95, 0.98, 0.99, 0.995)),
    (2388, "2 to 30", (0.95, 0.99)),
    (81, "long tail", (0.95, 0.98, 0.99, 0.995)),
)
LAWS = ((skus, sizes, truth) for skus, sizes, truths in SHAPES for truth in truths)
SCENES = tuple(IntervalScene(*law, icc) for law in LAWS for icc in ICCS)


@dataclass(frozen=True)
class Method:
    """Results of one method's intervals.

    Attributes:
        above: share of trials in which the whole interval lies above the truth.
        below: share of trials in which the whole interval lies below the truth.
        width: mean width, 0 to 1.
    """

    above: float
    below: float
    width: float

    @property
    def coverage(self) -> float:
        """Return the share of trials in which the interval holds the truth."""
        return 1 - self.above - self.below


@dataclass(frozen=True)
class Coverage:
    """Results of one scene.

    Attributes:
        scene: the simulated scene.
        trials: number of simulated sets of queries.
        printed: results of `mean_interval`.
        plain: results of the bootstrap alone, as it is used for differences.
    """

    scene: IntervalScene
    trials: int
    printed: Method
    plain: Method


def bench_intervals(trials: int) -> Iterator[Coverage]:
    """Simulate every scene, `trials` times each."""
    return (simulate(scene, trials, number) for number, scene in enumerate(SCENES))


def simulate(scene: IntervalScene, trials: int, seed: int) -> Coverage:
    """Simulate one scene; the same seed gives the same figures.

    Args:
        scene: the scene.
        trials: number of simulated sets of queries.
        seed: of all draws.
    """
    rng, bounds = np.random.default_rng(seed), np.empty((trials, 2, 2))
    for trial in range(trials):
        hits, skus = draw(scene, rng)
        for place, interval in enumerate((statistics.mean_interval, statistics.change_interval)):
            estimate = interval(hits, skus, CONFIDENCE, trial, RESAMPLES)
            bounds[trial, place] = estimate.low, estimate.high
    printed, plain = (_method(bounds[:, place], scene.truth) for place in range(2))
    return Coverage(scene, trials, printed, plain)


def draw(scene: IntervalScene, rng: np.random.Generator) -> tuple[Flags, Places]:
    """Draw one set of queries: whether each is a hit, and the number of its SKU, [n] each."""
    if scene.sizes == "long tail":
        weights = np.exp(SPREAD * rng.normal(size=scene.skus))
        sizes = 1 + rng.multinomial((MEAN - 1) * scene.skus, weights / weights.sum())
    else:
        sizes = rng.integers(2, 2 * MEAN - 1, scene.skus)
    if scene.icc == 0:
        shares = np.full(scene.skus, scene.truth)
    elif scene.icc == 1:
        shares = (rng.random(scene.skus) < scene.truth).astype(np.float64)
    else:
        alpha_plus_beta = 1 / scene.icc - 1
        shares = rng.beta(alpha_plus_beta * scene.truth, alpha_plus_beta * (1 - scene.truth), scene.skus)
    skus: Places = np.repeat(np.arange(scene.skus), sizes)
    return rng.random(len(skus)) < shares[skus], skus


def _method(bounds: np.ndarray, truth: float) -> Method:
    low, high = bounds.T
    return Method(float(np.mean(low > truth)), float(np.mean(high < truth)), float(np.mean(high - low)))


def table(outcomes: list[Coverage]) -> Table:
    """Return a table with a row for each scene: coverage and width, printed and of the plain bootstrap."""
    title = f"How many of 100 intervals hold the truth ({outcomes[0].trials:,} trials a row)"
    grid = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    grid.caption = "ICC: correlation of hits within a SKU. Widths in points. Plain: the bootstrap alone."
    for name in ("SKUs", "queries each", "true share", "ICC", "hold", "width", "plain: hold", "width"):
        grid.add_column(name, justify="right")
    for outcome in outcomes:
        scene, printed, plain = outcome.scene, outcome.printed, outcome.plain
        grid.add_row(
            f"{scene.skus:,}",
            scene.sizes,
            f"{100 * scene.truth:g} %",
            f"{scene.icc:g}",
            f"[bold]{100 * printed.coverage:.1f}",
            f"{100 * printed.width:.1f}",
            f"{100 * plain.coverage:.1f}",
            f"{100 * plain.width:.1f}",
        )
    return grid
