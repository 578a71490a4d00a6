"""Training loops side by side: the same photos, encoder and number of images, nearest neighbour."""

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
from skumatch.model.validation import hits
from skumatch.progress import track
from skumatch.retrieval import statistics
from skumatch.retrieval.statistics import Interval

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder

CONFIDENCE = 0.95
Shares = NDArray[np.float64]


class Found(BaseModel):
    """One training's outcome. hits: whether each query's nearest gallery picture is of its SKU. key: hash of all that was asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    loop: str
    seed: int
    images: int
    seconds: float
    hits: tuple[bool, ...]


@dataclass(frozen=True)
class Line:
    """One loop over all its seeds and folds.

    top1: mean over queries and seeds. gain: of it, over the plain loop's or the frozen encoder's. images,
        seconds: of the largest training.
    """

    loop: str
    seeds: dict[int, float]
    top1: Interval
    gain: Interval | None
    images: int
    seconds: float


def bench_recipe(contest: Contest, loops: list[str], seeds: list[int], out: Path) -> Iterator[Found]:
    """Train with each loop and seed, and ask; what `out` has already is not done again.

    Raises ParameterError for a loop, before any.
    """
    for loop in loops:
        variant(contest, loop)
    for loop in loops:
        for seed in seeds:
            chosen = variant(contest, loop)
            key = chosen.key(loop, seed)
            name = re.sub(r"[^a-z0-9]+", "-", f"{contest.name} {loop} seed {seed} {key[:8]}".lower())
            path = out / f"{name}.json"
            found = Found.model_validate(read_json(path)) if path.is_file() else None
            if found is None or found.key != key:
                found = _run(chosen, loop, seed)
                write_text(path, found.model_dump_json() + "\n")
            yield found


def _run(contest: Contest, loop: str, seed: int) -> Found:
    began = time.monotonic()
    encoder = _trained(contest, loop, seed)
    seconds = time.monotonic() - began
    found = hits(
        encoder, contest.gallery, contest.queries, contest.params.embed.batch, contest.params.runtime
    )
    seen = {FROZEN: 0, PROBE: contest.params.train.probe.views}.get(loop, contest.epochs) * len(
        contest.learnt
    )
    told = {"images": seen, "seconds": round(seconds, 1), "hits": tuple(found.tolist())}
    return Found(key=contest.key(loop, seed), loop=loop, seed=seed, **told)


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


def summary(outcomes: list[tuple[Contest, list[Found]]], against: str | None = None) -> list[Line]:
    """A line a loop, in their order, over the queries of all contests.

    Hits are averaged over seeds, intervals by bootstrap over SKUs.

    Gains are over the loop `against`; where None, over the plain loop, else over the frozen encoder, else
    over the first.
    """
    asked = np.concatenate([contest.queries.skus for contest, _ in outcomes])
    by_loop: dict[str, dict[int, list[Found]]] = {}
    for one in (one for _, found in outcomes for one in found):
        by_loop.setdefault(one.loop, {}).setdefault(one.seed, []).append(one)
    hits = {loop: np.array([_joined(folds) for folds in seeds.values()]) for loop, seeds in by_loop.items()}
    base = next(loop for loop in (against, "plain", FROZEN, *hits) if loop in hits)
    return [
        _line(loop, seeds, hits[loop], hits[base].mean(axis=0) if loop != base else None, asked)
        for loop, seeds in by_loop.items()
    ]


def _joined(folds: list[Found]) -> list[bool]:
    return [hit for one in folds for hit in one.hits]


def _line(
    loop: str,
    seeds: dict[int, list[Found]],
    hits: NDArray[np.bool_],
    base: Shares | None,
    asked: NDArray[np.str_],
) -> Line:
    mean = hits.mean(axis=0)
    return Line(
        loop=loop,
        seeds=dict(zip(seeds, hits.mean(axis=1).tolist(), strict=True)),
        top1=statistics.mean_interval(mean, asked, CONFIDENCE, seed=0),
        gain=None if base is None else statistics.change_interval(mean - base, asked, CONFIDENCE, seed=0),
        images=max(one.images for folds in seeds.values() for one in folds),
        seconds=max(one.seconds for folds in seeds.values() for one in folds),
    )
