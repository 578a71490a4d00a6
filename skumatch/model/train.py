"""Training in three phases: a probe, fine-tuning, and a fix on whole pictures as they are served.

A run that is killed and resumed ends with the same bits as one that was not.
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
from skumatch.model.run import TrainingState
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
    """Fine-tune an encoder to tell `classes` apart.

    The result is a pure function of the arguments other than `live`. On a CPU with a given number of threads
    it is the same to the bit.

    Args:
        images: The training pictures; every picture's SKU is one of `classes`.
        classes: The SKUs to tell apart.
        spec: Model, canvas and length of the embeddings.
        params: Parameters of the training.
        seed: Seed of all random numbers.
        weights: The base weights, a safetensors file, or None for random ones.
        checkpoints: The training resumes from the newest one. It saves one when it is due, at SIGTERM (and
            then exits with 143), and at the end. None saves nothing.
        runtime: Device, threads, worker processes.
        history: File for the history, one JSON line per epoch, or None.
        judge: Computes the validation top-1 of an encoder. It is called every `params.validate_every` epochs
            and after the last one. With `params.patience` the weights of the best epoch are returned, with
            `params.average.wise` the best ones between the weights before and after training.
        world: The processes that train together, each with the same arguments. Only the first one reads
            checkpoints and writes.
        live: File that gets a JSON line with the figures and the speed of each epoch when it ends, or None.

    Returns:
        The encoder on the CPU, in evaluation mode.

    Raises:
        ParameterError: A parameter asks for something that the data, model or machine can't do.
        TrainingDiverged: The loss or the gradients became no number, or the loss rose again.
        Fenced: Another attempt took over the checkpoints.
        StorageError: The storage of the pictures or checkpoints refuses.
        WeightsError: As `build` raises it.
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
    checkpoint = world.checkpoint(checkpoints.latest() if checkpoints else None)
    head = Head(len(classes), encoder.dim, params.loss)
    if params.probe.epochs and checkpoint is None:
        with shaped(encoder, params.tower):
            adamw(encoder, head, params.optimizer)  # raises before the work if the tower can't do this
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
        run = TrainingState(encoder, head, schedule, params, device, world, start)
        if checkpoint:
            run.resume(checkpoint)
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
    """Raise ParameterError if an option needs validation and there are no pictures for it."""
    for name, value in (("train.patience", params.patience), ("train.average.wise", params.average.wise)):
        if value and judge is None:
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
    """Compute the tower's features of `params.probe.views` views per picture and train a head on them."""
    view_count = params.probe.views
    with track("probe", view_count * len(images)) as advance:
        features = tower_features(encoder, seen(images, encoder.preprocess, params, seed, workers, advance))
    return probe(
        encoder,
        features.reshape(view_count, len(images), -1),
        torch.tensor(labels),
        classes,
        params.probe,
        params.loss,
        seed,
    )


def _loop(
    run: TrainingState,
    views: Views,
    checkpoints: Checkpoints | None,
    workers: int,
    judge: Judge | None,
    live: Path | None,
) -> None:
    """Train from the run's step to the end; raise SystemExit(143) after SIGTERM."""
    schedule, saved_step = run.schedule, run.step
    pace = Pace(schedule.size, schedule.steps, run.step, live)
    progress = track("train", schedule.steps * schedule.size) if run.world.first else nullcontext(silent)
    with _stop_at_sigterm() as stop_request, progress as advance:
        advance(run.step * schedule.size)
        # A run that SIGTERM stopped in a validation resumes with an unjudged epoch; SIGTERM may come again.
        if judge and run.unjudged and not _end_epoch(run, judge, pace, stop_request):
            raise SystemExit(128 + signal.SIGTERM)
        if run.given_up:  # the run resumed from its last checkpoint
            return
        run.learner.train()
        for pixels, labels in pace.timed(batches(views, schedule.left(run.step), workers, run.device)):
            loss, stop = run.advance(pixels, labels, stop_request.to_stop)
            if run.between_epochs:
                stop = not _end_epoch(run, judge, pace, stop_request) or stop
            advance(schedule.size, text=pace.said(loss, run.step, run.history))
            done = run.step == schedule.steps or run.given_up
            if done or stop or (checkpoints and checkpoints.due()):
                run.save(checkpoints)
                saved_step = run.step
            if stop:
                raise SystemExit(128 + signal.SIGTERM)
            if done:
                break
    assert saved_step == run.step


def _end_epoch(run: TrainingState, judge: Judge | None, pace: Pace, stop_request: _Asked) -> bool:
    """Validate the epoch if it is due, and write its line to the live file.

    Return False if SIGTERM interrupted the validation; it is then repeated after a resume.
    """
    if judge and run.unjudged:
        try:
            with pace.paused(), stop_request.interrupting():
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
    """SIGTERM came during work that may take minutes and changes no state."""


class _Asked:
    """A SIGTERM handler that records the request to stop after the current step.

    Attributes:
        to_stop: True once SIGTERM came.
        at_once: True while SIGTERM raises `_Interrupted` as well.
    """

    to_stop, at_once = False, False

    def __call__(self, *_: object) -> None:
        self.to_stop = True
        if self.at_once:
            raise _Interrupted

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let SIGTERM raise `_Interrupted` inside the context."""
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False


@contextmanager
def _stop_at_sigterm() -> Iterator[_Asked]:
    """Install a SIGTERM handler that records the signal, and restore the old handler afterwards.

    Outside the main thread, where Python sets no handlers, it records nothing.
    """
    stop_request = _Asked()
    if threading.current_thread() is not threading.main_thread():
        yield stop_request
        return
    before = signal.signal(signal.SIGTERM, stop_request)
    try:
        yield stop_request
    finally:
        signal.signal(signal.SIGTERM, before)
