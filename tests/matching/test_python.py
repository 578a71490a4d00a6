"""The lines of Python in the documents work as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import draw

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/matching.md"


def test_a_bundle_matches_in_a_few_lines_without_mlflow_or_a_project(
    bundle_folder: Path, tmp_path: Path
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    code = next(block for block in blocks if "Bundle" in block)
    shutil.copytree(bundle_folder, tmp_path / "bundle")
    draw(tmp_path / "photo.jpg", "sku 4")
    code = "import sys\nsys.modules['mlflow'] = None\n" + code
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].startswith("sku 4 ") and len(ended.stdout.splitlines()) == 3
