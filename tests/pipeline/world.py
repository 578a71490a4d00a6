"""The world of a clean-up's tests: its places, and the hash of every file in it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from skumatch.cleanup.cleanup import DAY, Limits
from skumatch.config import Settings
from skumatch.registry.registry import Registry
from tests.pipeline.home import Home

FUTURE = Limits(age=7, keep_runs=90, now=time.time() + 400 * DAY)
MODEL = "cleaned"
NAMED = f"release.model_name={MODEL}"
FLOOR = (NAMED, "encoder.resize=squash", "gate.floor_top1=0.99")


@dataclass(frozen=True)
class World:
    root: Path
    home: Home
    settings: Settings
    refused_lock: str
    model: str = MODEL

    @property
    def remote(self) -> Path:
        return self.home.remote

    @property
    def mlflow(self) -> str:
        return self.home.mlflow

    @property
    def registry(self) -> Registry:
        return Registry(self.mlflow, MODEL, self.root / "locks")

    def remote_files(self) -> list[str]:
        return [path.relative_to(self.remote).as_posix() for path in self.remote.rglob("*") if path.is_file()]


def hashes(folder: Path) -> dict[str, str]:
    """Every file below with its hash; a link with where it leads."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file())
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if not {".git", "__pycache__"} & set(path.parts)
    }


def settings_of(home: Home) -> Settings:
    return Settings(project=home.project, home=home.home, remote=str(home.remote), mlflow=home.mlflow)
