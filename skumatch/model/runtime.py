"""Device, threads and worker processes for torch in this process."""

from __future__ import annotations

import ctypes
import signal
import sys

import torch

from skumatch.config import cores
from skumatch.errors import ParameterError
from skumatch.params import RuntimeParams


def prepare(runtime: RuntimeParams) -> torch.device:
    """Set the number of torch's threads for this process and return its device.

    Raises:
        ParameterError: `runtime` names a GPU and there is none.
    """
    torch.set_num_threads(runtime.threads or cores())
    _keep_freed_memory()
    cuda = torch.cuda.is_available()
    if runtime.device == "cuda" and not cuda:
        raise ParameterError(
            "runtime.device is cuda but PyTorch finds no GPU here; "
            "set it to auto or cpu, or install a CUDA build of PyTorch."
        )
    return torch.device("cuda" if cuda and runtime.device != "cpu" else "cpu")


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory, instead of returning it to the kernel after each layer.

    The kernel would have to zero the memory again for the next layer. With this, embedding on a CPU takes
    half the time and training three quarters. With another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no allocation gets a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: so many bytes may stay unused


def autocast(device: torch.device) -> torch.autocast:
    """Return the autocast for towers: bfloat16 on a GPU; float32 on a CPU, where bfloat16 is slower."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def workers(runtime: RuntimeParams, device: torch.device, augmented: bool = False) -> int:
    """Return the number of worker processes that prepare pictures.

    `runtime.workers` decides if it is set. A GPU gets up to 16. On a CPU one process prepares augmented
    pictures if torch has more than one thread. Plain decoding takes a thirtieth of an encoder's time on a
    CPU, so a process for it doesn't pay.

    Args:
        runtime: The setting.
        device: The encoder's device.
        augmented: True if the pictures are augmented.
    """
    if runtime.workers is not None:
        return runtime.workers
    if device.type == "cuda":
        return min(16, max(1, cores() - 1))
    return int(augmented and torch.get_num_threads() > 1)


def ignore_sigterm(_: int) -> None:
    """Make a worker process ignore SIGTERM.

    The signal goes to the whole process group. The main process handles it, and its workers end with it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
