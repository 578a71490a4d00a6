"""A small world for clean-ups: one run that was refused, then one that is registered.

A copy of it all for each test.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port, make_project, serving_mlflow
from tests.pipeline.home import Home
from tests.pipeline.test_tasks import shapes
from tests.pipeline.world import FLOOR, NAMED, World, settings_of


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Not to be changed."""
    root = tmp_path_factory.mktemp("cleaned")
    with serving_mlflow(tmp_path_factory.mktemp("cleaned-mlflow"), free_port()) as url:
        home = Home(make_project(root / "project"), root / "home", root / "remote", url)
        imported = home.command("data", "import", str(shapes(root / "delivery")))
        assert imported.returncode == 0, imported.stderr
        refused = home.stages(home.pull("refused", *FLOOR))
        assert home.task(refused, "register")["version"] is None
        assert (
            home.task(home.stages(home.pull("first", NAMED, "encoder.resize=pad")), "register")["version"]
            == 1
        )
        yield World(root, home, settings_of(home), refused["lock"])


@pytest.fixture
def world(original: World, tmp_path: Path) -> World:
    """A copy to clean up."""
    root = shutil.copytree(original.root, tmp_path / "world", symlinks=True)
    home = Home(root / "project", root / "home", root / "remote", original.mlflow)
    return World(root, home, settings_of(home), original.refused_lock)


@pytest.fixture(scope="session")
def other_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that nobody ever used."""
    with serving_mlflow(tmp_path_factory.mktemp("other-mlflow"), free_port()) as url:
        yield url
