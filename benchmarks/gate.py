"""Error rates of the gate, on simulated pairs of models.

The models' errors are clustered by SKU and by burst of photos, as RP2K's are. A query is a hit if its ease
exceeds a bound. Ease is normally distributed: one part is shared by both models and one part is each model's
own. Of the own part, a share is common to all queries of a SKU and a share to all queries of a burst. Equal
models are two draws from the same distribution; a better model has a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from skumatch.gate import guards
from skumatch.params import GateParams
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import PairedHits
from skumatch.retrieval.metrics import Floats, Places

POLICY = GateParams(resamples=1000)
NOMINAL = 0.025  # one-sided
TOP1 = 0.96  # of the champion
BURST = 5  # photos of one product taken in one place
SPREAD = 1.57  # of the logarithm of a SKU's number of queries: RP2K's mean over its median
GALLERY = 8.74  # gallery images for each query, as in RP2K
HARDER = {"unseen": 0.06, "near_duplicate_free": 0.02, "k5": 0.05}  # by how much top-1 is lower there
UNSEEN = 0.05  # share of SKUs
DRAWS, EACH = 10, 5  # of the protocol k5


@dataclass(frozen=True)
class Shape:
    """Size of a set of queries.

    Attributes:
        name: shown in tables.
        queries: number of queries.
        skus: number of SKUs that they are of.
    """

    name: str
    queries: int
    skus: int


@dataclass(frozen=True)
class Clustering:
    """Variance components of a query's ease.

    Attributes:
        name: shown in tables.
        sku: share of the models' own variance that is common to all queries of a SKU.
        burst: share of it that is common to all queries of a burst of photos.
        own: share of the whole variance that is each model's own; the models share the rest.
    """

    name: str
    sku: float
    burst: float
    own: float = 0.055


RP2K = Shape("RP2K", 39_457, 2_388)
UNED = Shape("RP2K unseen", 10_931, 1_186)
SMALL = Shape("81 SKUs", 1_265, 81)
MILD, MIDDLE, STRONG = (
    Clustering("mild", 0.05, 0.1),
    Clustering("middle", 0.2, 0.2),
    Clustering("strong", 0.5, 0.3),
)
APART = Clustering("apart", 0.05, 0.1, own=0.2)


@dataclass(frozen=True)
class Scene:
    """One row of the table: queries, their clustering, and a true gain.

    Attributes:
        shape: number of queries and SKUs.
        clustering: variance components of the queries' ease.
        gain: the challenger's true top-1 minus the champion's, from 0 to 1.
        bound: promised bound of the share of pairs whose gain is shown: an upper one without a gain, a lower
            one with a gain; None if none was promised.
    """

    shape: Shape
    clustering: Clustering
    gain: float
    bound: float | None = None


SCENES = (
    *(
        Scene(shape, clustering, 0.0, 0.035)
        for shape in (RP2K, SMALL)
        for clustering in (MILD, MIDDLE, STRONG)
    ),
    Scene(UNED, MILD, 0.005, 0.8),
    Scene(UNED, APART, 0.005),
    *(Scene(RP2K, clustering, 0.005) for clustering in (MILD, MIDDLE, STRONG)),
    *(Scene(SMALL, clustering, gain) for gain in (0.01, 0.02) for clustering in (MILD, STRONG)),
)
YEAR = Scene(SMALL, MIDDLE, 0.0)


@dataclass(frozen=True)
class PairOutcome:
    """Results of one scene. Shares are of its pairs, but `discordant` is a share of queries.

    Attributes:
        scene: the simulated scene.
        pairs: number of simulated pairs of models.
        discordant: mean share of queries that exactly one of the two models gets right.
        design: design effect, the variance of the difference over its variance if queries were independent.
        shown: share in which a gain is shown at 0.975, one-sided.
        by_policy: share in which a gain is shown at the confidence of params.yaml's defaults.
        mcnemar: share in which McNemar's test shows a gain at 0.975, one-sided.
        guarded: number of pairs for which the guards were evaluated.
        stopped: share of these in which at least one guard does not pass.
        stopped_gains: the same among the guarded pairs whose gain is shown by the policy; None if there are
            none.
    """

    scene: Scene
    pairs: int
    discordant: float
    design: float
    shown: float
    by_policy: float
    mcnemar: float
    guarded: int
    stopped: float
    stopped_gains: float | None

    @property
    def holds(self) -> bool | None:
        """Return whether the promised bound is kept; None if none was promised.

        Without a gain it bounds false promotions from above, with a gain the power from below.
        """
        bound = self.scene.bound
        return None if bound is None else self.shown >= bound if self.scene.gain else self.shown <= bound


class World:
    """The queries of a shape, with their SKUs and bursts.

    Attributes:
        clustering: variance components of the queries' ease.
        skus: number of each query's SKU, from 0, ascending, [n].
        bursts: number of each query's burst, from 0, ascending, [n].
        tail: whether its SKU has at most 20 gallery images, [n].
        unseen: whether its SKU was never trained on, [n].
    """

    def __init__(self, shape: Shape, clustering: Clustering, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        weights = np.exp(SPREAD * rng.normal(size=shape.skus))
        sizes = 1 + rng.multinomial(shape.queries - shape.skus, weights / weights.sum())
        self.clustering, self.skus = clustering, np.repeat(np.arange(shape.skus), sizes)
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        number = np.arange(shape.queries) - first
        self.bursts = np.unique(np.column_stack([self.skus, number // BURST]), axis=0, return_inverse=True)[
            1
        ].reshape(-1)
        self.tail = (GALLERY * sizes <= 20)[self.skus]
        self.unseen = (rng.random(shape.skus) < UNSEEN)[self.skus]

    def shared(self, rng: np.random.Generator) -> Floats:
        """Draw the part of ease that all models share, [n]."""
        return self.normal(rng, 1 - self.clustering.own, 0.3, 0.3)

    def own(self, rng: np.random.Generator) -> Floats:
        """Draw the part of ease that is one model's own, [n]."""
        return self.normal(rng, self.clustering.own, self.clustering.sku, self.clustering.burst)

    def ease(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw the ease of each query for two models, [n] each."""
        shared, first, second = self.shared(rng), self.own(rng), self.own(rng)
        return shared + first, shared + second

    def normal(self, rng: np.random.Generator, variance: float, sku: float, burst: float) -> Floats:
        """Draw normal numbers [n] that are correlated within SKUs and within bursts.

        Args:
            rng: source of all draws.
            variance: of each number.
            sku: share of the variance that is common to all queries of a SKU, 0 to 1.
            burst: share of it that is common to all queries of a burst; `sku + burst` is at most 1.
        """
        parts = ((self.skus, sku), (self.bursts, burst), (np.arange(len(self.skus)), 1 - sku - burst))
        numbers: Floats = np.zeros(len(self.skus))
        for labels, share in parts:
            numbers += np.sqrt(variance * share) * rng.normal(size=int(labels[-1]) + 1)[labels]
        return numbers

    def slices(
        self, eases: tuple[Floats, Floats], gain: float, rng: np.random.Generator
    ) -> dict[str, PairedHits]:
        """Return the hits of challenger and champion in every slice of the gate.

        Args:
            eases: ease of each query for challenger and champion, [n] each.
            gain: the challenger's true top-1 minus the champion's, from 0 to 1.
            rng: draws the queries of the slice `k5`.
        """
        every = np.arange(len(self.skus))
        drawn = np.concatenate([self._five(rng) for _ in range(DRAWS)])
        rows = {
            "full": every,
            "tail": every[self.tail],
            "unseen": every[self.unseen],
            "near_duplicate_free": every,
            "k5": drawn,
        }
        return {name: self.hits(eases, gain, chosen, HARDER.get(name, 0.0)) for name, chosen in rows.items()}

    def hits(
        self,
        eases: tuple[Floats, Floats],
        gain: float,
        rows: Places | slice = slice(None),
        harder: float = 0.0,
    ) -> PairedHits:
        """Return the hits of challenger and champion on some of the queries.

        Args:
            eases: ease of each query for challenger and champion, [n] each.
            gain: the challenger's true top-1 minus the champion's, from 0 to 1.
            rows: places of the queries; all by default.
            harder: by how much both models' true top-1 is lower on them, from 0 to 1.
        """
        challenger_ease, champion_ease = eases
        challenger = challenger_ease[rows] > stats.norm.isf(TOP1 - harder + gain)
        champion = champion_ease[rows] > stats.norm.isf(TOP1 - harder)
        return PairedHits(self.skus[rows].astype(object), challenger, champion)

    def _five(self, rng: np.random.Generator) -> Places:
        """Draw the places of at most five queries of each SKU."""
        order = np.lexsort((rng.random(len(self.skus)), self.skus))
        starts = np.flatnonzero(np.r_[True, np.diff(self.skus) > 0])
        place = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        return order[place < EACH]


def bench_gate(pairs: int, guarded: int) -> Iterator[PairOutcome]:
    """Simulate every scene with `pairs` pairs of models.

    The guards are evaluated for the first `guarded` pairs only, as they take most of the time.
    """
    for number, scene in enumerate(SCENES):
        yield simulate(scene, pairs, guarded, number)


def simulate(scene: Scene, pairs: int, guarded: int, seed: int) -> PairOutcome:
    """Simulate one scene; the same seed gives the same figures.

    Args:
        scene: the scene.
        pairs: number of pairs of models.
        guarded: number of pairs, from the first on, for which the guards are evaluated, too.
        seed: of all draws.
    """
    world, trials = World(scene.shape, scene.clustering, seed), []
    for number in range(pairs):
        rng = np.random.default_rng([seed, 1 + number])
        eases = world.ease(rng)
        hits = world.hits(eases, scene.gain)
        trials.append(
            _trial(hits, world.slices(eases, scene.gain, rng) if number < guarded else None, number)
        )
    estimates = np.array([trial.estimate for trial in trials])
    discordant = float(np.mean([trial.discordant for trial in trials]))
    guarded_trials = [trial for trial in trials if trial.stopped is not None]
    gained = [trial for trial in guarded_trials if trial.p < 1 - POLICY.confidence]
    return PairOutcome(
        scene=scene,
        pairs=pairs,
        discordant=discordant,
        design=float(np.var(estimates)) / (discordant / scene.shape.queries),
        shown=float(np.mean([trial.p < NOMINAL for trial in trials])),
        by_policy=float(np.mean([trial.p < 1 - POLICY.confidence for trial in trials])),
        mcnemar=float(np.mean([trial.mcnemar for trial in trials])),
        guarded=len(guarded_trials),
        stopped=float(np.mean([bool(trial.stopped) for trial in guarded_trials])),
        stopped_gains=float(np.mean([bool(trial.stopped) for trial in gained])) if gained else None,
    )


class GateTrial(NamedTuple):
    """Results of one pair of models.

    Attributes:
        estimate: difference of their top-1, challenger minus champion, -1 to 1.
        discordant: share of queries that exactly one of them gets right.
        p: one-sided p-value of the gain.
        mcnemar: whether McNemar's test shows a gain.
        stopped: whether a guard did not pass; None if the guards were not evaluated.
    """

    estimate: float
    discordant: float
    p: float
    mcnemar: bool
    stopped: bool | None


def _trial(hits: PairedHits, slices: dict[str, PairedHits] | None, seed: int) -> GateTrial:
    difference = statistics.paired_difference(
        hits.challenger, hits.champion, hits.skus, POLICY.confidence, seed, POLICY.resamples
    )
    better, worse, p = statistics.mcnemar(hits.challenger, hits.champion)
    stopped = None
    if slices is not None:
        measured = guards.measure(slices, POLICY, seed)
        stopped = any(guards.judge(guard, POLICY)[0] == "failed" for guard in measured)
    return GateTrial(
        difference.estimate,
        (better + worse) / len(hits.skus),
        difference.p,
        better > worse and p < 2 * NOMINAL,
        stopped,
    )


@dataclass(frozen=True)
class Years:
    """False promotions in simulated years of retrains whose models are all equally good.

    Each promoted model becomes the champion of the next comparison.

    Attributes:
        scene: queries and clustering; its gain is 0.
        retrains: number of comparisons in a year.
        years: number of simulated years.
        alpha: significance level of each comparison, one-sided.
        promotions: mean number of promotions in a year.
        any_promotion: share of years with at least one promotion.
    """

    scene: Scene
    retrains: int
    years: int
    alpha: float
    promotions: float
    any_promotion: float


def bench_years(years: int) -> Iterator[Years]:
    """Simulate years of retrains on one set of queries, at 0.975 and at the confidence of params.yaml."""
    for alpha in (NOMINAL, 1 - POLICY.confidence):
        promotions = [year(YEAR, alpha, number) for number in range(years)]
        some = float(np.mean([count > 0 for count in promotions]))
        yield Years(YEAR, POLICY.retrains_a_year, years, alpha, float(np.mean(promotions)), some)


def year(scene: Scene, alpha: float, seed: int) -> int:
    """Count the promotions in one year of equally good models.

    Args:
        scene: queries and clustering.
        alpha: significance level of each comparison, one-sided.
        seed: of all draws.
    """
    world, rng, promoted = World(scene.shape, scene.clustering, 0), np.random.default_rng([seed, 0, 1]), 0
    shared, champion = world.shared(rng), world.own(rng)
    for number in range(POLICY.retrains_a_year):
        challenger = world.own(rng)
        if _trial(world.hits((shared + challenger, shared + champion), 0.0), None, number).p < alpha:
            champion, promoted = challenger, promoted + 1
    return promoted
