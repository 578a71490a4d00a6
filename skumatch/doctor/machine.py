"""Checks of this machine and of what is installed on it: packages, project files, secrets, disk and GPU."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tomllib
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from skumatch.config import load_params
from skumatch.doctor.finding import Place, Problem
from skumatch.doctor.storage import pointed
from skumatch.lineage.provenance import check_signing_key
from skumatch.params import STAGES
from skumatch.pipeline.inputs import read_code
from skumatch.texts import counted, first_of
from skumatch.version import VERSION

LOCK = "requirements/constraints.txt"
FEW = 3  # most packages that a sentence names
ELSEWHERE = "Run this in the project's folder, or set SKUMATCH_PROJECT."


def packages(place: Place) -> str:
    """Check that Python and the installed packages are those of the project's lock.

    Workers with different packages train different models.
    """
    lock = place.settings.project / LOCK
    if not lock.is_file():
        raise Problem(f"there is no {lock}", ELSEWHERE)
    _check_needs(place.settings.project)
    pins = [Requirement(line) for line in lock.read_text("utf-8").splitlines() if "==" in line]
    installed = [(pin, present) for pin in pins if _applies(pin) and (present := _version(pin.name))]
    differing = [
        f"{pin.name} {present} ({LOCK}: {str(pin.specifier)[2:]})"
        for pin, present in installed
        if not _is(pin, present)
    ]
    if differing:
        raise Problem(
            first_of(differing, FEW),
            f"Install with -c {LOCK}, or build the image again.",
            "warning",
        )
    versions = f"skumatch {VERSION}, Python {platform.python_version()}"
    return f"{versions}, {counted(len(installed), 'package')} as {LOCK} says"


def _check_needs(project: Path) -> None:
    """Raise Problem for another Python or skumatch than in pyproject.toml, and for a missing package.

    A project that `skumatch init` laid out has no pyproject.toml; pip checked these at the installation.
    """
    if not (project / "pyproject.toml").is_file():
        return
    declared = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    if platform.python_version() not in SpecifierSet(declared["requires-python"], prereleases=True):
        fault = (
            f"this is Python {platform.python_version()}, and skumatch wants {declared['requires-python']}"
        )
        raise Problem(fault, "Make the environment again with another: `make env PYTHON=python3.11`.")
    if declared["version"] != VERSION:
        fault = f"the installed skumatch is {VERSION}, the project's is {declared['version']}"
        raise Problem(fault, "Install the project, or build the image again.", "warning")
    needs = [Requirement(line) for line in declared["dependencies"]]
    if lacking := [need.name for need in needs if _applies(need) and _version(need.name) is None]:
        raise Problem(
            f"not installed: {', '.join(lacking[:FEW])}",
            f"Install the project: pip install -c {LOCK} -e '.[cpu,airflow]'",
        )


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


def _is(pin: Requirement, installed: str) -> bool:
    # 2.13.0+cpu is a build of 2.13.0
    return pin.specifier.contains(installed.split("+")[0], prereleases=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def parameters(place: Place) -> str:
    """Check that params.yaml can be used. Raises ParameterError, as every command does."""
    params = load_params(place.settings.project / "params.yaml")
    training = f"{params.encoder.model}, {counted(params.train.epochs, 'epoch')}"
    return f"{training}; models named {params.release.model_name}"


def pipeline(place: Place) -> str:
    """Check that dvc.yaml has exactly the stages that this skumatch knows."""
    try:
        tree = yaml.safe_load((place.settings.project / "dvc.yaml").read_text("utf-8"))
        names = list(tree["stages"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise Problem("dvc.yaml can't be read", "Restore it: git checkout -- dvc.yaml") from error
    fix = "Take dvc.yaml and the package from one commit."
    if unknown := [name for name in names if name not in STAGES]:
        raise Problem(f"dvc.yaml has a stage that this skumatch doesn't know: {unknown[0]}", fix)
    if lacking := [name for name in STAGES if name not in names]:
        raise Problem(f"dvc.yaml has no stage {lacking[0]}", fix)
    return counted(len(names), "stage")


def code(place: Place) -> str:
    """Check that the code is a commit's. Raises CodeError if git refuses, as every run then does."""
    state = read_code(place.settings.project)
    if state.trouble:
        raise Problem(f"it {state.trouble.found}", state.trouble.cure, "warning")
    return state.name


def signing_key(place: Place) -> str:
    """Check that the key for provenance can sign. Raises ParameterError, as a run does."""
    path = place.settings.signing_key_file
    keyid = check_signing_key(path)
    return f"{path}, id {keyid[:12]}" if keyid else "none is set: provenance is unsigned"


def secrets(place: Place) -> str:
    """Check that only their owner can access the files with passwords and keys."""
    settings = place.settings
    own = [
        settings.passwords_file,
        settings.home_dir / "airflow.secret",
        settings.project / "docker/secrets",
    ]
    known = [*own, settings.project / ".dvc/config.local", settings.signing_key_file]
    existing = [path for path in known if path and path.exists()]
    if opened := [path for path in existing if path.stat().st_mode & 0o077]:
        raise Problem(
            f"others can read {', '.join(map(str, opened))}",
            f"Close it: chmod go= {' '.join(map(str, opened))}",
            "warning",
        )
    return f"{len(existing)} for their owner only" if existing else "none here"


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
            f"room for {counted(system.f_favail, 'more file')} in {home}; a run wants {LEAST_FILES:,}",
            fix,
            "warning",
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
