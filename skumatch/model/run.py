"""The state of a training, its single step, and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from skumatch.errors import TrainingDiverged
from skumatch.model.average import Average, snapshot
from skumatch.model.chance import generator
from skumatch.model.checkpoint import Checkpoint, Checkpoints
from skumatch.model.distributed import World
from skumatch.model.encoder import PROJECTION, Encoder
from skumatch.model.head import Head, Learner
from skumatch.model.optim import adamw, clip, set_rates
from skumatch.model.schedule import Schedule, rate_share
from skumatch.model.tower import compiled, show_whole
from skumatch.params import TrainParams

MEMORY = 0.98  # decay of the moving average, which covers about 50 steps
TIMES, MORE = 3.0, 1.0  # a loss over TIMES * lowest + MORE is more than chance in the choice of batches


class Trend(BaseModel):
    """The course of the loss.

    Attributes:
        recent: Moving average of the losses; None before the first step.
        lowest: The lowest value of that average; None before the first step.
    """

    recent: float | None = None
    lowest: float | None = None

    def diverged(self, loss: float) -> bool:
        """Add a step's loss; return True if the average has risen far above its minimum."""
        self.recent = loss if self.recent is None else MEMORY * self.recent + (1 - MEMORY) * loss
        self.lowest = self.recent if self.lowest is None else min(self.lowest, self.recent)
        return self.recent > TIMES * self.lowest + MORE


