"""skumatch's wheel in an environment of its own, which has this one's other packages."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.conftest import ROOT


def build_wheel(folder: Path) -> Path:
    words = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder), str(ROOT))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *words], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Return the Python of a new environment, in which skumatch is the wheel's."""
    venv.create(folder, symlinks=True)
    python, packages = folder / "bin/python", folder / f"lib/python3.{sys.version_info[1]}/site-packages"
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    words = ("install", "--quiet", "--no-deps", "--no-index", str(wheel))
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *words], check=True)
    return python


def skumatch(python: Path, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`skumatch WORDS` of an environment, in a folder."""
    return run(python, folder, "-m", "skumatch", *words, **variables)


def run(python: Path, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in a folder, without variables that lead to another skumatch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SKUMATCH_", "PYTHON"))}
    command = [str(python), *words]
    return subprocess.run(
        command, cwd=folder, env=kept | variables, capture_output=True, text=True, check=False
    )
