"""One deployment for all its tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import commit
from tests.deployment.gate import gated
from tests.deployment.runs import Deployment, make
from tests.deployment.stack import MISSING, deployed


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}; on Debian: apt install postgresql redis-server")
    root = Path(tempfile.mkdtemp(prefix="skumatch-"))
    root.chmod(0o755)  # Postgres is another user
    project, photos = make(root)
    with deployed(root, project) as stack, gated(stack.ports["gate"], stack.ports["store"]) as gate:
        found = Deployment(stack, gate, project)
        done = found.command("data", "import", str(photos))
        assert done.returncode == 0, done.stderr
        commit(project, "Data")
        yield found
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def undisturbed(deployment: Deployment) -> str:
    """The bundle that a run makes which nothing disturbs."""
    with deployment.run("undisturbed") as run:
        assert run.ended() == "success", run.words()
        return run.bundle()
