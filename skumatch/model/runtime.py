"""Where the torch work of this process runs."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import torch

from skumatch.errors import ParameterError
from skumatch.params import RuntimeParams


def cores() -> int:
    """Cores this process may use: its share, where torchrun started several on this machine."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def prepare(runtime: RuntimeParams) -> torch.device:
    """Set torch's threads for this process and return its device.

    Raises ParameterError for a GPU that isn't there.
    """
    torch.set_num_threads(runtime.threads or cores())
    _keep_freed_memory()
    cuda = torch.cuda.is_available()
    if runtime.device == "cuda" and not cuda:
        raise ParameterError(
            "runtime.device is cuda but PyTorch finds no GPU here; set it to auto or cpu, or install a CUDA build of PyTorch."
        )
    return torch.device("cuda" if cuda and runtime.device != "cpu" else "cpu")


def _keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it after each layer, to be fetched and zeroed again by the kernel.

    Embedding on a CPU takes half the time, training three quarters. Does nothing where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no allocation of its own mapping
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: bytes that may stay unused


def autocast(device: torch.device) -> torch.autocast:
    """The number type that towers work in: bfloat16 on a GPU; on a CPU, where that is slower, float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def workers(runtime: RuntimeParams, device: torch.device, augmented: bool = False) -> int:
    """Processes that make pictures ready: as set, or what keeps a GPU fed, or on a CPU one for augmented pictures, if a core is to spare.

    Decoding alone is a thirtieth of what an encoder needs on a CPU, so that no process of its own pays.
    """
    if runtime.workers is not None:
        return runtime.workers
    if device.type == "cuda":
        return min(16, max(1, cores() - 1))
    return int(augmented and torch.get_num_threads() > 1)


def ignore_sigterm(_: int) -> None:
    """For processes that make pictures ready: a SIGTERM to the group is the main process's to handle, and they end when it does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
