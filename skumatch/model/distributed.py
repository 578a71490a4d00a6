"""Collectives for data-parallel training and embedding; with one process every method is a no-op."""

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

PATIENCE = timedelta(hours=1)  # the time-out: processes may wait this long while the first one validates
ERROR = "skumatch-error"  # key of the first error in the store that all processes share


@dataclass(frozen=True)
class World:
    """The processes that train or embed together. Only the first one writes files and shows progress.

    Attributes:
        rank: Number of this process, 0..size - 1.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True in the process with rank 0."""
        return self.rank == 0

    def agreed(self, loss: float, stop: bool) -> tuple[float, bool]:
        """Return the mean loss over all processes, and True if any process wants to stop.

        Every process gets the same result. If any loss is not finite, neither is the mean, so all notice it.
        """
        if self.size == 1:
            return loss, stop
        loss_and_stop = torch.tensor([loss / self.size, float(stop)], dtype=torch.float64)
        dist.all_reduce(loss_and_stop)
        return loss_and_stop[0].item(), bool(loss_and_stop[1] > 0)

    def told(self, ask: Callable[[], float]) -> float:
        """Call `ask` in the first process only, and return its result in all of them."""
        if self.size == 1:
            return ask()
        answer = torch.tensor(ask() if self.first else 0.0, dtype=torch.float64)
        dist.broadcast(answer, 0)
        return answer.item()

    def checkpoint(self, own: Checkpoint | None) -> Checkpoint | None:
        """Return the first process's checkpoint in all processes; the others need not reach the storage."""
        if self.size == 1:
            return own
        facts = json.dumps([own.step, own.meta] if own else None).encode()
        tensors = safetensors.torch.save(own.tensors) if own else b""
        facts, tensors = self._bytes(facts), self._bytes(tensors)
        step_and_meta = json.loads(facts)
        if not step_and_meta:
            return None
        return Checkpoint(step_and_meta[0], safetensors.torch.load(tensors), step_and_meta[1])

    def shared(self, data: bytes) -> bytes:
        """Return the first process's `data` in all processes."""
        return data if self.size == 1 else self._bytes(data)

    def _bytes(self, data: bytes) -> bytes:
        """Broadcast the first process's `data`: its length, then its bytes."""
        length = torch.tensor(len(data))
        dist.broadcast(length, 0)
        buffer = torch.zeros(int(length), dtype=torch.uint8)
        if self.first and data:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes()

    def parallel(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Wrap `model`: it gets the first process's weights, and backward passes average the gradients."""
        if self.size == 1:
            return model
        ids = [torch.cuda.current_device()] if device.type == "cuda" else None
        # no broadcast of buffers: share_norms keeps them equal
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

    def share_norms(self, model: nn.Module, device: torch.device) -> None:
        """Make batch normalisation use the images of all processes.

        Call this before making the optimiser and before `tower.shaped`.
        """
        if self.size > 1:
            share_statistics(model, device)

    def gathered(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Gather the embeddings and labels of all processes, for a loss that compares pictures.

        Each process then computes the loss of the whole batch, but gets the gradients of its own embeddings
        only. These are multiplied by `size`, because `parallel` averages the gradients.

        Args:
            embeddings: [b, dim], of this process.
            labels: [b], of this process.

        Returns:
            Embeddings [size * b, dim] and labels [size * b], in the order of ranks.
        """
        if self.size == 1:
            return embeddings, labels
        all_embeddings = [torch.empty_like(embeddings) for _ in range(self.size)]
        all_labels = [torch.empty_like(labels) for _ in range(self.size)]
        dist.all_gather(all_embeddings, embeddings.detach().contiguous())
        dist.all_gather(all_labels, labels.contiguous())
        all_embeddings[self.rank] = _steeper(embeddings, self.size)
        return torch.cat(all_embeddings), torch.cat(all_labels)

    def parts(self, count: int, batch: int) -> list[range]:
        """Split `count` pictures into one range of indices per process.

        Each range consists of whole batches, so that the batches are the same for any `size`.
        """
        batches = -(-count // batch)  # rounded up
        bounds = [min(count, batches * rank // self.size * batch) for rank in range(self.size + 1)]
        return [range(start, stop) for start, stop in pairwise(bounds)]

    def collected(self, rows: NDArray[np.float32], parts: list[range]) -> NDArray[np.float32]:
        """Collect the rows of all processes in the first one.

        Args:
            rows: float32 [len(parts[rank]), dim], of this process.
            parts: The ranges of `parts`.

        Returns:
            All rows in the first process; in another process its own `rows`.
        """
        if self.size == 1:
            return rows
        if not self.first:
            if len(rows):
                dist.send(torch.from_numpy(rows), 0)
            return rows
        all_rows = torch.from_numpy(
            np.concatenate([rows, np.empty((parts[-1].stop - len(rows), rows.shape[1]), np.float32)])
        )
        for rank, part in enumerate(parts):
            if rank and part:
                dist.recv(all_rows[part.start : part.stop], rank)
        collected: NDArray[np.float32] = all_rows.numpy()
        return collected


ALONE = World()


def _steeper(tensor: Tensor, factor: int) -> Tensor:
    """Return the same numbers, whose gradients are multiplied by `factor`."""
    fixed = tensor.detach()
    return fixed + factor * (tensor - fixed)


@contextmanager
def joined(runtime: RuntimeParams) -> Iterator[World]:
    """Join the processes that torchrun started; without torchrun, yield a world of one process.

    The processes use gloo on a CPU, and nccl on GPUs, one GPU per process. The first error in any process
    ends all of them.

    Raises:
        Relayed: Another process failed first; carries its error.
        ParameterError: There are more processes than GPUs.
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
    """Return True if the work runs on GPUs, one for each of this machine's `processes`.

    Raises:
        ParameterError: It does, and the machine has fewer GPUs than processes.
    """
    if runtime.device == "cpu" or not torch.cuda.is_available():
        return False
    gpus = torch.cuda.device_count()
    if processes > gpus:
        problem = f"This machine has fewer GPUs ({gpus}) than processes ({processes})"
        raise ParameterError(f"{problem}; set runtime.nproc to {gpus}, or runtime.device to cpu.")
    return True


@contextmanager
def _one_for_all(store: Any, rank: int) -> Iterator[None]:
    """Let one error stand for all processes, by the store that they share.

    The first process that fails writes its error there and raises it. A later failure, such as a lost
    connection to the first, raises Relayed with the stored error.
    """
    try:
        yield
    except Exception as error:
        first = store.compare_set(ERROR, "", _sentence(error, rank))
        failure = json.loads(first)
        if failure["rank"] == rank:
            raise
        raise Relayed(**failure["error"]) from error


def _sentence(error: Exception, rank: int) -> str:
    """Write an error as JSON; one that is not ours becomes a StageFailed."""
    known = (
        error
        if isinstance(error, SkumatchError)
        else StageFailed(f"Process {rank} failed ({error}); read its traceback.")
    )
    return json.dumps({"rank": rank, "error": known.as_dict()})
