"""Comparison of training loops with the same photos, encoder and number of images seen.

Each is scored by the SKU of each query's nearest neighbour in the gallery.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from benchmarks.contests import FROZEN, PROBE, Contest
from benchmarks.ingredients import variant
from benchmarks.peers import PEERS, Trial, plain_spec
from skumatch.files import read_json, write_text
from skumatch.model.runtime import prepare
from skumatch.model.train import train
from skumatch.progress import track
from skumatch.retrieval import statistics
from skumatch.retrieval.statistics import Interval
from skumatch.stages.train import hits

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder

CONFIDENCE = 0.95
Shares = NDArray[np.float64]


class LoopOutcome(BaseModel):
    """Outcome of one training.

    Attributes:
        key: SHA-256 of all inputs that decide the outcome.
        loop: name of the training loop.
        seed: of the training.
        images: number of images that the training saw, repetitions included.
        seconds: wall time of the training.
        hits: whether each query's nearest gallery picture is of its SKU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    loop: str
    seed: int
    images: int
    seconds: float
    hits: tuple[bool, ...]


@dataclass(frozen=True)
class Line:
    """Summary of one loop over all its seeds and folds.

    Attributes:
        loop: name of the training loop.
        seeds: top-1 of each seed, 0 to 1.
        top1: mean over queries and seeds.
        gain: of `top1` over that of the loop it is compared with; None for that loop itself.
        images: number of images that the largest training saw.
        seconds: wall time of the longest training.
    """

    loop: str
    seeds: dict[int, float]
    top1: Interval
    gain: Interval | None
    images: int
    seconds: float


def bench_recipe(contest: Contest, loops: list[str], seeds: list[int], out: Path) -> Iterator[LoopOutcome]:
    """Train with each loop and seed, and yield the outcomes; those that `out` already has are read from it.

    Args:
        contest: photos, encoder weights and parameters.
        loops: names of training loops.
        seeds: one training for each.
        out: folder to which each outcome is written as JSON.

    Raises:
        ParameterError: for a loop that isn't known, or that changes nothing; before any training.
    """
    for loop in loops:
        variant(contest, loop)
    for loop in loops:
        for seed in seeds:
            changed = variant(contest, loop)
            key = changed.key(loop, seed)
            name = re.sub(r"[^a-z0-9]+", "-", f"{contest.name} {loop} seed {seed} {key[:8]}".lower())
            path = out / f"{name}.json"
            outcome = LoopOutcome.model_validate(read_json(path)) if path.is_file() else None
            if outcome is None or outcome.key != key:
                outcome = _run(changed, loop, seed)
                write_text(path, outcome.model_dump_json() + "\n")
            yield outcome


def _run(contest: Contest, loop: str, seed: int) -> LoopOutcome:
    start = time.monotonic()
    encoder = _trained(contest, loop, seed)
    seconds = time.monotonic() - start
    query_hits = hits(
        encoder, contest.gallery, contest.queries, contest.params.embed.batch, contest.params.runtime
    )
    epochs = {FROZEN: 0, PROBE: contest.params.train.probe.views}.get(loop, contest.epochs)
    return LoopOutcome(
        key=contest.key(loop, seed),
        loop=loop,
        seed=seed,
        images=epochs * len(contest.learnt),
        seconds=round(seconds, 1),
        hits=tuple(query_hits.tolist()),
    )


def _trained(contest: Contest, loop: str, seed: int) -> Encoder:
    images, params, device = contest.learnt, contest.params.train, prepare(contest.params.runtime)
    trial = Trial(images, plain_spec(contest.params.encoder), contest.weights, contest.epochs, seed, device)
    if loop == FROZEN:
        return trial.encoder().eval()
    if loop in PEERS:
        encoder = trial.encoder()
        with track(f"{loop}, seed {seed}", contest.epochs * len(images)) as advance:
            for count in PEERS[loop](encoder, trial):
                advance(count)
        return encoder.cpu().eval()
    classes, runtime = sorted(set(images.skus)), contest.params.runtime
    return train(images, classes, contest.params.encoder, params, seed, contest.weights, None, runtime, None)


def summary(outcomes: list[tuple[Contest, list[LoopOutcome]]], against: str | None = None) -> list[Line]:
    """Summarise each loop over the queries of all contests, in the loops' order.

    Hits are averaged over seeds; intervals are by bootstrap over SKUs.

    Args:
        outcomes: each contest with the outcomes of its trainings.
        against: the loop that gains are over; None for the plain loop, or the frozen encoder without one, or
            the first loop without either.
    """
    query_skus = np.concatenate([contest.queries.skus for contest, _ in outcomes])
    by_loop: dict[str, dict[int, list[LoopOutcome]]] = {}
    for outcome in (outcome for _, trainings in outcomes for outcome in trainings):
        by_loop.setdefault(outcome.loop, {}).setdefault(outcome.seed, []).append(outcome)
    hits = {loop: np.array([_joined(folds) for folds in seeds.values()]) for loop, seeds in by_loop.items()}
    base = next(loop for loop in (against, "plain", FROZEN, *hits) if loop in hits)
    return [
        _line(loop, seeds, hits[loop], hits[base].mean(axis=0) if loop != base else None, query_skus)
        for loop, seeds in by_loop.items()
    ]


def _joined(folds: list[LoopOutcome]) -> list[bool]:
    return [hit for outcome in folds for hit in outcome.hits]


def _line(
    loop: str,
    seeds: dict[int, list[LoopOutcome]],
    hits: NDArray[np.bool_],
    base: Shares | None,
    query_skus: NDArray[np.str_],
) -> Line:
    mean = hits.mean(axis=0)
    return Line(
        loop=loop,
        seeds=dict(zip(seeds, hits.mean(axis=1).tolist(), strict=True)),
        top1=statistics.mean_interval(mean, query_skus, CONFIDENCE, seed=0),
        gain=None
        if base is None
        else statistics.change_interval(mean - base, query_skus, CONFIDENCE, seed=0),
        images=max(outcome.images for folds in seeds.values() for outcome in folds),
        seconds=max(outcome.seconds for folds in seeds.values() for outcome in folds),
    )
