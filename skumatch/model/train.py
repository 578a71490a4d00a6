"""Training: a probe, fine-tuning, a fix at the size served; made exact. A run that is killed and resumed ends with the same bits."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skumatch.config import EncoderParams, RuntimeParams, TrainParams
from skumatch.errors import ParameterError
from skumatch.files import write_text
from skumatch.model.checkpoint import Checkpoints
from skumatch.model.encoder import Encoder, build
from skumatch.model.head import Head
from skumatch.model.losses import check_loss
from skumatch.model.probe import probe, tower_features
from skumatch.model.run import Run
from skumatch.model.runtime import prepare, workers
from skumatch.model.schedule import Schedule
from skumatch.model.views import Views, batches, seen
from skumatch.progress import track

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
) -> Encoder:
    """Return the encoder fine-tuned to tell `classes` apart, on the CPU, in evaluation mode.

    images: every picture's SKU is one of `classes`. checkpoints: resume from the newest, save every
    `params.checkpoint_every` steps, at SIGTERM (then exit 143) and at the end. history: JSON lines, one an epoch. judge: the
    validation top-1 of an encoder, asked after each epoch; with `params.patience` the best epoch's weights are returned. The
    result is a pure function of the arguments, on a CPU with a given number of threads to the bit.
    Raises ParameterError, TrainingDiverged, Fenced, StorageError, and what `build` raises.
    """
    _check(spec, params, judge)
    device = prepare(runtime)
    torch.manual_seed(seed)
    encoder = build(spec, weights)
    number = {sku: label for label, sku in enumerate(classes)}
    labels = [number[sku] for sku in images.skus]
    schedule = Schedule(len(images), params.batch, params.epochs + params.fix.epochs, seed, labels=labels, sampling=params.sampling)
    saved = checkpoints.latest() if checkpoints else None
    head = Head(len(classes), encoder.dim, params.loss)
    if params.probe.epochs and saved is None:
        head = _probed(encoder.to(device), images, labels, len(classes), params, seed, workers(runtime, device))
    if schedule.steps == 0:
        return encoder.cpu().eval()
    run = Run(encoder, head, schedule, params, device)
    if saved:
        run.resume(saved)
    views = Views(images, labels, encoder.views(params.augment.view), params.augment, seed, (params.epochs, encoder.preprocess))
    _loop(run, views, checkpoints, workers(runtime, device), judge)
    if run.best:
        encoder.load_state_dict(run.best)
    _write_history(run.history, history)
    return encoder.cpu().eval()


def _check(spec: EncoderParams, params: TrainParams, judge: Judge | None) -> None:
    check_loss(params.loss, params.sampling)
    if params.probe.epochs and not params.epochs and not spec.dim:
        raise ParameterError("A probe alone trains a projection; set encoder.dim to its length, or train.epochs to more than 0.")
    if params.patience and judge is None:
        raise ParameterError("train.patience needs pictures to validate on; raise split.val_share, or set it to 0.")


def _probed(encoder: Encoder, images: Images, labels: list[int], classes: int, params: TrainParams, seed: int, workers: int) -> Head:
    several = params.probe.views
    with track("probe", several * len(images)) as advance:
        features = tower_features(encoder, seen(images, encoder.preprocess, params, seed, workers, advance))
    return probe(encoder, features.reshape(several, len(images), -1), torch.tensor(labels), classes, params.probe, params.loss, seed)


def _loop(run: Run, views: Views, checkpoints: Checkpoints | None, workers: int, judge: Judge | None) -> None:
    schedule, began = run.schedule, time.monotonic()
    left, first, waited, saved = schedule.left(run.step), run.step, 0.0, run.step
    if run.given_up:  # and resumed after its last checkpoint
        return
    run.model.train()
    with _stop_at_sigterm() as stop, track("train", schedule.steps * schedule.size) as advance:
        advance(run.step * schedule.size)
        asked = time.monotonic()
        for pixels, labels in batches(views, left, workers, run.device):
            waited += time.monotonic() - asked
            loss = run.advance(pixels, labels)
            if judge and run.between_epochs:
                run.judge(judge(run.encoder))
                run.model.train()
            took = time.monotonic() - began
            advance(schedule.size, text=_said(loss, (run.step - first) * schedule.size / took, waited / took, run.history))
            done = run.step == schedule.steps or run.given_up
            if run.step % run.params.checkpoint_every == 0 or done or stop.is_set():
                run.save(checkpoints)
                saved = run.step
            if stop.is_set():
                raise SystemExit(128 + signal.SIGTERM)
            if done:
                break
            asked = time.monotonic()
    assert saved == run.step


def _said(loss: float, rate: float, waiting: float, history: list[dict[str, float]]) -> str:
    top1 = f", validation {100 * history[-1]['top1']:.1f} %" if history and "top1" in history[-1] else ""
    return f"loss {loss:.3f}{top1}, {rate:.0f} images/s, {100 * waiting:.0f} % waiting for pictures"


def _write_history(lines: list[dict[str, Any]], path: Path | None) -> None:
    if path is not None:
        write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


@contextmanager
def _stop_at_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; the handler is put back afterwards. Only a process's main thread can do this."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
