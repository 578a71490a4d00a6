"""Where the torch work of this process runs."""

from __future__ import annotations

import os

import torch

from skumatch.config import RuntimeParams
from skumatch.errors import ParameterError


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(runtime: RuntimeParams) -> torch.device:
    """Set torch's threads for this process and return its device.

    Raises ParameterError for a device that doesn't exist or isn't there.
    """
    torch.set_num_threads(runtime.threads or cores())
    cuda = torch.cuda.is_available()
    if runtime.device not in ("auto", "cpu", "cuda"):
        raise ParameterError(f"runtime.device is '{runtime.device}'; set it to auto, cpu or cuda.")
    if runtime.device == "cuda" and not cuda:
        raise ParameterError(
            "runtime.device is cuda but PyTorch finds no GPU here; set it to auto or cpu, or install a CUDA build of PyTorch."
        )
    return torch.device("cuda" if cuda and runtime.device != "cpu" else "cpu")


def workers(runtime: RuntimeParams, device: torch.device) -> int:
    """Processes that decode images: as set, or none beside training on a CPU, or what keeps a GPU fed."""
    return runtime.workers or (min(16, cores() - 1) if device.type == "cuda" else 0)
