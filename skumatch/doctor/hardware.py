"""This machine: room on its disk, and its GPU."""

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
# Of the data that a machine keeps: its cache, and a run's workspace that is linked to it, with results.
COPIES = 2.0
DRIVER = Path("/proc/driver/nvidia/version")
WITH_CUDA = "Install a CUDA build of PyTorch (EXTRA=gpu, or the image VARIANT=gpu)"


def disk(place: Place) -> str:
    """Whether the home has room for the data of a run, in bytes and in files."""
    home = place.settings.home_dir
    there = next(path for path in (home, *home.parents) if path.exists())
    free, system = shutil.disk_usage(there).free / GIB, os.statvfs(there)
    needed = max(LEAST_GIB, COPIES * pointed(place).get("size", 0) / GIB)
    fix = "Clean up with `skumatch gc`, or set SKUMATCH_HOME to a larger disk."
    if free < needed:
        raise Problem(f"{free:.1f} GiB free in {home}; a run wants {needed:.1f}", fix, "warning")
    if system.f_files and system.f_favail < LEAST_FILES:  # some file systems count none
        raise Problem(
            f"room for {system.f_favail:,} more files in {home}; a run wants {LEAST_FILES:,}", fix, "warning"
        )
    return f"{free:,.0f} GiB free in {home}"


def gpu(place: Place) -> str:
    """Whether PyTorch can use the GPU that params.yaml wants."""
    wanted = place.params.runtime.device
    if wanted == "cpu":
        return "not wanted (runtime.device is cpu)"
    import torch  # takes seconds

    with warnings.catch_warnings(
        record=True
    ) as said:  # why there is none, for example a driver that is too old
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    why = " ".join(str(said[0].message).split())[:200] if said else ""
    return _usable(torch) if there else _missing(torch.version.cuda, wanted, why)


def _usable(torch: Any) -> str:
    """The cards and their driver.

    Raises Problem for one that this PyTorch has no code for, or that can't add.
    """
    arches = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        capability, name = torch.cuda.get_device_capability(number), torch.cuda.get_device_name(number)
        if not runs_on(capability, arches):
            found = f"{name} is of architecture {capability[0]}.{capability[1]}; PyTorch is compiled for {', '.join(arches)}"
            raise Problem(found, "Install a PyTorch that is compiled for it.")
        try:
            torch.ones(2, device=f"cuda:{number}").sum().item()
        except RuntimeError as error:
            raise Problem(
                f"{name} can't compute ({str(error).splitlines()[0]})",
                "See what `nvidia-smi` says; free or reset it.",
            ) from error
    cards = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{cards}, {torch.cuda.mem_get_info()[1] / GIB:.0f} GiB, CUDA {torch.version.cuda}, driver {_driver() or 'unknown'}"


def runs_on(capability: tuple[int, int], arches: list[str]) -> bool:
    """Whether code for `arches` (sm_80: machine code, compute_90: translated when it starts) runs on a card of that capability."""
    for kind, major, minor in (
        found.groups() for arch in arches if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", arch))
    ):
        compiled = int(major), int(minor)
        if compiled <= capability and (kind == "compute" or compiled[0] == capability[0]):
            return True
    return False


def _missing(built: str | None, wanted: str, why: str) -> str:
    """That there is no GPU, where nobody expects one; raises Problem otherwise."""
    driver, pytorch = _driver(), f"PyTorch, built for {f'CUDA {built}' if built else 'the CPU only'},"
    reason = f" ({why})" if why else ""
    fix = (
        f"{WITH_CUDA}."
        if built is None
        else "Install or update NVIDIA's driver, or give the container its GPU (docker/gpu.yaml)."
    )
    if wanted == "cuda":
        raise Problem(f"runtime.device is cuda, and {pytorch} finds no GPU{reason}", fix)
    if driver:
        raise Problem(
            f"there is NVIDIA's driver {driver}, but {pytorch} finds no GPU{reason}", fix, "warning"
        )
    return "none; the work is the CPU's"


def _driver() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", DRIVER.read_text("utf-8")) if DRIVER.is_file() else None
    return found[1] if found else None
