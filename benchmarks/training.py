"""How fast a training goes on this machine: images a second against the loop that one writes in an afternoon, and against the ceiling."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from benchmarks.embed import counted, race
from benchmarks.measure import Row
from benchmarks.peers import BATCH, Trial, plain, plain_spec
from skumatch.errors import DataError
from skumatch.model.distributed import ALONE
from skumatch.model.encoder import build
from skumatch.model.head import Head
from skumatch.model.pace import Pace
from skumatch.model.run import Run
from skumatch.model.runtime import prepare, workers
from skumatch.model.schedule import Schedule
from skumatch.model.tower import shaped
from skumatch.model.views import Views, batches
from skumatch.params import Params

if TYPE_CHECKING:
    from skumatch.data.images import Images

MANY = 10**6  # epochs: more than a bench asks for
PREFETCH = 2  # batches that a process of torch's loader makes ready ahead


class Ours:
    """A training as `params` say, a step at a time, and its pace."""

    def __init__(self, images: Images, params: Params, weights: Path | None, stack: ExitStack) -> None:
        tuned = params.train.model_copy(update={"epochs": MANY})
        self.device = prepare(params.runtime)
        encoder = build(params.encoder, weights)
        classes = sorted(set(images.skus))
        labels = images.labels(classes)
        schedule = Schedule(
            len(images), tuned.batch, MANY, params.seed, labels=labels, sampling=tuned.sampling
        )
        stack.enter_context(shaped(encoder, tuned.tower))
        self.run = Run(
            encoder, Head(len(classes), encoder.dim, tuned.loss), schedule, tuned, self.device, ALONE, {}
        )
        self.views = Views(images, labels, encoder.views(tuned.augment.view), tuned.augment, params.seed)
        self.workers, self.pace = (
            workers(params.runtime, self.device, augmented=True),
            Pace(schedule.size, schedule.steps, 0),
        )

    def steps(self) -> Iterator[int]:
        """Images of each step, when it is done."""
        self.run.learner.train()
        for pixels, labels in self.pace.timed(
            batches(self.views, self.run.schedule, self.workers, self.device)
        ):
            self.run.advance(pixels, labels)
            yield len(labels)

    def operations(self) -> int:
        """Of a step, a picture, as they are done: what is frozen has no backward pass, patches that are left out have none at all."""
        learner, count = self.run.learner, self.run.schedule.size
        pixels = torch.zeros(
            count,
            3,
            self.views.preprocess.height,
            self.views.preprocess.width,
            dtype=torch.uint8,
            device=self.device,
        )
        labels = torch.arange(count, device=self.device) % (max(self.views.labels) + 1)
        compiled, learner.compiled = learner.compiled, None
        state = {name: buffer.clone() for name, buffer in learner.named_buffers()}
        found = counted(lambda: learner(pixels, labels).backward())
        learner.compiled = compiled
        learner.load_state_dict(state, strict=False)  # running means have seen no photo
        self.run.optimizer.zero_grad()
        return found // count


def bench_train(
    images: Images, params: Params, weights: Path | None, steps: int, rounds: int
) -> Iterator[Row]:
    """Images a second of both loops, pictures included, in turn.

    The share of time ours waits; on a GPU its share of the ceiling.

    On a GPU the plain loop, which is one for a CPU, is left out. Raises DataError for fewer pictures than a
    batch.
    """
    least = max(BATCH, params.train.batch)
    if len(images) < least:
        raise DataError(
            f"There are {len(images)} training pictures and a step takes {least}; give a folder with more."
        )
    with ExitStack() as stack:
        ours = Ours(images, params, weights, stack)
        loops = {"ours": ours.steps()}
        if ours.device.type == "cpu":
            trial = Trial(images, plain_spec(params.encoder), weights, MANY, params.seed, contiguous=True)
            loops["plain"] = plain(trial.encoder(), trial)
        for loop in loops.values():
            _seconds(loop, steps)  # the first steps warm up, and compile
        operations, taken = ours.operations(), list[dict[str, float]]()
        for _ in range(rounds):
            products = {"products": _of_products(ours, operations)} if ours.device.type == "cuda" else {}
            taken.append({name: _seconds(loop, steps) for name, loop in loops.items()} | products)
        rates = {name: median(1 / one[name] for one in taken) for name in taken[0]}
        if "plain" in loops:
            told = f"{rates['ours']:,.1f} images/s; the plain loop {rates['plain']:,.1f}"
            yield Row(
                "training, ours / the plain loop",
                median(one["plain"] / one["ours"] for one in taken),
                1.5,
                "x",
                told,
                "more",
            )
        if "products" in rates:
            share = 100 * median(one["products"] / one["ours"] for one in taken)
            told = f"{rates['ours']:,.0f} images/s; products {rates['products']:,.0f}"
            yield Row("training, share of the GEMM ceiling", share, 45, "%", told, "more")
        yield _waiting(ours, loops["ours"], steps * rounds)


def _waiting(ours: Ours, loop: Iterator[int], steps: int) -> Row:
    """Of a stretch without pause, after the batches that were made ready in the last one."""
    _seconds(loop, 1 + PREFETCH * ours.workers)
    before = ours.pace.waiting
    seconds = _seconds(loop, steps) * steps * ours.run.schedule.size
    told = f"{steps * ours.run.schedule.size / seconds:,.1f} images/s without pause"
    return Row(
        "share of the time spent waiting for pictures",
        100 * (ours.pace.waiting - before) / seconds,
        5,
        "%",
        told,
    )


def _of_products(ours: Ours, operations: int) -> float:
    """Seconds a picture that the bare products of a step take."""
    nothing = torch.zeros(ours.run.schedule.size, 0, device=ours.device)
    return median(race({}, nothing, operations, rounds=1)["products"]) / ours.run.schedule.size


def _seconds(loop: Iterator[int], steps: int) -> float:
    """Seconds an image over so many steps."""
    start = time.perf_counter()
    images = sum(next(loop) for _ in range(steps))
    return (time.perf_counter() - start) / images
