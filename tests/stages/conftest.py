"""Stages that are called in this process keep checkpoints and vectors in a home of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def home_of_stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKUMATCH_HOME", str(tmp_path_factory.mktemp("home")))
        yield
