"""The import contracts name every forbidden import, wherever somebody plants one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLANTED = {  # a module of the package -> an import that doesn't belong there, and the contract that says so
    "data/split.py": ("import mlflow", "MLflow only"),
    "gate/gate.py": ("import torch", "No torch"),
    "stages/embed.py": ("import dvc.repo", "DVC only"),
    "matching/batch.py": ("from dvc_objects.fs import generic", "DVC only"),
    "data/manifest.py": ("import great_expectations", "Great Expectations only"),
    "servers/follow.py": ("import airflow.sdk", "Airflow stays outside"),
    "report/view.py": ("from benchmarks import gate", "The package knows no benchmark"),
    "errors.py": ("from skumatch import texts", "Imports point one way"),
}


def test_a_planted_import_breaks_its_contract(tmp_path: Path) -> None:
    for name in ("skumatch", "benchmarks", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    for name, (line, _) in PLANTED.items():
        path = tmp_path / "skumatch" / name
        path.write_text(f"{path.read_text('utf-8')}\n{line}\n", "utf-8")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    contracts = dict(re.findall(r"^(.+?) (KEPT|BROKEN)", done.stdout, re.MULTILINE))
    for name, (line, contract) in PLANTED.items():
        broken = [
            title
            for title, verdict in contracts.items()
            if title.startswith(contract) and verdict == "BROKEN"
        ]
        assert broken, f"{line} in {name}\n{done.stdout}"
        module = "skumatch." + name.removesuffix(".py").replace("/", ".")
        assert f"{module} ->" in done.stdout, f"{line} in {name}\n{done.stdout}"
