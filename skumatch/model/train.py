"""Training: a probe, fine-tuning, a fix at the size served; made exact.

A run that is killed and resumed ends with the same bits.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skumatch.errors import ParameterError
from skumatch.files import write_text
from skumatch.model.average import snapshot, wise
from skumatch.model.checkpoint import Checkpoints
from skumatch.model.distributed import ALONE, World
from skumatch.model.encoder import Encoder, build
from skumatch.model.head import Head
from skumatch.model.optim import adamw
from skumatch.model.pace import Pace
from skumatch.model.probe import probe, tower_features
from skumatch.model.run import Run
from skumatch.model.runtime import prepare, workers
from skumatch.model.schedule import Schedule
from skumatch.model.tower import shaped
from skumatch.model.views import Views, batches, seen
from skumatch.params import EncoderParams, RuntimeParams, TrainParams
from skumatch.progress import silent, track

if TYPE_CHECKING:
    from skumatch.data.images import Images

Judge = Callable[[Encoder], float]


def train(
    images: Images,
    classes: list[str],
    spec: EncoderParams,
    params: TrainParams,
    seed: int,
    weights: Path | None,
    checkpoints: Checkpoints | None,
    runtime: RuntimeParams,
    history: Path | None,
    judge: Judge | None = None,
    world: World = ALONE,
    live: Path | None = None,
) -> Encoder:
    """Return the encoder fine-tuned to tell `classes` apart, on the CPU, in evaluation mode.

    images: every picture's SKU is one of `classes`. checkpoints: resume from the newest, save when one is
    due, at SIGTERM (then exit 143) and at the end. history: JSON lines, one an epoch. judge: the validation
    top-1 of an encoder, asked each `params.validate_every` epochs and after the last; with `params.patience`
    the weights it found best are returned, with `params.average.wise` the best ones on the way from the
    weights before. world: the processes that train together, each with the same arguments; the first one
    alone reads and writes. live: a file told of each epoch as it ends, with its speed. The result is a pure
    function of the arguments (but `live`), on a CPU with a given number of threads to the bit. Raises
    ParameterError, TrainingDiverged, Fenced, StorageError, and what `build` raises.
    """
    _check(params, judge)
    device, first = prepare(runtime), world.first
    torch.manual_seed(seed)
    encoder = build(spec, weights)
    labels, epochs = images.labels(classes), params.epochs + params.fix.epochs
    schedule = Schedule(
        len(images),
        params.batch,
        epochs,
        seed,
        labels=labels,
        sampling=params.sampling,
        rank=world.rank,
        world=world.size,
    )
    checkpoints = checkpoints if first else None
    saved = world.checkpoint(checkpoints.latest() if checkpoints else None)
    head = Head(len(classes), encoder.dim, params.loss)
    if params.probe.epochs and saved is None:
        with shaped(encoder, params.tower):
            adamw(encoder, head, params.optimizer)  # what the tower can't do is said before the work
        head = _probed(
            encoder.to(device),
            images,
            labels,
            len(classes),
            params,
            seed,
            workers(runtime, device, augmented=True),
        )
    if schedule.steps == 0:
        return encoder.cpu().eval()
    world.share_norms(encoder, device)
    start = snapshot(encoder) if params.average.wise else {}
    with shaped(encoder, params.tower):
        run = Run(encoder, head, schedule, params, device, world, start)
        if saved:
            run.resume(saved)
        views = Views(
            images,
            labels,
            encoder.views(params.augment.view),
            params.augment,
            seed,
            (params.epochs, encoder.preprocess),
        )
        _loop(
            run, views, checkpoints, workers(runtime, device, augmented=True), judge, live if first else None
        )
        run.keep()
    if judge and params.average.wise:
        share, top1 = wise(
            encoder, run.start, params.average.wise, lambda encoder: world.told(lambda: judge(encoder))
        )
        run.history[-1] |= {"wise": share, "wise_top1": round(top1, 6)}
    if first:
        _write_history(run.history, history)
    return encoder.cpu().eval()


def _check(params: TrainParams, judge: Judge | None) -> None:
    for name, wanted in (("train.patience", params.patience), ("train.average.wise", params.average.wise)):
        if wanted and judge is None:
            raise ParameterError(
                f"{name} needs pictures to validate on; raise split.val_share, or turn it off."
            )


def _probed(
    encoder: Encoder,
    images: Images,
    labels: list[int],
    classes: int,
    params: TrainParams,
    seed: int,
    workers: int,
) -> Head:
    several = params.probe.views
    with track("probe", several * len(images)) as advance:
        features = tower_features(encoder, seen(images, encoder.preprocess, params, seed, workers, advance))
    return probe(
        encoder,
        features.reshape(several, len(images), -1),
        torch.tensor(labels),
        classes,
        params.probe,
        params.loss,
        seed,
    )


def _loop(
    run: Run,
    views: Views,
    checkpoints: Checkpoints | None,
    workers: int,
    judge: Judge | None,
    live: Path | None,
) -> None:
    schedule, saved = run.schedule, run.step
    pace = Pace(schedule.size, schedule.steps, run.step, live)
    shown = track("train", schedule.steps * schedule.size) if run.world.first else nullcontext(silent)
    with _stop_at_sigterm() as asked, shown as advance:
        advance(run.step * schedule.size)
        if (
            judge and run.unjudged and not _end_epoch(run, judge, pace, asked)
        ):  # SIGTERM came while it was judged, and again
            raise SystemExit(128 + signal.SIGTERM)
        if run.given_up:  # and resumed after its last checkpoint
            return
        run.learner.train()
        for pixels, labels in pace.timed(batches(views, schedule.left(run.step), workers, run.device)):
            loss, stop = run.advance(pixels, labels, asked.to_stop)
            if run.between_epochs:
                stop = not _end_epoch(run, judge, pace, asked) or stop
            advance(schedule.size, text=pace.said(loss, run.step, run.history))
            done = run.step == schedule.steps or run.given_up
            if done or stop or (checkpoints and checkpoints.due()):
                run.save(checkpoints)
                saved = run.step
            if stop:
                raise SystemExit(128 + signal.SIGTERM)
            if done:
                break
    assert saved == run.step


def _end_epoch(run: Run, judge: Judge | None, pace: Pace, asked: _Asked) -> bool:
    """Judge the epoch and tell of it.

    False where SIGTERM came meanwhile, and the epoch is to be judged after a resume.
    """
    if judge and run.unjudged:
        try:
            with pace.paused(), asked.interrupting():
                run.judge(run.world.told(lambda: judge(run.shown)))
        except _Interrupted:
            return False
        run.learner.train()
    pace.tell(run.step, run.history[-1])
    return True


def _write_history(lines: list[dict[str, Any]], path: Path | None) -> None:
    if path is not None:
        write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


class _Interrupted(Exception):
    """SIGTERM, while something is done that may take minutes and changes nothing."""


class _Asked:
    """What SIGTERM asks for: to stop after the step that is being done."""

    to_stop, at_once = False, False

    def __call__(self, *_: object) -> None:
        self.to_stop = True
        if self.at_once:
            raise _Interrupted

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within this it interrupts."""
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False


@contextmanager
def _stop_at_sigterm() -> Iterator[_Asked]:
    """What SIGTERM asks for; the handler is put back afterwards. Only a process's main thread can do this."""
    asked = _Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, asked)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