AVERAGE, BEST, MODEL, OPTIMIZER, START = "average/", "best/", "model/", "optimizer/", "start/"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class TrainingState:
    """A training: encoder, head, optimiser, and the progress so far.

    Attributes:
        encoder: The encoder that is trained.
        head: The loss with its class weights.
        schedule: The batches of all epochs.
        params: Parameters of the training.
        device: The device that it runs on.
        world: The processes that train together.
        learner: Encoder and head as one module.
        parallel: `learner`, with gradients averaged over all processes.
        optimizer: AdamW with its state.
        average: The moving average of the encoder's weights, or None if it is turned off.
        step: Steps done.
        loss_sum: Sum of the losses of the epoch in progress.
        best_epoch: Epochs done when the validation was best; 0 before the first validation.
        history: Figures of each finished epoch.
        best: Weights of the best epoch; empty unless `params.patience` is set.
        trend: The loss's moving average and its minimum, which show a divergence.
        start: The encoder's weights before the first step.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        schedule: Schedule,
        params: TrainParams,
        device: torch.device,
        world: World,
        start: Mapping[str, Tensor],
    ) -> None:
        self.encoder, self.head, self.schedule = encoder, head, schedule
        self.params, self.device, self.world = params, device, world
        forward = compiled(encoder) if params.tower.compile else None
        self.learner = Learner(encoder, head, world, params.loss.kind == "supcon", forward).to(device)
        self.parallel = world.parallel(self.learner, device)
        self.optimizer = adamw(encoder, head, params.optimizer)
        self.average = Average(encoder, params.average.ema) if params.average.ema else None
        self.step, self.loss_sum, self.best_epoch = 0, 0.0, 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.trend = Trend()
        self.start = dict(start)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.schedule.steps_per_epoch

    @property
    def between_epochs(self) -> bool:
        """True if no epoch is in progress."""
        return self.step % self.schedule.steps_per_epoch == 0

    @property
    def unjudged(self) -> bool:
        """True if the epoch that has just ended is due for validation and has no top-1 yet."""
        due = self.epoch % self.params.validate_every == 0 or self.step == self.schedule.steps
        return due and self.step > 0 and self.between_epochs and "top1" not in self.history[-1]

    @property
    def shown(self) -> Encoder:
        """The encoder that is validated and returned: the weights' average if there is one."""
        return self.average.encoder if self.average else self.encoder

    def advance(self, pixels: Tensor, labels: Tensor, stop: bool = False) -> tuple[float, bool]:
        """Do one step of training.

        Args:
            pixels: uint8 [B, 3, H, W], this process's part of the batch.
            labels: int64 [B].
            stop: True if this process was asked to stop.

        Returns:
            The mean loss of all processes, and True if any of them was asked to stop.

        Raises:
            TrainingDiverged: The loss or the gradients are not finite, and the weights are still unchanged.
                Or the loss has risen far above its minimum, and no checkpoint holds the new weights yet.
        """
        seed = generator(
            self.schedule.seed, "step", self.step, *([self.world.rank] if self.world.rank else [])
        )
        torch.manual_seed(seed.initial_seed())  # so that dropout draws the same numbers after a resume
        self.head.ramp(self.step / self.schedule.steps_per_epoch)
        if self.epoch >= self.params.epochs:
            show_whole(self.encoder.tower)
        set_rates(self.optimizer, rate_share(self.step, self.schedule.steps_per_epoch, self.params))
        loss: Tensor = self.parallel(pixels.to(self.device, non_blocking=True), labels.to(self.device))
        value, stop = self.world.agreed(loss.item(), stop)
        if not math.isfinite(value):
            raise self._lost(f"became {value}")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip(self.learner.parameters(), self.params.optimizer.clip or math.inf)
        self.optimizer.step()
        if self.average:
            self.average.update(self.encoder, self.step)
        # while the margin grows, the loss grows with it
        full_margin = self.step >= self.params.loss.margin_epochs * self.schedule.steps_per_epoch
        if full_margin and self.trend.diverged(value):
            raise self._lost(
                f"has come to {self.trend.lowest:.2f} and risen to {self.trend.recent:.2f} again"
            )
        self._count(value)
        return value, stop

    def _lost(self, how: str) -> TrainingDiverged:
        advice = "lower train.optimizer.lr_tower and lr_head, then run again"
        return TrainingDiverged(
            f"The training loss {how} at step {self.step + 1} of {self.schedule.steps}; {advice}."
        )

    def _count(self, loss: float) -> None:
        self.step += 1
        self.loss_sum += loss
        if self.between_epochs:
            lr = self.optimizer.param_groups[0]["lr"]
            self.history.append(
                {
                    "epoch": self.epoch,
                    "loss": round(self.loss_sum / self.schedule.steps_per_epoch, 6),
                    "lr": lr,
                }
            )
            self.loss_sum = 0.0

    def judge(self, top1: float) -> None:
        """Record the validation top-1 of the epoch that has just ended.

        With `params.patience`, keep a copy of the weights if it is the best epoch so far.
        """
        before = max((line["top1"] for line in self.history if "top1" in line), default=-1.0)
        self.history[-1]["top1"] = round(top1, 6)
        if self.params.patience and self.history[-1]["top1"] > before:
            self.best_epoch, self.best = self.epoch, snapshot(self.shown)

    @property
    def given_up(self) -> bool:
        """True if the last `params.patience` epochs were no better than the best one."""
        waiting = bool(self.params.patience) and self.best_epoch > 0
        return waiting and "top1" in self.history[-1] and self.epoch - self.best_epoch >= self.params.patience

    def keep(self) -> None:
        """Load the weights that training ends with into the encoder.

        These are the weights of the best epoch, else their moving average, else the last ones.
        """
        if self.best or self.average:
            self.encoder.load_state_dict(self.best or self.shown.state_dict())

    def save(self, checkpoints: Checkpoints | None) -> None:
        """Save a checkpoint of the whole state; do nothing where there is no storage for it."""
        if checkpoints is not None:
            tensors = {
                f"{MODEL}{name}": tensor for name, tensor in self.learner.state_dict().items()
            } | self._moments()
            average = self.average.encoder.state_dict() if self.average else {}
            # the projection that the probe fitted; the other start weights are the base weights
            start = {name: tensor for name, tensor in self.start.items() if name.startswith(PROJECTION)}
            for prefix, state in ((BEST, self.best), (AVERAGE, average), (START, start)):
                tensors |= {f"{prefix}{name}": tensor for name, tensor in state.items()}
            facts = {
                "loss_sum": self.loss_sum,
                "history": self.history,
                "best_epoch": self.best_epoch,
                "trend": self.trend.model_dump(),
            }
            checkpoints.save(self.step, tensors, facts)

    def _moments(self) -> dict[str, Tensor]:
        states = ((name, self.optimizer.state[parameter]) for name, parameter in self._trained())
        return {
            f"{OPTIMIZER}{name}/{kind}": tensor for name, state in states for kind, tensor in state.items()
        }

    def _trained(self) -> list[tuple[str, Tensor]]:
        return [
            (name, parameter)
            for name, parameter in self.learner.named_parameters()
            if parameter.requires_grad
        ]

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the state that `save` stored."""
        self.learner.load_state_dict(_under(MODEL, checkpoint.tensors))
        self.best = _under(BEST, checkpoint.tensors)
        self.start |= _under(START, checkpoint.tensors)
        if self.average:
            self.average.encoder.load_state_dict(_under(AVERAGE, checkpoint.tensors))
        for name, parameter in self._trained():
            for kind in MOMENTS:
                saved = checkpoint.tensors[f"{OPTIMIZER}{name}/{kind}"]
                # in the parameter's memory layout, as in a run that was never interrupted
                moment = torch.zeros_like(parameter.detach())
                self.optimizer.state[parameter][kind] = saved if kind == "step" else moment.copy_(saved)
        meta: dict[str, Any] = checkpoint.meta
        self.step, self.loss_sum = checkpoint.step, meta["loss_sum"]
        self.history, self.best_epoch = meta["history"], meta["best_epoch"]
        self.trend = Trend.model_validate(meta["trend"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
