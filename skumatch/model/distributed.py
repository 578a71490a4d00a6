"""One loop for one process and for several: what they have to tell each other.

Without torchrun nothing of this costs anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from skumatch.errors import ParameterError, Relayed, SkumatchError, StageFailed
from skumatch.files import disk_errors
from skumatch.model.checkpoint import Checkpoint
from skumatch.model.shared_norm import share_statistics
from skumatch.params import RuntimeParams

PATIENCE = timedelta(hours=1)  # for the others, who may wait for the first one to validate
ERROR = "skumatch-error"


@dataclass(frozen=True)
class World:
    """The processes that train or embed together: this one's number `rank` of `size`.

    The first one writes and shows for all.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agreed(self, loss: float, stop: bool) -> tuple[float, bool]:
        """The mean loss of all, so that all see what is no number, and whether any is to stop: the same answer everywhere."""
        if self.size == 1:
            return loss, stop
        both = torch.tensor([loss / self.size, float(stop)], dtype=torch.float64)
        dist.all_reduce(both)
        return both[0].item(), bool(both[1] > 0)

    def told(self, ask: Callable[[], float]) -> float:
        """The first process asks, all get the answer."""
        if self.size == 1:
            return ask()
        answer = torch.tensor(ask() if self.first else 0.0, dtype=torch.float64)
        dist.broadcast(answer, 0)
        return answer.item()

    def checkpoint(self, found: Checkpoint | None) -> Checkpoint | None:
        """The first process's checkpoint, in all of them; the others need not reach the storage."""
        if self.size == 1:
            return found
        facts = json.dumps([found.step, found.meta] if found else None).encode()
        tensors = safetensors.torch.save(found.tensors) if found else b""
        facts, tensors = self._bytes(facts), self._bytes(tensors)
        told = json.loads(facts)
        return Checkpoint(told[0], safetensors.torch.load(tensors), told[1]) if told else None

    def shared(self, data: bytes) -> bytes:
        """The first process's `data`, in all of them."""
        return data if self.size == 1 else self._bytes(data)

    def _bytes(self, data: bytes) -> bytes:
        length = torch.tensor(len(data))
        dist.broadcast(length, 0)
        buffer = torch.zeros(int(length), dtype=torch.uint8)
        if self.first and data:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes()

    def parallel(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` with the first process's weights, its gradients averaged over all in each backward pass."""
        if self.size == 1:
            return model
        ids = [torch.cuda.current_device()] if device.type == "cuda" else None
        return DistributedDataParallel(
            model, device_ids=ids, broadcast_buffers=False
        )  # share_norms keeps them equal

    def share_norms(self, model: nn.Module, device: torch.device) -> None:
        """Let batch normalisation see the images of all processes.

        Before the optimiser and `tower.shaped`.
        """
        if self.size > 1:
            share_statistics(model, device)

    def gathered(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and labels of all processes, in the order of ranks, for a loss that compares them.

        Every process then has the whole loss, and its own part of the gradients; times `size`, as `parallel`
        averages them.
        """
        if self.size == 1:
            return embeddings, labels
        parts, names = (
            [torch.empty_like(tensor) for _ in range(self.size)] for tensor in (embeddings, labels)
        )
        dist.all_gather(parts, embeddings.detach().contiguous())
        dist.all_gather(names, labels.contiguous())
        parts[self.rank] = _steeper(embeddings, self.size)
        return torch.cat(parts), torch.cat(names)

    def parts(self, count: int, batch: int) -> list[range]:
        """Which of `count` pictures each process takes: neighbours, in whole batches, so that a batch is the same for any `size`."""
        batches = -(-count // batch)
        bounds = [min(count, batches * rank // self.size * batch) for rank in range(self.size + 1)]
        return [range(*pair) for pair in pairwise(bounds)]

    def collected(self, rows: NDArray[np.float32], parts: list[range]) -> NDArray[np.float32]:
        """The rows of all `parts` in the first process; the others hand theirs over, and keep them."""
        if self.size == 1:
            return rows
        if not self.first:
            if len(rows):
                dist.send(torch.from_numpy(rows), 0)
            return rows
        found = torch.from_numpy(
            np.concatenate([rows, np.empty((parts[-1].stop - len(rows), rows.shape[1]), np.float32)])
        )
        for rank, part in enumerate(parts):
            if rank and part:
                dist.recv(found[part.start : part.stop], rank)
        collected: NDArray[np.float32] = found.numpy()
        return collected


ALONE = World()


def _steeper(tensor: Tensor, factor: int) -> Tensor:
    """The same numbers with `factor` times their gradients."""
    fixed = tensor.detach()
    return fixed + factor * (tensor - fixed)


@contextmanager
def joined(runtime: RuntimeParams) -> Iterator[World]:
    """The world that torchrun started this process in, or one of its own without torchrun.

    gloo on a CPU, nccl on GPUs, one a process. A process's error ends all with its sentence: raises Relayed
    in the others. Raises ParameterError for more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    on_gpu = check_gpus(runtime, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, _ = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE
    )
    with _one_for_all(store, rank), disk_errors(f"process {rank}"):
        yield World(rank, size)
    dist.destroy_process_group()


def check_gpus(runtime: RuntimeParams, processes: int) -> bool:
    """Whether the work is on GPUs, one for each of this machine's `processes`.

    Raises ParameterError where they are fewer.
    """
    if runtime.device == "cpu" or not torch.cuda.is_available():
        return False
    there = torch.cuda.device_count()
    if processes > there:
        raise ParameterError(
            f"This machine has fewer GPUs ({there}) than processes ({processes}); set runtime.nproc to {there}, or runtime.device to cpu."
        )
    return True


@contextmanager
def _one_for_all(store: Any, rank: int) -> Iterator[None]:
    """Leave the first error's sentence in the store that all share.

    Where the others are gone, raise what they left.
    """
    try:
        yield
    except Exception as error:
        first = store.compare_set(ERROR, "", _sentence(error, rank))
        told = json.loads(first)
        if told["rank"] == rank:
            raise
        raise Relayed(**told["error"]) from error


def _sentence(error: Exception, rank: int) -> str:
    known = (
        error
        if isinstance(error, SkumatchError)
        else StageFailed(f"Process {rank} failed ({error}); read its traceback.")
    )
    return json.dumps({"rank": rank, "error": known.as_dict()})
