"""Fine-tuning: the plain loop, made exact. A run that is killed and resumed ends with the same bits."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from skumatch.config import EncoderParams, RuntimeParams, TrainParams
from skumatch.errors import TrainingDiverged
from skumatch.files import write_text
from skumatch.model.augment import generator
from skumatch.model.checkpoint import Checkpoint, Checkpoints
from skumatch.model.encoder import Encoder, build
from skumatch.model.head import Head
from skumatch.model.runtime import prepare, workers
from skumatch.model.schedule import Schedule, one_cycle
from skumatch.model.views import Views, batches
from skumatch.progress import track

if TYPE_CHECKING:
    from skumatch.data.images import Images


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
) -> Encoder:
    """Return the encoder fine-tuned to tell `classes` apart, on the CPU, in evaluation mode.

    images: every picture's SKU is one of `classes`. checkpoints: resume from the newest, save every
    `params.checkpoint_every` steps, at SIGTERM (then exit 143) and at the end. history: JSON lines, one an epoch. The
    result is a pure function of the arguments, on a CPU with a given number of threads to the bit.
    Raises TrainingDiverged, Fenced, StorageError, and what `build` raises.
    """
    device = prepare(runtime)
    torch.manual_seed(seed)
    encoder = build(spec, weights)
    if params.epochs == 0:
        return encoder.eval()
    number = {sku: label for label, sku in enumerate(classes)}
    run = _Run(encoder, len(classes), Schedule(len(images), params.batch, params.epochs, seed), params, device)
    run.resume(checkpoints.latest() if checkpoints else None)
    views = Views(images, [number[sku] for sku in images.skus], encoder.views(params.augment.view), params.augment, seed)
    _loop(run, views, checkpoints, workers(runtime, device), history)
    return encoder.cpu().eval()


class _Run:
    """All that a checkpoint holds: tower and head, the optimiser's state, steps done, the epochs' history."""

    def __init__(self, encoder: Encoder, classes: int, schedule: Schedule, params: TrainParams, device: torch.device) -> None:
        self.encoder, self.schedule, self.params, self.device = encoder, schedule, params, device
        self.head = Head(classes, encoder.dim, params.loss.margin, params.loss.scale, params.loss.label_smoothing)
        self.model = nn.ModuleDict({"encoder": encoder, "head": self.head}).to(device)
        groups = [(encoder, params.optimizer.lr_tower), (self.head, params.optimizer.lr_head)]
        each = [{"params": list(module.parameters()), "highest": lr} for module, lr in groups]
        self.optimizer = AdamW(each, weight_decay=params.optimizer.weight_decay)
        self.step = 0
        self.loss_sum = 0.0
        self.history: list[dict[str, float]] = []

    def advance(self, pixels: Tensor, labels: Tensor) -> float:
        """One step; returns its loss. Raises TrainingDiverged before a loss that is no number touches the weights."""
        schedule = self.schedule
        torch.manual_seed(generator(schedule.seed, "step", self.step).initial_seed())  # dropout, the same after a resume
        self.head.ramp(self.step / schedule.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest"] * one_cycle(self.step, schedule.steps, self.params.optimizer.warmup_share)
        loss = self._loss(pixels, labels)
        value = loss.item()
        if not math.isfinite(value):
            where = f"at step {self.step + 1} of {schedule.steps}"
            raise TrainingDiverged(f"The training loss became {value} {where}; lower train.optimizer.lr_tower and lr_head, then run again.")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._count(value)
        return value

    def _loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        on_gpu = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):  # on a CPU it is slower than float32
            embeddings = self.encoder(self.encoder.preprocess.normalise(pixels.to(self.device, non_blocking=True)))
        loss: Tensor = self.head(embeddings, labels.to(self.device))
        return loss

    def _count(self, loss: float) -> None:
        self.step += 1
        self.loss_sum += loss
        if self.step % self.schedule.steps_per_epoch == 0:
            epoch, lr = self.step // self.schedule.steps_per_epoch, self.optimizer.param_groups[0]["lr"]
            self.history.append({"epoch": epoch, "loss": round(self.loss_sum / self.schedule.steps_per_epoch, 6), "lr": lr})
            self.loss_sum = 0.0

    def save(self, checkpoints: Checkpoints | None) -> None:
        if checkpoints is not None:
            tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
            checkpoints.save(self.step, tensors | self._optimizer_tensors(), {"loss_sum": self.loss_sum, "history": self.history})

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        states = ((name, self.optimizer.state[parameter]) for name, parameter in self.model.named_parameters())
        return {f"optimizer/{name}/{kind}": tensor for name, state in states for kind, tensor in state.items()}

    def resume(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        tensors, prefix = checkpoint.tensors, "model/"
        state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        self.model.load_state_dict(state)
        for name, parameter in self.model.named_parameters():
            for kind in ("step", "exp_avg", "exp_avg_sq"):
                saved = tensors[f"optimizer/{name}/{kind}"]
                like = torch.zeros_like(parameter.detach())  # the parameter's memory layout too, as if the state had never left
                self.optimizer.state[parameter][kind] = saved if kind == "step" else like.copy_(saved)
        self.step, self.loss_sum, self.history = checkpoint.step, checkpoint.meta["loss_sum"], checkpoint.meta["history"]


def _loop(run: _Run, views: Views, checkpoints: Checkpoints | None, workers: int, history: Path | None) -> None:
    schedule, saved, began = run.schedule, run.step, time.monotonic()
    left = Schedule(schedule.images, schedule.batch, schedule.epochs, schedule.seed, start=run.step)
    batch = min(schedule.batch, schedule.images)
    run.model.train()
    with _stop_at_sigterm() as stop, track("train", schedule.steps * batch) as advance:
        advance(run.step * batch)
        for pixels, labels in batches(views, left, workers, run.device):
            loss = run.advance(pixels, labels)
            rate = (run.step - left.start) * batch / (time.monotonic() - began)
            advance(batch, text=f"loss {loss:.3f}, {rate:.0f} images/s")
            if run.step % run.params.checkpoint_every == 0 or run.step == schedule.steps or stop.is_set():
                run.save(checkpoints)
                saved = run.step
            if stop.is_set():
                raise SystemExit(128 + signal.SIGTERM)
    assert saved == run.step == schedule.steps
    _write_history(run.history, history)


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
