"""This machine: packages, project, secrets, disk, GPU."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

from skumatch.doctor.finding import Place, Problem
from skumatch.pipeline.inputs import describe_code

GIB = 2**30
LEAST_GIB = 5.0
COPIES = 2.0  # of the data that a machine keeps: its cache, and a run's workspace that is linked to it, with results


def packages(place: Place) -> str:
    """Whether what is installed is what requirements/constraints.txt names: workers that differ make different models."""
    path = place.settings.project / "requirements/constraints.txt"
    if not path.is_file():
        raise Problem(f"there is no {path}", "Run this in the project's folder, or set SKUMATCH_PROJECT.")
    pins = [Requirement(line) for line in path.read_text("utf-8").splitlines() if "==" in line]
    installed = [(pin, there) for pin in pins if (pin.marker is None or pin.marker.evaluate()) and (there := _version(pin.name))]
    other = [
        f"{pin.name} {there} instead of {pin.specifier}" for pin, there in installed if not pin.specifier.contains(there.split("+")[0])
    ]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise Problem(f"{', '.join(other[:3])}{more}", "Install with -c requirements/constraints.txt, or build the image again.", "warning")
    return f"{len(installed)} packages as requirements/constraints.txt has them"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def project(place: Place) -> str:
    """Whether the code is a commit's, and there is data to train on."""
    code, data = describe_code(place.settings.project), place.settings.project / "data.dvc"
    if not data.is_file():
        raise Problem(
            "there is no data yet (data.dvc)", "Import some with `skumatch data import`, or pull the commit that has it.", "warning"
        )
    if code["commit"] is None:
        raise Problem("the code is under no git commit", "Commit it, or no model of it can be promoted.", "warning")
    if code["dirty"]:
        raise Problem("the code has uncommitted changes", "Commit them, or no model of it can be promoted.", "warning")
    return f"commit {code['commit'][:12]}, data {pointed(place)['md5'][:12]}"


def secrets(place: Place) -> str:
    """Whether files with passwords and keys are for their owner only."""
    settings = place.settings
    known = [settings.passwords_file, settings.home_dir / "airflow.secret", settings.signing_key, settings.project / "docker/secrets"]
    there = [path for path in known if path and path.exists()]
    if opened := [path for path in there if path.stat().st_mode & 0o077]:
        raise Problem(f"others can read {opened[0]}", f"Close it: chmod go= {opened[0]}", "warning")
    return f"{len(there)} for their owner only" if there else "none here"


def disk(place: Place) -> str:
    """Whether the home has room for the data of a run."""
    home = place.settings.home_dir
    free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free / GIB
    size = pointed(place).get("size", 0) / GIB
    needed = max(LEAST_GIB, COPIES * size)
    if free < needed:
        fix = "Clean up with `skumatch gc`, or set SKUMATCH_HOME to a larger disk."
        raise Problem(f"{free:.1f} GB free in {home}; a run wants {needed:.1f}", fix, "warning")
    return f"{free:,.0f} GB free in {home}"


def pointed(place: Place) -> dict[str, Any]:
    """What data.dvc says of the data: md5, size; empty where there is none."""
    path = place.settings.project / "data.dvc"
    return dict(yaml.safe_load(path.read_text("utf-8"))["outs"][0]) if path.is_file() else {}


def gpu(place: Place) -> str:
    """Whether PyTorch can use the GPU that params.yaml wants."""
    import torch  # takes seconds, so only here

    wanted, there = place.params.runtime.device, torch.cuda.is_available()
    driver = Path("/proc/driver/nvidia/version")
    if there:
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    built = torch.version.cuda or "no CUDA"
    if wanted == "cuda":
        raise Problem(
            f"runtime.device is cuda, and PyTorch (built for {built}) finds no GPU", "Install a driver, a CUDA build of PyTorch, or both."
        )
    if driver.is_file():
        raise Problem(
            f"there is an NVIDIA driver, but PyTorch is built for {built}", "Install EXTRA=gpu, or the image VARIANT=gpu.", "warning"
        )
    return "none; the work is the CPU's"
