"""The `skumatch` command as a user types it, in a project of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, make_project
from tests.warm import python

NOWHERE = "http://127.0.0.1:9"  # a port that nobody listens on


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code and its output."""

    code: int
    out: str
    err: str


class Cli:
    """`python -m MODULE WORDS` in `project`; its home is beside it, MLflow is away unless given."""

    def __init__(self, project: Path, home: Path, mlflow: str = NOWHERE, module: str = "skumatch") -> None:
        self.project, self.home, self.mlflow, self.module = project, home, mlflow, module

    @classmethod
    def make(cls, root: Path, mlflow: str = NOWHERE) -> Cli:
        return cls(make_project(root / "project"), root / "home", mlflow)

    def __call__(self, *words: str | Path, **places: object) -> Ended:
        """Run to the end; `places` are settings for this call, for example remote=..."""
        options = {"project": self.project, "home": self.home, "mlflow": self.mlflow} | places
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SKUMATCH_")}
        env = (
            kept
            | {"COLUMNS": "200"}
            | {f"SKUMATCH_{name.upper()}": str(value) for name, value in options.items() if value is not None}
        )
        if self.module != "skumatch":  # it isn't installed
            env["PYTHONPATH"] = str(ROOT)
        command = [python(), "-m", self.module, *map(str, words)]
        done = subprocess.run(command, cwd=self.project, env=env, capture_output=True, text=True, check=False)
        return Ended(done.returncode, done.stdout, done.stderr)

    def files(self) -> dict[str, str]:
        """Every file of the project with its hash, but for logs and git's, DVC's and Python's own."""
        files = (path for path in self.project.rglob("*") if path.is_file())
        kept = (path for path in files if not {".git", "__pycache__", "log"} & set(path.parts))
        paths = [path for path in kept if not path.is_relative_to(self.project / ".dvc/tmp")]
        names = [str(path.relative_to(self.project)) for path in paths]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        return dict(zip(names, digests, strict=True))

    def refuses(self, code: int, phrase: str, *words: str | Path, **places: object) -> None:
        """Assert that the command exits with `code` and a sentence that has `phrase`, and changes no file."""
        before = self.files()
        ended = self(*words, **places)
        assert ended.code == code, ended
        assert ended.err.startswith("✗ "), ended.err
        assert ended.err.count("\n") == 1, ended.err
        assert phrase in ended.err, ended.err
        assert ended.err.rstrip().endswith((".", ".)")) and len(ended.err) > 40, ended.err
        assert "Traceback" not in ended.out
        assert self.files() == before
