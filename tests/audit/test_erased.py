"""Parts missing in an audit because of an erasure, and parts missing for no such reason."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from skumatch.audit.collect import Erased, _fetch
from skumatch.audit.link import Broken
from skumatch.errors import StorageError
from skumatch.pipeline.erasure_record import EraseChange, Erasure, Erasures

WHEN = datetime(2026, 11, 30, tzinfo=UTC)
ERASURE = Erasure(
    begun=WHEN,
    who="bob",
    changes=[EraseChange(after="v2", who="ann", when=WHEN, why="a request")],
    pictures=["p"],
    data={"v1": ["a"]},
    objects=["a", "b"],
    versions=[],
    vectors=[],
    artifacts=[],
)


class Remote:
    """A repository whose remote lacks some objects."""

    def __init__(self, *lacking: str) -> None:
        self.lacking = list(lacking)

    def pull(self, *_targets: str) -> None:
        raise StorageError("it can't be fetched")

    def amiss(self, *_targets: str) -> list[str]:
        return self.lacking


def fetch(*lacking: str) -> None:
    remote: Any = Remote(*lacking)
    _fetch(remote, Erasures({"one": ERASURE}), "data.dvc")


def test_what_the_record_covers_was_erased() -> None:
    with pytest.raises(Erased, match="^erased on 2026-11-30 by bob, because: a request$"):
        fetch("b", "a")


def test_what_the_record_does_not_cover_is_broken_and_named_alone() -> None:
    with pytest.raises(Broken, match="gone or changed in it: c$"):
        fetch("a", "c")
    with pytest.raises(Broken, match="gone or changed in it: c$"):
        fetch("c")


def test_a_remote_that_lacks_nothing_could_not_be_read() -> None:
    with pytest.raises(StorageError, match="it can't be fetched"):
        fetch()
