"""Checks of this machine: free space on its disk, and its GPU."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

from skumatch.doctor.finding import Place, Problem
from skumatch.doctor.storage import pointed

GIB = 2**30
LEAST_GIB = 5.0
LEAST_FILES = 10_000
# Disk space of a run as a multiple of the data's size: its cache, and a linked workspace with results.
COPIES = 2.0
DRIVER = Path("/proc/driver/nvidia/version")
WITH_CUDA = "Install a CUDA build of PyTorch (EXTRA=gpu, or the image VARIANT=gpu)"


def disk(place: Place) -> str:
    """Check that the home's disk has room for the data of a run, in bytes and in number of files."""
    home = place.settings.home_dir
    existing = next(path for path in (home, *home.parents) if path.exists())
    free_gib, system = shutil.disk_usage(existing).free / GIB, os.statvfs(existing)
    needed_gib = max(LEAST_GIB, COPIES * pointed(place).get("size", 0) / GIB)
    fix = "Clean up with `skumatch gc`, or set SKUMATCH_HOME to a larger disk."
    if free_gib < needed_gib:
        raise Problem(f"{free_gib:.1f} GiB free in {home}; a run wants {needed_gib:.1f}", fix, "warning")
    if system.f_files and system.f_favail < LEAST_FILES:  # some file systems report no number of files
        raise Problem(
            f"room for {system.f_favail:,} more files in {home}; a run wants {LEAST_FILES:,}", fix, "warning"
        )
    return f"{free_gib:,.0f} GiB free in {home}"


def gpu(place: Place) -> str:
    """Check that PyTorch can use the GPU that params.yaml asks for."""
    device = place.params.runtime.device
    if device == "cpu":
        return "not wanted (runtime.device is cpu)"
    import torch  # takes seconds

    # PyTorch's warning says why there is no GPU, for example that the driver is too old.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    reason = " ".join(str(caught[0].message).split())[:200] if caught else ""
    return _usable(torch) if available else _missing(torch.version.cuda, device, reason)


def _usable(torch: Any) -> str:
    """Return the cards and their driver in words.

    Raises:
        Problem: PyTorch has no code for a card, or a test addition on it fails.
    """
    arches = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        capability, name = torch.cuda.get_device_capability(number), torch.cuda.get_device_name(number)
        if not runs_on(capability, arches):
            architecture = f"{capability[0]}.{capability[1]}"
            fault = f"{name} is of architecture {architecture}; PyTorch is compiled for {', '.join(arches)}"
            raise Problem(fault, "Install a PyTorch that is compiled for it.")
        try:
            torch.ones(2, device=f"cuda:{number}").sum().item()
        except RuntimeError as error:
            raise Problem(
                f"{name} can't compute ({str(error).splitlines()[0]})",
                "See what `nvidia-smi` says; free or reset it.",
            ) from error
    cards = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    memory_gib = torch.cuda.mem_get_info()[1] / GIB
    return f"{cards}, {memory_gib:.0f} GiB, CUDA {torch.version.cuda}, driver {_driver() or 'unknown'}"


def runs_on(capability: tuple[int, int], arches: list[str]) -> bool:
    """Return True if code that is compiled for some architectures runs on a card.

    Args:
        capability: The card's compute capability, as major and minor number.
        arches: Architectures as PyTorch lists them: sm_80 is machine code, which runs on cards of the same
            major and at least the same minor number; compute_90 is translated when it starts, and runs on
            any card of at least that capability.
    """
    for arch in arches:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", arch)
        if match is None:
            continue
        kind, compiled = match[1], (int(match[2]), int(match[3]))
        if compiled <= capability and (kind == "compute" or compiled[0] == capability[0]):
            return True
    return False


def _missing(cuda: str | None, device: str, reason: str) -> str:
    """Return a sentence that there is no GPU.

    Args:
        cuda: The CUDA version that PyTorch was built for; None for the CPU only.
        device: The parameter `runtime.device`: `cuda` or `auto`.
        reason: PyTorch's explanation; empty if it gave none.

    Raises:
        Problem: The parameter asks for a GPU, or the machine has NVIDIA's driver.
    """
    driver, pytorch = _driver(), f"PyTorch, built for {f'CUDA {cuda}' if cuda else 'the CPU only'},"
    detail = f" ({reason})" if reason else ""
    fix = (
        f"{WITH_CUDA}."
        if cuda is None
        else "Install or update NVIDIA's driver, or give the container its GPU (docker/gpu.yaml)."
    )
    if device == "cuda":
        raise Problem(f"runtime.device is cuda, and {pytorch} finds no GPU{detail}", fix)
    if driver:
        raise Problem(
            f"there is NVIDIA's driver {driver}, but {pytorch} finds no GPU{detail}", fix, "warning"
        )
    return "none; the work is the CPU's"


def _driver() -> str | None:
    """Return the version of NVIDIA's driver; None without a driver."""
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", DRIVER.read_text("utf-8")) if DRIVER.is_file() else None
    return match[1] if match else None
