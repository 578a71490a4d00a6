"""Error rates of the rules for a refreshed gallery, on simulated weeks of one encoder in a changing shop.

Queries, their clustering and their ease are those of `benchmarks.gate`. The encoder stays the same, so a
photo is as easy as before. The served and the refreshed gallery differ for three reasons only: a photo of an
old product lies nearer to a new product, the thresholds were fitted anew, or the refresh has a fault.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.gate import MIDDLE, RP2K, SMALL, STRONG, TOP1, UNED, Clustering, Shape, World
from skumatch.gate.fitness import hold_back, judge
from skumatch.params import RefreshParams
from skumatch.retrieval.metrics import Flags, Floats, Labels, Places

POLICY = RefreshParams(resamples=1000)
FEW = Shape("31 SKUs", 399, 31)
CALLED_UNKNOWN = 0.03  # share of old products' photos that the served gallery calls unknown
NEW_TOP1, NEW_CALLED_UNKNOWN = 0.9, 0.07  # of new products, which the encoder was not trained on
JITTER = 0.005  # standard deviation of the unknown rate between two fits of the thresholds
TRUST = 0.7  # correlation of a photo's similarity with its ease
UNPHOTOGRAPHED = 0.5  # share of new products without photos, asked by their gallery
LOST, MORE_UNKNOWN = 0.02, 0.05
WEEKS = 52
NEW_A_WEEK = {RP2K.name: 5}  # products; one elsewhere
Fault = Literal["none", "lost", "swallowed", "half swallowed", "not found", "unknown"]


@dataclass(frozen=True)
class Week:
    """One row of the table: a refresh of a gallery, with or without a fault.

    Attributes:
        shape: number of queries and SKUs.
        clustering: variance components of the queries' ease.
        new: range of the share of products that are new.
        fault: the fault that the refresh has, or "none".
        bound: promised lower bound of the share of weeks released (without a fault) or caught (with one);
            None if none was promised.
    """

    shape: Shape
    clustering: Clustering
    new: tuple[float, float]
    fault: Fault
    bound: float | None = None


FIVE = (5 / 31, 5 / 31)
SHARES = {FEW.name: FIVE, SMALL.name: (0.02, 0.1), RP2K.name: (0.02, 0.1)}
# Share of an old product's photos that the faulty new one takes, and of its own questions that find it.
FAULTY = {"swallowed": 0.9, "half swallowed": 0.5, "not found": 0.1}
FAULTS: tuple[Fault, ...] = ("none", "lost", "swallowed", "half swallowed", "not found", "unknown")
PROMISED = {"none": 0.95, "lost": 0.8, "swallowed": 0.95, "unknown": 0.95}
RP2K_SHARE = 4  # RP2K's shape takes long: one simulated week of it for four of another shape
YEAR_SHARE = 24  # one simulated year for 24 simulated weeks of a row


def scenes() -> Iterator[Week]:
    """Yield all rows of the table: each fault at each shape, and some with stronger clustering by SKU."""
    for fault in FAULTS:
        for shape in (RP2K, SMALL, FEW):
            promised = PROMISED.get(fault) if shape is RP2K or fault == "none" else None
            yield Week(shape, MIDDLE, SHARES[shape.name], fault, promised)
            if fault == "none" or (fault == "lost" and shape is RP2K):
                yield Week(shape, STRONG, SHARES[shape.name], fault, promised if shape is RP2K else None)


def bench_weeks(trials: int) -> Iterator[Outcome]:
    """Simulate every row with `trials` weeks, and with a quarter of that at RP2K's shape."""
    for number, week in enumerate(scenes()):
        yield simulate_week(week, max(1, trials // RP2K_SHARE) if week.shape is RP2K else trials, number)


def bench_refresh_years(trials: int) -> Iterator[RefreshYear]:
    """Simulate years that lose a third of the allowed drop each week, and harmless years.

    There is one year for each 24 trials, so none for fewer than 24.
    """
    if years := trials // YEAR_SHARE:
        for shape in (RP2K, UNED, SMALL, FEW):
            yield simulate_years(shape, MIDDLE, POLICY.max_drop / 3, years, 0)
            yield simulate_years(shape, MIDDLE, None, years, 0)


@dataclass(frozen=True)
class Refreshed:
    """Results of one simulated week.

    Attributes:
        released: whether every check passed, after products were held back.
        caught: whether a check failed, or the faulty product was held back.
        harmless: number of new products without a fault.
        held_back: number of these that were held back.
    """

    released: bool
    caught: bool
    harmless: int
    held_back: int


@dataclass(frozen=True)
class Outcome:
    """Results of one row of the table, over all its simulated weeks.

    Attributes:
        week: the simulated row.
        trials: number of simulated weeks.
        released: share of weeks in which every check passed.
        caught: share of weeks in which a check failed or the faulty product was held back.
        held_back: share of the new products without a fault that were held back.
    """

    week: Week
    trials: int
    released: float
    caught: float
    held_back: float

    @property
    def holds(self) -> bool | None:
        """Return whether the promised bound is kept; None if none was promised."""
        bound = self.week.bound
        share = self.released if self.week.fault == "none" else self.caught
        return None if bound is None else share >= bound


def simulate_week(week: Week, trials: int, seed: int) -> Outcome:
    """Simulate one row of the table; the same seed gives the same figures.

    Args:
        week: the row.
        trials: number of simulated weeks.
        seed: of all draws.
    """
    results = [_refresh(week, np.random.default_rng([seed, number]), number) for number in range(trials)]
    return Outcome(
        week=week,
        trials=trials,
        released=float(np.mean([result.released for result in results])),
        caught=float(np.mean([result.caught for result in results])),
        held_back=sum(result.held_back for result in results) / sum(result.harmless for result in results),
    )


def _refresh(week: Week, rng: np.random.Generator, seed: int) -> Refreshed:
    """Answer one simulated week's queries, hold products back as the pipeline does, and judge the rest."""
    answers, new, faulty = draw_week(week, rng, seed)
    held = hold_back(answers, POLICY)
    fitness = judge(_without(answers, held), POLICY, "", seed)
    harmless = [sku for sku in new if sku != faulty]
    return Refreshed(
        released=fitness.fit,
        caught=not fitness.fit or faulty in held,
        harmless=len(harmless),
        held_back=sum(sku in held for sku in harmless),
    )


def draw_week(week: Week, rng: np.random.Generator, seed: int) -> tuple[pd.DataFrame, list[str], str | None]:
    """Draw the queries and answers of a week.

    Args:
        week: shape, clustering, share of new products and fault.
        rng: source of all draws but the number of queries of each product.
        seed: of the number of queries of each product.

    Returns:
        The answers as `fitness.judge` takes them, the names of the new products, and the name of the faulty
        one among them, if any.
    """
    world = World(week.shape, week.clustering, seed)
    count = max(1, round(rng.uniform(*week.new) * week.shape.skus))
    order = rng.permutation(week.shape.skus)
    new, old = order[:count], order[count:]
    is_new = np.isin(world.skus, new)
    ease, similarity = _ease(world, rng)
    wrong = rng.choice(old, week.shape.skus)[world.skus]  # a look-alike of each product
    served = np.where(~is_new & (ease > stats.norm.isf(TOP1)), world.skus, wrong)
    right = np.where(is_new, ease > stats.norm.isf(NEW_TOP1), served == world.skus)
    refreshed = np.where(right, world.skus, wrong)
    taken = ~is_new & _rare(world, rng, (1 - TOP1) * len(new) / len(old), week.clustering)
    refreshed = np.where(taken, rng.choice(new, week.shape.skus)[world.skus], refreshed)
    refreshed = _with_fault(week, world, refreshed, wrong, (new[0], old[0]), rng)
    called = stats.norm.cdf(similarity)
    base = np.where(is_new, NEW_CALLED_UNKNOWN, CALLED_UNKNOWN)
    moved = rng.normal(0, JITTER) + (MORE_UNKNOWN if week.fault == "unknown" else 0)
    silent = is_new & (rng.random(week.shape.skus) < UNPHOTOGRAPHED)[world.skus]
    names: Labels = np.array([f"sku-{number}" for number in range(week.shape.skus)], object)
    answers = pd.DataFrame(
        {
            "query": np.arange(len(world.skus)),
            "asked_as": np.where(silent, "gallery", "photo"),
            "sku": names[world.skus],
            "group": np.arange(len(world.skus)),
            "status": np.where(is_new, "new", "old"),
            "served": np.where(silent, None, names[served]),  # type: ignore[call-overload]
            "served_unknown": called < base,
            "refreshed": names[refreshed],
            "refreshed_unknown": called < base + moved,
        }
    )
    faulty = str(names[new[0]]) if week.fault in FAULTY else None
    return answers, [str(name) for name in names[np.unique(world.skus[is_new])]], faulty


def _ease(world: World, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw each query's ease and, correlated with it, its similarity to the answer: standard normal."""
    ease = world.normal(rng, 1.0, 0.3, 0.3)
    apart = world.normal(rng, 1.0, world.clustering.sku, world.clustering.burst)
    return ease, TRUST * ease + np.sqrt(1 - TRUST**2) * apart


def _rare(world: World, rng: np.random.Generator, share: float, clustering: Clustering) -> Flags:
    """Draw a `share` of all queries, clustered by product and by burst."""
    drawn: Flags = world.normal(rng, 1.0, clustering.sku, clustering.burst) > stats.norm.isf(share)
    return drawn


def _with_fault(
    week: Week,
    world: World,
    refreshed: Places,
    wrong: Places,
    pair: tuple[int, int],
    rng: np.random.Generator,
) -> Places:
    """Return the refreshed gallery's answers with the week's fault.

    Args:
        week: shape, clustering and fault.
        world: the queries [n] of the week's shape.
        refreshed: number of the product that each query is answered with, [n].
        wrong: number of a wrong product for each query, [n].
        pair: the faulty new product, and the old product that it is confused with.
        rng: source of all draws.
    """
    new, old = pair
    if week.fault == "lost":
        lost = _rare(world, rng, LOST / TOP1, week.clustering) & (refreshed == world.skus)
        return np.where(lost, wrong, refreshed)
    if week.fault in FAULTY:
        share, drawn = FAULTY[week.fault], rng.random(len(world.skus))
        swallowed = np.where((world.skus == old) & (drawn < share), new, refreshed)
        mine = np.where(drawn < share, new, old)
        return np.where(world.skus == new, mine, swallowed if week.fault != "not found" else refreshed)
    return refreshed


def _without(answers: pd.DataFrame, held: Collection[str]) -> pd.DataFrame:
    """Return the answers without the products held back; their photos get the served gallery's answer."""
    gone = answers["sku"].isin(held)
    kept = answers[~(gone & answers["asked_as"].eq("gallery"))].copy()
    kept.loc[gone, "status"] = "other"
    returned = kept["refreshed"].isin(held) & kept["served"].notna()
    kept.loc[returned, "refreshed"] = kept["served"]
    return kept


@dataclass(frozen=True)
class RefreshYear:
    """Results of simulated years of weekly refreshes of one model.

    Attributes:
        shape: number of queries and SKUs.
        clustering: variance components of the queries' ease.
        years: number of simulated years.
        step: true loss of each released refresh, as a share of old products' photos answered right; None for
            harmless weeks, which lose only the photos that new products take.
        bounded: share of years whose true loss stays within the allowed drop.
        loss: mean true loss at the end of a year.
        released: mean share of weeks released.
    """

    shape: Shape
    clustering: Clustering
    years: int
    step: float | None
    bounded: float
    loss: float
    released: float


def simulate_years(
    shape: Shape,
    clustering: Clustering,
    step: float | None,
    years: int,
    seed: int,
) -> RefreshYear:
    """Simulate years in which each refresh that passes is released, always on the same queries.

    Args:
        shape: number of queries and SKUs.
        clustering: variance components of the queries' ease.
        step: true loss of each released refresh; None for harmless weeks.
        years: number of simulated years.
        seed: of all draws; the same seed gives the same figures.
    """
    generators = [np.random.default_rng([seed, number]) for number in range(years)]
    ends = [_year(shape, clustering, step, rng, number) for number, rng in enumerate(generators)]
    losses, released = np.array(ends).T
    return RefreshYear(
        shape=shape,
        clustering=clustering,
        years=years,
        step=step,
        bounded=float(np.mean(losses <= POLICY.max_drop + 1e-9)),
        loss=float(losses.mean()),
        released=float(released.mean()) / WEEKS,
    )


def _year(
    shape: Shape,
    clustering: Clustering,
    step: float | None,
    rng: np.random.Generator,
    seed: int,
) -> tuple[float, int]:
    """Return the true loss at the end of one year, and the number of weeks released.

    Each lossy week loses a new random share of the photos that the served gallery answers right. A harmless
    week brings new products, along with those of the earlier weeks that were stopped.
    """
    world = World(shape, clustering, seed)
    ease, similarity = _ease(world, rng)
    called, named = stats.norm.cdf(similarity), ease > stats.norm.isf(TOP1)
    sku: Labels = np.array([f"sku-{number}" for number in range(shape.skus)], object)[world.skus]
    form = {
        "asked_as": "photo",
        "sku": sku,
        "status": "old",
        "group": np.arange(len(sku)),
        "query": np.arange(len(sku)),
    }
    growth = NEW_A_WEEK.get(shape.name, 1) * (1 - TOP1) / shape.skus
    served, shift, loss, released, today = named, 0.0, 0.0, 0, named
    for week in range(WEEKS):
        if step is None:
            today = today & ~_rare(world, rng, growth, clustering)
            moved, proposed = rng.normal(0, JITTER), growth * (week + 1)
        else:
            today = served & ~_rare(world, rng, step / TOP1, clustering)
            moved, proposed = 0.0, loss + step
        bundles = {"served": (served, shift), "released": (named, 0.0), "refreshed": (today, moved)}
        columns = {bundle: np.where(right, sku, "another") for bundle, (right, _) in bundles.items()}
        unknown = {f"{bundle}_unknown": called < CALLED_UNKNOWN + by for bundle, (_, by) in bundles.items()}
        if judge(pd.DataFrame(form | columns | unknown), POLICY, "", WEEKS * seed + week).fit:
            served, shift, loss, released = today, moved, proposed, released + 1
    return loss, released
