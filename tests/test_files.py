from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skumatch.errors import DataError, StorageError
from skumatch.files import (
    canonical_json,
    check_writable,
    disk_errors,
    file_system,
    read_json,
    replacing,
    sha256,
    text_errors,
    write_json,
    write_private,
    write_text,
)


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
    with (
        pytest.raises(StorageError, match=r"in this test: No space left on device \(x\); free some space"),
        disk_errors("this test"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")


def test_an_error_that_is_not_the_disk_s_stays_what_it_is() -> None:
    with pytest.raises(FileNotFoundError), disk_errors("this test"):
        Path("/no/such/file").read_text()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda: "caf\udce9".encode(), r"A name or text in this test can't be encoded: 'caf\\udce9'; rename"),
        (lambda: "søren".encode("ascii"), r"can't be encoded: 's\\xf8ren'; rename or correct it"),
        (lambda: b"caf\xe9 noir".decode(), r"text in this test isn't utf-8: b'caf\\xe9 noir'; save it"),
        (lambda: f"{'a' * 64}.org".encode("idna"), r"can't be encoded \(.*label.*\); rename"),
    ],
)
def test_a_text_that_has_no_encoding_is_met_with_a_sentence(fault: Callable[[], object], words: str) -> None:
    with pytest.raises(DataError, match=words), text_errors("this test"):
        fault()


@pytest.mark.parametrize("name", ["a::b", "~", "a*?[x]", "%20 #1", "søren", "memory:x"])
def test_every_character_of_a_path_is_its_own(tmp_path: Path, name: str) -> None:
    fs, root = file_system(f"{tmp_path}/{name}/")
    fs.makedirs(root)
    fs.pipe_file(f"{root}/x", b"1")
    assert (tmp_path / name / "x").read_bytes() == b"1" and root == f"{tmp_path}/{name}"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_url_names_a_file_system(tmp_path: Path) -> None:
    fs, root = file_system("memory://bucket/folder/")
    assert fs.protocol == "memory" and root == "/bucket/folder"


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


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut after the rename could leave an empty file under its final name."""
    steps: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        steps.append((f"renamed to {target.name}", self.stat().st_size))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_text(tmp_path / "text", "twelve bytes")
    assert steps == [("fsync", 12), ("renamed to text", 12)]


def test_a_private_file_is_its_owners_from_the_first_byte_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, seen = tmp_path / "secret", list[int]()
    write_text(path, "an older one, for all to read")
    write = Path.write_text

    def watched(self: Path, *words: str) -> int:
        seen.append(self.stat().st_mode & 0o777)
        return write(self, *words)

    monkeypatch.setattr(Path, "write_text", watched)
    write_private(path, "hush")
    assert seen == [0o600] and path.stat().st_mode & 0o777 == 0o600 and path.read_text() == "hush"


def test_a_place_is_tried_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "new/folder/file.json", tmp_path / "file", tmp_path / ("é" * 120)):
        check_writable(path)
    refused = [tmp_path, tmp_path / "file/x", tmp_path / "pipe", tmp_path / ("é" * 130)]
    for path in [
        *refused,
        tmp_path / ("x" * 300) / "x.json",
        Path("/proc/x"),
        Path("/dev/full"),
        Path("/dev/new"),
    ]:
        with pytest.raises(StorageError, match="can't be written"):
            check_writable(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_the_longest_name_of_a_file_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 250 + ".json", "é" * 127, "x." + "y" * 253):
        write_text(tmp_path / name, "text")
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(DataError, match=r"No file can be called .*: that is too long"), disk_errors("a test"):
        (tmp_path / ("x" * 300)).stat()
