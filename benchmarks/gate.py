"""How often the gate errs: simulated pairs of models whose errors come in SKUs and in bursts of photos, as RP2K's do.

A query is found if its ease exceeds a bound. Ease is normal: a part that both models share and a part of each model's own, and of the own
part some goes with the SKU, some with the burst. Equal models are two draws of the same law; a better one has a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from skumatch.params import GateParams
from skumatch.release import guards
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
    """A set of queries: how many, of how many SKUs."""

    name: str
    queries: int
    skus: int


@dataclass(frozen=True)
class Clustering:
    """own: share of ease's variance that is each model's own.

    Of it, shares that go with the SKU and with the burst.
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
    """gain: by how much the challenger's true top-1 is above the champion's. bound: of the share shown, if one was promised."""

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
class Found:
    """What happened to a scene's pairs. Shares of pairs, but for `discordant`, a share of queries.

    design: variance of the difference over what it would be if queries were independent. shown: a gain was
    shown at 0.975, one-sided; by_policy: at the confidence of params.yaml's defaults; mcnemar: by McNemar's
    test at 0.975, one-sided. stopped: at least one guard did not pass; stopped_gains: the same of those whose
    gain was shown by the policy, None if there were none.
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
        """Whether a promised bound is kept: of false promotions if there is no gain, else of power."""
        bound = self.scene.bound
        return None if bound is None else self.shown >= bound if self.scene.gain else self.shown <= bound


class World:
    """The queries of a shape: SKU and burst of each [n], and which are of SKUs with few gallery images or never trained on."""

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
        """What is easy for every model: [n]."""
        return self.normal(rng, 1 - self.clustering.own, 0.3, 0.3)

    def own(self, rng: np.random.Generator) -> Floats:
        """What is easy for one model more than for others: [n]."""
        return self.normal(rng, self.clustering.own, self.clustering.sku, self.clustering.burst)

    def ease(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Ease of each query for two models: [n] each."""
        shared, one, other = self.shared(rng), self.own(rng), self.own(rng)
        return shared + one, shared + other

    def normal(self, rng: np.random.Generator, variance: float, sku: float, burst: float) -> Floats:
        """Normal numbers [n], of whose variance shares go with the SKU and with the burst."""
        parts = ((self.skus, sku), (self.bursts, burst), (np.arange(len(self.skus)), 1 - sku - burst))
        found: Floats = np.zeros(len(self.skus))
        for labels, share in parts:
            found += np.sqrt(variance * share) * rng.normal(size=int(labels[-1]) + 1)[labels]
        return found

    def slices(
        self, eases: tuple[Floats, Floats], gain: float, rng: np.random.Generator
    ) -> dict[str, PairedHits]:
        """Hits of challenger and champion in every slice of the gate."""
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
        """Hits of challenger and champion on `rows` of the queries, whose top-1 is lower by `harder` there."""
        ours, theirs = (
            ease[rows] > stats.norm.isf(TOP1 - harder + more)
            for ease, more in zip(eases, (gain, 0.0), strict=True)
        )
        return PairedHits(self.skus[rows].astype(object), ours, theirs)

    def _five(self, rng: np.random.Generator) -> Places:
        """At most five queries of each SKU."""
        order = np.lexsort((rng.random(len(self.skus)), self.skus))
        starts = np.flatnonzero(np.r_[True, np.diff(self.skus) > 0])
        place = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        return order[place < EACH]


def bench_gate(pairs: int, guarded: int) -> Iterator[Found]:
    """Every scene with `pairs` pairs of models.

    The guards are asked for the first `guarded`, as they take most of the time.
    """
    for number, scene in enumerate(SCENES):
        yield simulate(scene, pairs, guarded, number)


def simulate(scene: Scene, pairs: int, guarded: int, seed: int) -> Found:
    """One scene; the same seed gives the same figures."""
    world, trials = World(scene.shape, scene.clustering, seed), []
    for number in range(pairs):
        rng = np.random.default_rng([seed, 1 + number])
        eases = world.ease(rng)
        hits = world.hits(eases, scene.gain)
        trials.append(
            _trial(hits, world.slices(eases, scene.gain, rng) if number < guarded else None, number)
        )
    estimates, discordant = (
        np.array([trial.estimate for trial in trials]),
        float(np.mean([trial.discordant for trial in trials])),
    )
    asked = [trial for trial in trials if trial.stopped is not None]
    gained = [trial for trial in asked if trial.p < 1 - POLICY.confidence]
    return Found(
        scene=scene,
        pairs=pairs,
        discordant=discordant,
        design=float(np.var(estimates)) / (discordant / scene.shape.queries),
        shown=float(np.mean([trial.p < NOMINAL for trial in trials])),
        by_policy=float(np.mean([trial.p < 1 - POLICY.confidence for trial in trials])),
        mcnemar=float(np.mean([trial.mcnemar for trial in trials])),
        guarded=len(asked),
        stopped=float(np.mean([bool(trial.stopped) for trial in asked])),
        stopped_gains=float(np.mean([bool(trial.stopped) for trial in gained])) if gained else None,
    )


class Trial(NamedTuple):
    """One pair. p: of the gain. mcnemar: whether McNemar's test shows one. stopped: whether a guard did not pass; None = not asked."""

    estimate: float
    discordant: float
    p: float
    mcnemar: bool
    stopped: bool | None


def _trial(hits: PairedHits, slices: dict[str, PairedHits] | None, seed: int) -> Trial:
    found = statistics.paired_difference(
        hits.challenger, hits.champion, hits.skus, POLICY.confidence, seed, POLICY.resamples
    )
    better, worse, p = statistics.mcnemar(hits.challenger, hits.champion)
    stopped = None
    if slices is not None:
        measured = guards.measure(slices, POLICY, seed)
        stopped = any(guards.judge(guard, POLICY)[0] == "failed" for guard in measured)
    return Trial(
        found.estimate,
        (better + worse) / len(hits.skus),
        found.p,
        better > worse and p < 2 * NOMINAL,
        stopped,
    )


@dataclass(frozen=True)
class Years:
    """What a year of retrains does whose models are all equally good: promotions a year, and the share of years with any.

    Each promoted model is the next one's champion. alpha: of each comparison, one-sided.
    """

    scene: Scene
    retrains: int
    years: int
    alpha: float
    promotions: float
    any_promotion: float


def bench_years(years: int) -> Iterator[Years]:
    """Years of retrains on one set of queries, at 0.975 and at the confidence of params.yaml's defaults."""
    for alpha in (NOMINAL, 1 - POLICY.confidence):
        promotions = [year(YEAR, alpha, number) for number in range(years)]
        some = float(np.mean([count > 0 for count in promotions]))
        yield Years(YEAR, POLICY.retrains_a_year, years, alpha, float(np.mean(promotions)), some)


def year(scene: Scene, alpha: float, seed: int) -> int:
    """Promotions in one year of equally good models."""
    world, rng, promoted = World(scene.shape, scene.clustering, 0), np.random.default_rng([seed, 0, 1]), 0
    shared, champion = world.shared(rng), world.own(rng)
    for number in range(POLICY.retrains_a_year):
        challenger = world.own(rng)
        if _trial(world.hits((shared + challenger, shared + champion), 0.0), None, number).p < alpha:
            champion, promoted = challenger, promoted + 1
    return promoted
