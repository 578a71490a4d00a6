"""How often the rules for a refreshed gallery err: simulated weeks of one encoder in a changing shop.

Questions, their clustering and their ease are those of `benchmarks.gate`. As the encoder stays, a photo
is as easy
as before, and served and refreshed differ for three reasons only: a photo of an old product lies nearer to a
new one, thresholds were fitted anew, or something is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.gate import MIDDLE, RP2K, SMALL, STRONG, TOP1, UNED, Clustering, Shape, World
from skumatch.params import RefreshParams
from skumatch.release.fitness import hold_back, judge
from skumatch.retrieval.metrics import Flags, Floats, Labels, Places

POLICY = RefreshParams(resamples=1000)
FEW = Shape("31 SKUs", 399, 31)
CALLED_UNKNOWN = 0.03  # share of old products' photos that served calls unknown
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
    """A refresh of a gallery of some shape.

    new: range of the share of products that are new. fault: what is wrong with it besides. bound: of the
    share of weeks released (without a fault) or caught (with one), where it was promised.
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
RP2K_SHARE = 4  # RP2K's shape takes long: one of so many
YEAR_SHARE = 24  # one simulated year for so many weeks of a row


def scenes() -> Iterator[Week]:
    """All rows of the table: each fault at each shape, and some where errors go with the SKU more."""
    for fault in FAULTS:
        for shape in (RP2K, SMALL, FEW):
            promised = PROMISED.get(fault) if shape is RP2K or fault == "none" else None
            yield Week(shape, MIDDLE, SHARES[shape.name], fault, promised)
            if fault == "none" or (fault == "lost" and shape is RP2K):
                yield Week(shape, STRONG, SHARES[shape.name], fault, promised if shape is RP2K else None)


def bench_weeks(trials: int) -> Iterator[Outcome]:
    """Every row with so many simulated weeks, a quarter of them at RP2K's shape."""
    for number, week in enumerate(scenes()):
        yield simulate_week(week, max(1, trials // RP2K_SHARE) if week.shape is RP2K else trials, number)


def bench_refresh_years(trials: int) -> Iterator[RefreshYear]:
    """Years that lose a third of the margin a week and harmless ones; none for few trials."""
    if years := trials // YEAR_SHARE:
        for shape in (RP2K, UNED, SMALL, FEW):
            yield simulate_years(shape, MIDDLE, POLICY.max_drop / 3, years, 0)
            yield simulate_years(shape, MIDDLE, None, years, 0)


@dataclass(frozen=True)
class Refreshed:
    """What a simulated week came to.

    released: nothing failed, once products were held back. caught: that, or that the faulty product was held
    back.
    harmless: new products without a fault; held_back: how many of them were held back.
    """

    released: bool
    caught: bool
    harmless: int
    held_back: int


@dataclass(frozen=True)
class Outcome:
    """All of a week's simulations. Shares of weeks, but for held_back, a share of harmless new products."""

    week: Week
    trials: int
    released: float
    caught: float
    held_back: float

    @property
    def holds(self) -> bool | None:
        """Whether what was promised is kept."""
        bound, share = self.week.bound, self.released if self.week.fault == "none" else self.caught
        return None if bound is None else share >= bound


def simulate_week(week: Week, trials: int, seed: int) -> Outcome:
    """One row of the table; the same seed gives the same figures."""
    results = [_refresh(week, np.random.default_rng([seed, number]), number) for number in range(trials)]
    return Outcome(
        week=week,
        trials=trials,
        released=float(np.mean([result.released for result in results])),
        caught=float(np.mean([result.caught for result in results])),
        held_back=sum(result.held_back for result in results) / sum(result.harmless for result in results),
    )


def _refresh(week: Week, rng: np.random.Generator, seed: int) -> Refreshed:
    """Ask one simulated week's questions, hold products back as the pipeline does, and judge the rest."""
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
    """Draw the questions and answers of a week.

    Args:
        week: what it is like.
        rng: everything but the sizes of products.
        seed: of the sizes of products.

    Returns:
        The answers as `fitness.judge` takes them, the new products, and the faulty one of them, if any.
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
    """Each question's ease, and its similarity to the answer, which goes with it: standard normal numbers."""
    ease = world.normal(rng, 1.0, 0.3, 0.3)
    apart = world.normal(rng, 1.0, world.clustering.sku, world.clustering.burst)
    return ease, TRUST * ease + np.sqrt(1 - TRUST**2) * apart


def _rare(world: World, rng: np.random.Generator, share: float, clustering: Clustering) -> Flags:
    """A share of all questions, which come in products and bursts."""
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
    """The answers of refreshed with the week's fault, which a new and an old product have: `pair`."""
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
    """The answers once products are held back: photos that went to them go where they went before."""
    gone = answers["sku"].isin(held)
    kept = answers[~(gone & answers["asked_as"].eq("gallery"))].copy()
    kept.loc[gone, "status"] = "other"
    returned = kept["refreshed"].isin(held) & kept["served"].notna()
    kept.loc[returned, "refreshed"] = kept["served"]
    return kept


@dataclass(frozen=True)
class RefreshYear:
    """Years of weekly refreshes of one model.

    step: what a released refresh truly loses, in old products' photos answered right; None for harmless
    weeks, which lose what new products take. bounded: share of years whose true loss stays within the margin.
    loss: the mean true loss at the end. released: mean share of weeks released.
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
    """Release what the rules let through, week after week, always on the same questions."""
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
    """The true loss at the end of one year, and how many weeks were released.

    A lossy week loses other photos of what serves than the week before. A harmless one has a new product, and
    those of the weeks that were stopped.
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
            today, moved, proposed = (
                today & ~_rare(world, rng, growth, clustering),
                rng.normal(0, JITTER),
                growth * (week + 1),
            )
        else:
            today, moved, proposed = served & ~_rare(world, rng, step / TOP1, clustering), 0.0, loss + step
        bundles = {"served": (served, shift), "released": (named, 0.0), "refreshed": (today, moved)}
        columns = {bundle: np.where(right, sku, "another") for bundle, (right, _) in bundles.items()}
        unknown = {f"{bundle}_unknown": called < CALLED_UNKNOWN + by for bundle, (_, by) in bundles.items()}
        if judge(pd.DataFrame(form | columns | unknown), POLICY, "", WEEKS * seed + week).fit:
            served, shift, loss, released = today, moved, proposed, released + 1
    return loss, released
