from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from skumatch.errors import StorageError
from skumatch.files import canonical_json, disk_errors, read_json, replacing, sha256, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_json(path, {"a": 1})
    with pytest.raises(StorageError, match=r"kept\.json: No space left"), replacing(path) as aside:
        aside.write_text("half")
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyError), replacing(path) as aside:
        aside.write_text("half")
        raise KeyError
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["kept.json"]


def test_a_full_disk_is_met_with_a_sentence() -> None:
    with pytest.raises(StorageError, match=r"in this test: No space left on device \(x\); free some space"), disk_errors("this test"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")


def test_an_error_that_is_not_the_disk_s_stays_what_it_is() -> None:
    with pytest.raises(FileNotFoundError), disk_errors("this test"):
        Path("/no/such/file").read_text()


def test_readers_see_the_old_or_the_new_text_only(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new" and os.stat(path).st_mode & 0o777 == 0o644  # noqa: PTH116


def test_one_value_has_one_text() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
