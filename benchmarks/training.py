"""Speed of training: images a second, against the plain loop of `benchmarks.peers` and against a ceiling."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.embed import counted, race
from benchmarks.measure import Row
from benchmarks.peers import BATCH, Trial, plain, plain_spec
from skumatch.errors import DataError
from skumatch.model.distributed import ALONE
from skumatch.model.encoder import build
from skumatch.model.head import Head
from skumatch.model.pace import Pace
from skumatch.model.run import TrainingState
from skumatch.model.runtime import prepare, workers
from skumatch.model.schedule import Schedule
from skumatch.model.tower import shaped
from skumatch.model.views import Views, batches
from skumatch.params import Params

if TYPE_CHECKING:
    from skumatch.data.images import Images

MANY = 10**6  # epochs: more than a benchmark ever takes
PREFETCH = 2  # batches that each worker process of torch's loader prepares ahead


class Ours:
    """skumatch's own training with some parameters, one step at a time.

    Attributes:
        device: where it trains.
        run: the training's state: learner, optimizer and schedule.
        views: training views of the pictures.
        workers: number of worker processes.
        pace: the training's clock, which also measures the time spent waiting for pictures.
    """

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
        self.run = TrainingState(
            encoder, Head(len(classes), encoder.dim, tuned.loss), schedule, tuned, self.device, ALONE, {}
        )
        self.views = Views(images, labels, encoder.views(tuned.augment.view), tuned.augment, params.seed)
        self.workers = workers(params.runtime, self.device, augmented=True)
        self.pace = Pace(schedule.size, schedule.steps, 0)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Make the first batch in this process: pixels, uint8 [B, 3, H, W], and labels [B], on the device."""
        views = [self.views[key] for key in next(iter(self.run.schedule))]
        pixels = torch.stack([view for view, _ in views])
        return pixels.to(self.device), torch.tensor([label for _, label in views], device=self.device)

    def steps(self) -> Iterator[int]:
        """Train, and yield the number of images after each step."""
        self.run.learner.train()
        for pixels, labels in self.pace.timed(
            batches(self.views, self.run.schedule, self.workers, self.device)
        ):
            self.run.advance(pixels, labels)
            yield len(labels)

    def operations(self) -> int:
        """Count the floating-point operations of a training step for one picture, as they are executed.

        Frozen layers have no backward pass, and dropped patches cost nothing.
        """
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
        step_flops = counted(lambda: learner(pixels, labels).backward())
        learner.compiled = compiled
        learner.load_state_dict(state, strict=False)  # as the running means now stem from empty pictures
        self.run.optimizer.zero_grad()
        return step_flops // count


def bench_train(
    images: Images, params: Params, weights: Path | None, steps: int, rounds: int
) -> Iterator[Row]:
    """Measure the speed of skumatch's training and of the plain loop in alternation, loading included.

    Also measure the share of time that skumatch's training waits for pictures. On a GPU, compare it with the
    ceiling of bare matrix products, and leave out the plain loop, which is one for a CPU.

    Args:
        images: training pictures with their SKUs.
        params: all parameters; those of encoder, training and runtime count.
        weights: file of the encoder's base weights; None for random ones.
        steps: number of steps of each loop in a round.
        rounds: number of rounds.

    Raises:
        DataError: for fewer pictures than a batch.
    """
    least = max(BATCH, params.train.batch)
    if len(images) < least:
        raise DataError(
            f"There are {len(images)} training pictures and a step takes {least}; give a folder with more."
        )
    with ExitStack() as stack:
        training = Ours(images, params, weights, stack)
        loops = {"ours": training.steps()}
        if training.device.type == "cpu":
            trial = Trial(images, plain_spec(params.encoder), weights, MANY, params.seed, contiguous=True)
            loops["plain"] = plain(trial.encoder(), trial)
        for loop in loops.values():
            seconds_per_image(loop, steps)  # the first steps warm up and compile
        operations, times = training.operations(), list[dict[str, float]]()
        for _ in range(rounds):
            products = (
                {"products": _of_products(training, operations)} if training.device.type == "cuda" else {}
            )
            times.append({name: seconds_per_image(loop, steps) for name, loop in loops.items()} | products)
        rates = {name: median(1 / seconds[name] for seconds in times) for name in times[0]}
        if "plain" in loops:
            parts = f"{rates['ours']:,.1f} images/s; the plain loop {rates['plain']:,.1f}"
            yield Row(
                "training, ours / the plain loop",
                median(seconds["plain"] / seconds["ours"] for seconds in times),
                1.5,
                "x",
                parts,
                "more",
            )
        if "products" in rates:
            share = 100 * median(seconds["products"] / seconds["ours"] for seconds in times)
            parts = f"{rates['ours']:,.0f} images/s; products {rates['products']:,.0f}"
            yield Row("training, share of the GEMM ceiling", share, 45, "%", parts, "more")
        yield _waiting(training, loops["ours"], steps * rounds)


def _waiting(training: Ours, loop: Iterator[int], steps: int) -> Row:
    """Measure the share of time spent waiting for pictures, over `steps` steps without a pause.

    Batches that the workers prepared during the last pause are used up first.
    """
    seconds_per_image(loop, 1 + PREFETCH * training.workers)
    before = training.pace.waiting
    seconds = seconds_per_image(loop, steps) * steps * training.run.schedule.size
    parts = f"{steps * training.run.schedule.size / seconds:,.1f} images/s without pause"
    return Row(
        "share of the time spent waiting for pictures",
        100 * (training.pace.waiting - before) / seconds,
        5,
        "%",
        parts,
    )


def _of_products(training: Ours, operations: int) -> float:
    """Return the seconds per picture of a bare matrix product with as many operations as a step."""
    batch = training.run.schedule.size
    no_pixels = torch.zeros(batch, 0, device=training.device)
    return median(race({}, no_pixels, operations, rounds=1)["products"]) / batch


def seconds_per_image(loop: Iterator[int], steps: int) -> float:
    """Run `steps` steps and return the seconds per image."""
    start = time.perf_counter()
    images = sum(next(loop) for _ in range(steps))
    return (time.perf_counter() - start) / images
