from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from skumatch.errors import Fenced, StorageError
from skumatch.model.checkpoint import Checkpoints

TENSORS = {"a/weight": torch.arange(6.0).view(2, 3), "a/count": torch.tensor(3)}


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "remote") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def files(checkpoints: Checkpoints, pattern: str) -> list[str]:
    return sorted(str(path) for path in checkpoints.fs.glob(f"{checkpoints.folder}/{pattern}"))


def test_nothing_saved_is_none(url: str) -> None:
    assert Checkpoints(url, "k").latest() is None


def test_the_next_attempt_reads_what_the_last_one_saved(url: str) -> None:
    first = Checkpoints(url, "k")
    first.save(5, TENSORS, {"history": [{"loss": 0.1}]})
    second = Checkpoints(url, "k")
    checkpoint = second.latest()
    assert checkpoint is not None and (checkpoint.step, checkpoint.meta) == (5, {"history": [{"loss": 0.1}]})
    assert all(checkpoint.tensors[name].equal(tensor) for name, tensor in TENSORS.items())
    assert (first.attempt, second.attempt) == (1, 2)
    assert Checkpoints(url, "other").latest() is None


def test_two_generations_are_kept(url: str) -> None:
    checkpoints = Checkpoints(url, "k")
    for step in (5, 10, 15):
        checkpoints.save(step, TENSORS, {})
    assert [Path(path).name for path in files(checkpoints, "*.safetensors")] == [
        "00000010-0001.safetensors",
        "00000015-0001.safetensors",
    ]
    assert not files(checkpoints, "*.part")


def test_the_next_one_is_due_after_its_time_or_twenty_times_the_last_one_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("skumatch.model.checkpoint.time.monotonic", lambda: now[0])
    checkpoints = Checkpoints(str(tmp_path), "k", seconds=60)
    now[0] = 159.0
    assert not checkpoints.due()
    now[0] = 160.0
    assert checkpoints.due()
    put = checkpoints._put

    def slow(name: str, data: bytes) -> None:
        now[0] += 5.0  # the tensors, then the facts
        put(name, data)

    monkeypatch.setattr(checkpoints, "_put", slow)
    checkpoints.save(5, TENSORS, {})
    now[0] = 170.0 + 199.0
    assert not checkpoints.due()
    now[0] = 170.0 + 200.0
    assert checkpoints.due()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "torn-json"])
