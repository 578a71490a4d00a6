"""The state of a training: all that a checkpoint holds, and one step of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from skumatch.config import TrainParams
from skumatch.errors import TrainingDiverged
from skumatch.model.chance import generator
from skumatch.model.checkpoint import Checkpoint, Checkpoints
from skumatch.model.encoder import Encoder
from skumatch.model.head import Head
from skumatch.model.schedule import Schedule, rate_share

BEST, MODEL, OPTIMIZER = "best/", "model/", "optimizer/"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Run:
    """Tower and head, the optimiser's state, steps done, the epochs' history, and the weights of the best epoch where it is looked for."""

    def __init__(self, encoder: Encoder, head: Head, schedule: Schedule, params: TrainParams, device: torch.device) -> None:
        self.encoder, self.head, self.schedule, self.params, self.device = encoder, head, schedule, params, device
        self.model = nn.ModuleDict({"encoder": encoder, "head": head}).to(device)
        rates = params.optimizer
        groups = [(encoder, rates.lr_tower), (head, rates.lr_head)]
        each = [{"params": found, "highest": lr} for module, lr in groups if (found := list(module.parameters()))]
        self.optimizer = AdamW(each, weight_decay=rates.weight_decay)
        self.step, self.loss_sum, self.best_epoch = 0, 0.0, 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.schedule.steps_per_epoch

    @property
    def between_epochs(self) -> bool:
        return self.step % self.schedule.steps_per_epoch == 0

    def advance(self, pixels: Tensor, labels: Tensor) -> float:
        """One step; returns its loss. Raises TrainingDiverged before a loss that is no number touches the weights."""
        schedule = self.schedule
        torch.manual_seed(generator(schedule.seed, "step", self.step).initial_seed())  # dropout, the same after a resume
        self.head.ramp(self.step / schedule.steps_per_epoch)
        share = rate_share(self.step, schedule.steps_per_epoch, self.params)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest"] * share
        loss = self._loss(pixels, labels)
        value = loss.item()
        if not math.isfinite(value):
            where, advice = f"at step {self.step + 1} of {schedule.steps}", "lower train.optimizer.lr_tower and lr_head, then run again"
            raise TrainingDiverged(f"The training loss became {value} {where}; {advice}.")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.params.optimizer.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.params.optimizer.clip)
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
        if self.between_epochs:
            lr = self.optimizer.param_groups[0]["lr"]
            self.history.append({"epoch": self.epoch, "loss": round(self.loss_sum / self.schedule.steps_per_epoch, 6), "lr": lr})
            self.loss_sum = 0.0

    def judge(self, top1: float) -> None:
        """Note the validation top-1 of the epoch that has just ended; keep the weights of the best one if that is asked for."""
        before = max((line["top1"] for line in self.history if "top1" in line), default=-1.0)
        self.history[-1]["top1"] = round(top1, 6)
        if self.params.patience and self.history[-1]["top1"] > before:
            self.best_epoch, self.best = self.epoch, {name: tensor.clone() for name, tensor in self.encoder.state_dict().items()}

    @property
    def given_up(self) -> bool:
        """Whether no epoch was better for as long as one waits."""
        return bool(self.params.patience) and self.best_epoch > 0 and self.epoch - self.best_epoch >= self.params.patience

    def save(self, checkpoints: Checkpoints | None) -> None:
        if checkpoints is not None:
            tensors = {f"{MODEL}{name}": tensor for name, tensor in self.model.state_dict().items()} | self._moments()
            tensors |= {f"{BEST}{name}": tensor for name, tensor in self.best.items()}
            facts = {"loss_sum": self.loss_sum, "history": self.history, "best_epoch": self.best_epoch}
            checkpoints.save(self.step, tensors, facts)

    def _moments(self) -> dict[str, Tensor]:
        states = ((name, self.optimizer.state[parameter]) for name, parameter in self.model.named_parameters())
        return {f"{OPTIMIZER}{name}/{kind}": tensor for name, state in states for kind, tensor in state.items()}

    def resume(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(_under(MODEL, checkpoint.tensors))
        self.best = _under(BEST, checkpoint.tensors)
        for name, parameter in self.model.named_parameters():
            for kind in MOMENTS:
                saved = checkpoint.tensors[f"{OPTIMIZER}{name}/{kind}"]
                like = torch.zeros_like(parameter.detach())  # the parameter's memory layout too, as if the state had never left
                self.optimizer.state[parameter][kind] = saved if kind == "step" else like.copy_(saved)
        meta: dict[str, Any] = checkpoint.meta
        self.step, self.loss_sum, self.history, self.best_epoch = checkpoint.step, meta["loss_sum"], meta["history"], meta["best_epoch"]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
