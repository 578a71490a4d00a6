"""Checks of the installation: Python and its packages, the project's parameters and pipeline, secrets."""

from __future__ import annotations

import platform
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import skumatch
from skumatch.config import load_params
from skumatch.doctor.finding import Place, Problem
from skumatch.lineage.provenance import check_signing_key
from skumatch.params import STAGES
from skumatch.pipeline.inputs import read_code

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
        more = f" and {len(differing) - FEW} more" if len(differing) > FEW else ""
        raise Problem(
            f"{', '.join(differing[:FEW])}{more}",
            f"Install with -c {LOCK}, or build the image again.",
            "warning",
        )
    versions = f"skumatch {skumatch.__version__}, Python {platform.python_version()}"
    return f"{versions}, {len(installed)} packages as {LOCK} has them"


def _check_needs(project: Path) -> None:
    """Raise Problem for another Python or skumatch than in pyproject.toml, and for a missing package."""
    declared = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    if platform.python_version() not in SpecifierSet(declared["requires-python"], prereleases=True):
        fault = (
            f"this is Python {platform.python_version()}, and skumatch wants {declared['requires-python']}"
        )
        raise Problem(fault, "Make the environment again with another: `make env PYTHON=python3.11`.")
    if skumatch.__version__ != declared["version"]:
        fault = f"the installed skumatch is {skumatch.__version__}, the project's is {declared['version']}"
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
    return f"{params.encoder.model}, {params.train.epochs} epochs; models named {params.release.model_name}"


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
    return f"{len(names)} stages"


def code(place: Place) -> str:
    """Check that the code is a commit's. Raises CodeError if git refuses, as every run then does."""
    state = read_code(place.settings.project)
    if state.trouble:
        raise Problem(f"it {state.trouble.found}", state.trouble.cure, "warning")
    assert state.commit, "without a commit there is trouble"
    return f"commit {state.commit[:12]}"


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