def test_a_damaged_checkpoint_falls_back_a_generation_and_says_so(
    url: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(url, "k")
    checkpoints.save(5, TENSORS, {})
    checkpoints.save(10, TENSORS, {})
    path = files(checkpoints, "*10-*.json" if damage == "torn-json" else "*10-*.safetensors")[0]
    data = checkpoints.fs.cat_file(path)
    if damage == "remove":
        checkpoints.fs.rm_file(path)
    else:
        checkpoints.fs.pipe_file(path, data[:-9] + b"x" * 9 if damage == "flip" else data[:9])
    checkpoint = Checkpoints(url, "k").latest()
    assert checkpoint is not None and checkpoint.step == 5
    assert "00000010-0001 is damaged" in capsys.readouterr().err


def test_tensors_without_their_json_are_no_checkpoint(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(url, "k")
    checkpoints.save(5, TENSORS, {})
    checkpoints.save(10, TENSORS, {})
    checkpoints.fs.rm_file(files(checkpoints, "*10-*.json")[0])  # killed between the two files
    resumed = Checkpoints(url, "k")
    checkpoint = resumed.latest()
    assert checkpoint is not None and checkpoint.step == 5
    assert capsys.readouterr().err == ""
    resumed.save(10, TENSORS, {})
    assert len(files(resumed, "*.safetensors")) == 2


def test_an_attempt_that_was_taken_over_is_refused_and_changes_nothing(url: str) -> None:
    first = Checkpoints(url, "k")
    first.save(5, TENSORS, {})
    second = Checkpoints(url, "k")
    before = files(second, "*")
    with pytest.raises(Fenced, match="Attempt 2 of this training took over"):
        first.save(10, TENSORS, {})
    assert files(second, "*") == before
    second.save(10, TENSORS, {})


def test_an_attempt_taken_over_during_its_upload_commits_nothing(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An upload may take minutes, in which another attempt may have begun."""
    first = Checkpoints(url, "k")
    first.save(5, TENSORS, {})
    put = first._put

    def slow(name: str, data: bytes) -> None:
        put(name, data)
        if name.endswith(".safetensors"):
            Checkpoints(url, "k")

    monkeypatch.setattr(first, "_put", slow)
    with pytest.raises(Fenced, match="Attempt 2 of this training took over"):
        first.save(10, TENSORS, {})
    checkpoint = Checkpoints(url, "k").latest()
    assert checkpoint is not None and checkpoint.step == 5
    assert [Path(path).name for path in files(first, "*-*.json")] == ["00000005-0001.json"]


def test_a_save_killed_at_any_write_leaves_a_whole_checkpoint(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in the midst of each write or rename in turn, it leaves no partial file under its final name."""
    ended = False
    for at in range(1, 9):
        key = f"killed-{at}"
        checkpoints = Checkpoints(url, key)
        checkpoints.save(5, TENSORS, {})
        with monkeypatch.context() as patch:
            calls = dying(checkpoints, at, patch)
            try:
                checkpoints.save(10, TENSORS, {})
                ended = True
            except KeyboardInterrupt:
                assert len(calls) == at
        checkpoint = Checkpoints(url, key).latest()
        assert checkpoint is not None and checkpoint.step in ({10} if ended else {5, 10})
        assert capsys.readouterr().err == "", "nothing was damaged"
        if ended:
            break
    assert ended and at > 3


def dying(checkpoints: Checkpoints, at: int, patch: pytest.MonkeyPatch) -> list[str]:
    """The process is killed in its `at`-th write or rename: a write is half done, a rename not at all."""
    calls: list[str] = []
    write, move = checkpoints.fs.pipe_file, checkpoints.fs.mv

    def pipe_file(path: str, data: bytes) -> None:
        calls.append(path)
        write(path, data if len(calls) < at else data[: len(data) // 2])
        if len(calls) == at:
            raise KeyboardInterrupt

    def mv(*words: str) -> None:
        calls.append(words[0])
        if len(calls) == at:
            raise KeyboardInterrupt
        move(*words)

    patch.setattr(checkpoints.fs, "pipe_file", pipe_file)
    patch.setattr(checkpoints.fs, "mv", mv)
    return calls


def test_a_storage_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="can't be read or written"):
        Checkpoints(str(tmp_path / "remote"), "k")


def test_same_bytes_for_same_state(url: str) -> None:
    hashes = []
    for key in ("k", "l"):
        checkpoints = Checkpoints(url, key)
        checkpoints.save(5, TENSORS, {})
        hashes.append(fsspec.utils.tokenize(checkpoints.fs.cat_file(files(checkpoints, "*.safetensors")[0])))
    assert hashes[0] == hashes[1]


def test_any_changed_byte_of_the_facts_is_noticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "k")
    checkpoints.save(5, TENSORS, {"history": [{"loss": 0.1}]})
    checkpoints.save(10, TENSORS, {"history": [{"loss": 0.2}]})
    (path,) = (Path(p) for p in files(checkpoints, "*10-*.json"))
    whole, newest = path.read_bytes(), files(checkpoints, "*10-*.safetensors")[0]
    tensors = Path(newest).read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        Path(newest).write_bytes(tensors)
        checkpoint = checkpoints.latest()
        assert checkpoint is not None
        assert checkpoint.step == 5 or (
            checkpoint.meta == {"history": [{"loss": 0.2}]} and checkpoint.step == 10
        )  # white space may differ


def test_a_flipped_byte_or_a_cut_anywhere_falls_back_a_generation(tmp_path: Path) -> None:
    checkpoints, tensors = (
        Checkpoints(str(tmp_path), "k"),
        {"weight": torch.arange(999.0), "count": torch.tensor(3)},
    )
    checkpoints.save(5, TENSORS, {})
    checkpoints.save(10, tensors, {})
    path = Path(files(checkpoints, "*10-*.safetensors")[0])
    whole, facts = path.read_bytes(), path.with_suffix(".json").read_bytes()
    draws = np.random.default_rng(7)
    places = np.linspace(0, len(whole) - 1, 500).astype(int).tolist()
    flips = [
        (place, whole[:place] + bytes([whole[place] ^ (1 << int(bit))]) + whole[place + 1 :])
        for place, bit in zip(places, draws.integers(0, 8, 500), strict=True)
    ]
    cuts = [(length, whole[:length]) for length in np.linspace(0, len(whole) - 1, 100).astype(int).tolist()]
    for place, damaged in flips + cuts:
        path.with_suffix(".json").write_bytes(facts)
        path.write_bytes(damaged)
        checkpoint = checkpoints.latest()
        assert checkpoint is not None and checkpoint.step == 5, place
    path.with_suffix(".json").write_bytes(facts)
    path.write_bytes(whole)
    assert (checkpoint := checkpoints.latest()) is not None and checkpoint.step == 10


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"{}"])
def test_a_damaged_owner_does_not_keep_the_next_attempt_out(tmp_path: Path, text: bytes) -> None:
    first = Checkpoints(str(tmp_path), "k")
    first.save(5, TENSORS, {})
    (tmp_path / "checkpoints/k/owner.json").write_bytes(text)
    second = Checkpoints(str(tmp_path), "k")
    assert (checkpoint := second.latest()) is not None and checkpoint.step == 5
    with pytest.raises(Fenced):
        first.save(10, TENSORS, {})


def test_an_object_store_that_is_away_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore's errors are no OSError, as a disk's are."""
    exceptions = pytest.importorskip("botocore.exceptions")

    def away(*_: object, **__: object) -> None:
        raise exceptions.EndpointConnectionError(endpoint_url="http://store:8333")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.makedirs", away)
    with pytest.raises(StorageError, match="Could not connect to the endpoint"):
        Checkpoints(str(tmp_path), "k")
