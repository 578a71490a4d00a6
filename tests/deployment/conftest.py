"""One deployment for all its tests."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from skumatch.servers.follow import follow
from skumatch.servers.summary import render_summary
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
        running = Deployment(stack, gate, project)
        done = running.command("data", "import", str(photos))
        assert done.returncode == 0, done.stderr
        commit(project, "Data")
        yield running
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def undisturbed(deployment: Deployment) -> str:
    """The bundle of a run that nothing disturbs.

    Its stages went where their queues are served, by two machines that share no folder.
    """
    with deployment.run("undisturbed", queues=("default", "gpu")) as run:
        assert run.ended() == "success", run.words()
        where = run.places()
        assert {task for task, worker in where.items() if worker == "two"} == {
            "frozen",
            "train",
            "embed",
        } and where["register"] == "one"
        Console(width=160).print(
            render_summary(follow(deployment.stack.settings, run.id, Console(file=io.StringIO())))
        )
        return run.bundle()
