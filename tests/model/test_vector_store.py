"""The store of vectors: rows equal computed ones bit by bit, with known rows, kills and damaged files."""

from __future__ import annotations

import errno
import hashlib
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.data.images import Images
from skumatch.errors import StorageError
from skumatch.model import vector_store
from skumatch.model.embed import vectors_of
from skumatch.model.encoder import Encoder, build
from skumatch.model.vector_store import Rows, VectorCounts, VectorStore, embed_once, encoder_key, order_free
from skumatch.params import EncoderParams, RuntimeParams
from tests.code import code_hash
from tests.proving import count

CPU = RuntimeParams(device="cpu", threads=1, workers=0)
BATCH, MACHINE = 4, "Linux x86_64, Some CPU, 2 cores"
SPEC = EncoderParams(model="efficientnet-lite0", weights="none", height=32, width=32)
KEY, OTHER = 64 * "a", 64 * "b"
NAMES = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(6)]
# What decides a vector, and its hash without comments and docstrings, for each CODE_VERSION.
DECIDES = (
    "data/images.py",
    "data/jpeg.py",
    "model/embed.py",
    "model/encoder.py",
    "model/positions.py",
    "model/preprocess.py",
    "model/projection.py",
    "model/runtime.py",
    "model/torchvision_ops.py",
)
CODE = {1: "0c338d58c01bac380921fbcd6b72101b2e2594f14718b0a224b6e65d9ddb91b7"}


@pytest.fixture(scope="session")
def images(shelf: Images) -> Images:
    """Twelve pictures with their hashes, the last two the same file."""
    taken = shelf.take([*range(0, 22, 2), 20])
    hashes = [hashlib.sha256(taken.read_bytes(place)).hexdigest() for place in range(12)]
    return Images(taken.ids, taken.skus, taken.names, taken.extents, hashes)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The default model, which has no SiLU or GELU."""
    torch.manual_seed(3)
    return build(SPEC, None).eval()


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "remote") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def unit_rows(number: int, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).normal(size=(number, 5)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def read(store: VectorStore, names: list[str] = NAMES) -> tuple[list[bool], Rows]:
    rows = np.zeros((len(names), 5), np.float32)
    known = store.fill(names, rows)
    return known.tolist(), rows


def files(store: VectorStore, pattern: str) -> list[str]:
    return sorted(str(path) for path in store.fs.glob(f"{store.folder}/{pattern}"))


def alone(encoder: Encoder, images: Images) -> Rows:
    return embed_once(encoder, images, BATCH, CPU, None, "embed")[0]


@settings(max_examples=count(25, 300))
@given(data=st.data())
def test_any_mix_of_known_and_unknown_gives_the_same_bits(
    images: Images, encoder: Encoder, data: st.DataObject
) -> None:
    """Runs of any pictures in any order, with parts of any length, then one more.

    Only unknown ones are computed.
    """
    whole, url, kept = alone(encoder, images), f"memory://{uuid.uuid4().hex}", set[str]()
    for _ in range(data.draw(st.integers(1, 4))):
        places = data.draw(st.lists(st.integers(0, 11), max_size=14))
        store = VectorStore(url, KEY, encoder.dim, seconds=data.draw(st.sampled_from([0.0, 3600.0])))
        rows, counts = embed_once(encoder, images.take(places), BATCH, CPU, store, "embed")
        np.testing.assert_array_equal(rows, whole[places])
        wanted = {images.hashes[place] for place in places}  # type: ignore[index]
        assert counts == VectorCounts(computed=len(wanted - kept), known=len(wanted & kept))
        kept |= wanted


def test_a_vectors_bits_do_not_depend_on_the_pictures_beside_it(images: Images, encoder: Encoder) -> None:
    """Every forward pass is of one shape, so a single picture has the bits that it has among others."""
    batches: list[int] = []
    hook = encoder.tower.register_forward_hook(lambda tower, pixels, features: batches.append(len(pixels[0])))
    whole = alone(encoder, images)
    for place in range(3):
        np.testing.assert_array_equal(alone(encoder, images.take([place])), whole[[place]])
    hook.remove()
    assert set(batches) == {BATCH}
    np.testing.assert_allclose(whole, vectors_of(encoder, images, BATCH, CPU), atol=1e-5)


def test_vectors_whose_last_bit_may_be_another_are_counted(images: Images, encoder: Encoder) -> None:
    """With SiLU a vector's last bit may depend on its place in the batch, which an audit must know."""
    torch.manual_seed(3)
    smoke = build(SPEC.model_copy(update={"model": "smoke"}), None).eval()
    assert order_free(encoder) and not order_free(smoke)
    whole, store = alone(smoke, images), VectorStore(f"memory://{uuid.uuid4().hex}", KEY, smoke.dim)
    for places, counts in (([5, 2], VectorCounts(2, 0, 0)), (range(12), VectorCounts(9, 2, 2))):
        rows, counted = embed_once(smoke, images.take(places), BATCH, CPU, store, "embed")
        assert counted == counts
        np.testing.assert_allclose(rows, whole[list(places)], atol=1e-6)


def test_parts_are_kept_as_they_are_made(
    images: Images, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VectorStore(f"memory://{uuid.uuid4().hex}", KEY, encoder.dim, seconds=0.0)
    monkeypatch.setattr(vector_store, "COST", 1e9)  # saving costs nothing, so each batch is a part
    embed_once(encoder, images, BATCH, CPU, store, "embed")
    lengths = [len(json.loads(store.fs.cat_file(path))["pictures"]) for path in files(store, "*.json")]
    assert sorted(lengths) == [3, 4, 4], "eleven different files"


def test_a_part_is_due_after_its_time_twenty_saves_or_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("skumatch.model.vector_store.time.monotonic", lambda: now[0])
    store = VectorStore(str(tmp_path), KEY, 5, seconds=60)
    now[0] = 159.0
    assert not store.due(1) and store.due(2**28 // 20 + 1)
    now[0] = 160.0
    assert store.due(1)
    put = store._put

    def slow(name: str, data: bytes) -> None:
        now[0] += 5.0
        put(name, data)

    monkeypatch.setattr(store, "_put", slow)
    store.save(NAMES, unit_rows(6))
    now[0] += 199.0
    assert not store.due(1)
    now[0] += 1.0
    assert store.due(1)


def test_only_parts_with_a_wanted_picture_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rows = VectorStore(str(tmp_path), KEY, 5), unit_rows(6)
    store.save(NAMES[:3], rows[:3])
    store.save(NAMES[3:], rows[3:])
    fetched: list[str] = []
    content = store._content
    monkeypatch.setattr(store, "_content", lambda name: (fetched.append(name), content(name))[1])
    known, taken = read(store, [NAMES[4], "f" * 64, NAMES[3]])
    assert known == [True, False, True] and sum(name.endswith(".safetensors") for name in fetched) == 1
    np.testing.assert_array_equal(taken[[0, 2]], rows[[4, 3]])


def damaged_by(how: str, data: bytes) -> bytes:
    """Damaged bytes: another safetensors file of unit vectors, a part of the file, or none of it."""
    if how == "a bit of a vector":
        start = 8 + int.from_bytes(data[:8], "little")
        return data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :]
    return {"cut": data[: len(data) // 2], "empty": b""}[how]


@pytest.mark.parametrize(
    "how", ["a bit of a vector", "cut", "empty", "gone", "torn index", "index of nothing"]
)
def test_a_damaged_part_is_named_removed_and_computed_again(
    url: str, images: Images, encoder: Encoder, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = partial(embed_once, encoder, batch=BATCH, runtime=CPU, label="embed")
    store = VectorStore(url, KEY, encoder.dim)
    whole, _ = run(images=images.take(range(6)), store=store)
    run(images=images.take(range(6, 9)), store=store)
    sizes = {path: len(store.fs.cat_file(path)) for path in files(store, "*.safetensors")}
    path = max(sizes, key=lambda name: sizes[name])
    if how == "gone":
        store.fs.rm_file(path)
    elif "index" in how:
        store.fs.pipe_file(
            path.replace(".safetensors", ".json"), b"{" if how == "torn index" else b'{"pictures": [1]}'
        )
    else:
        store.fs.pipe_file(path, damaged_by(how, store.fs.cat_file(path)))
    rows, counts = run(images=images.take(range(9)), store=VectorStore(url, KEY, encoder.dim))
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and Path(path).stem in output and "damaged" in output
    assert counts == VectorCounts(computed=6, known=3)
    np.testing.assert_array_equal(rows[:6], whole)
    assert run(images=images.take(range(9)), store=store)[1] == VectorCounts(computed=0, known=9)
    assert capsys.readouterr().err == ""


def test_a_part_of_another_encoder_is_not_read(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    store, other = VectorStore(url, KEY, 5), VectorStore(url, OTHER, 5)
    other.save(NAMES, unit_rows(6))
    assert read(store)[0] == 6 * [False] and capsys.readouterr().err == ""
    store.fs.makedirs(store.folder)
    for path in files(other, "*"):
        store.fs.pipe_file(f"{store.folder}/{Path(path).name}", store.fs.cat_file(path))
    assert read(store)[0] == 6 * [False]
    assert "of another encoder" in capsys.readouterr().err and files(store, "*") == []


def test_an_index_of_other_pictures_gives_no_vector(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows follow the hashed part: an index with a changed order would give wrong vectors."""
    store = VectorStore(url, KEY, 5)
    store.save(NAMES, unit_rows(6))
    (index,) = files(store, "*.json")
    store.fs.pipe_file(index, json.dumps({"pictures": NAMES[::-1]}).encode())
    assert read(store)[0] == 6 * [False] and "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", ["too long", "no number", "too few", "another length", "of float64", "not vectors"]
)
def test_rows_that_are_no_unit_vectors_are_not_taken(
    url: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store, rows = VectorStore(url, KEY, 5), unit_rows(6)
    bad = {
        "too long": rows * 1.01,
        "no number": np.where(np.eye(6, 5, dtype=bool), np.float32("nan"), rows),
        "too few": rows[:5],
        "another length": np.pad(rows, ((0, 0), (0, 1))),
        "of float64": rows.astype(np.float64),
    }
    if wrong == "not vectors":
        data = safetensors.numpy.save({"embeddings": rows})
        name = hashlib.sha256(data).hexdigest()
        store.fs.makedirs(store.folder)
        store._put(f"{name}.safetensors", data)
        store._put(f"{name}.json", json.dumps({"pictures": NAMES}).encode())
    else:
        store.save(NAMES, bad[wrong])
    assert read(store)[0] == 6 * [False] and "damaged" in capsys.readouterr().err


def test_a_foreign_file_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = VectorStore(str(tmp_path), KEY, 5)
    store.mark_used(32 * "c")
    store.save(NAMES, unit_rows(6))
    (Path(store.folder) / "notes.json").write_text("mine")
    assert read(store)[0] == 6 * [True] and capsys.readouterr().err == ""
    assert (Path(store.folder) / "notes.json").read_text() == "mine"


def test_a_save_killed_at_any_write_leaves_whole_parts(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed half-way through each write or before each rename in turn."""
    rows, outcomes = unit_rows(6), []
    for at in range(1, 6):
        store = VectorStore(url, hashlib.sha256(str(at).encode()).hexdigest(), 5)
        store.save(NAMES[:3], rows[:3])
        with monkeypatch.context() as patch:
            steps = iter(range(1, 99))
            write, move = store.fs.pipe_file, store.fs.mv

            def pipe_file(
                path: str, data: bytes, at: int = at, steps: Iterator[int] = steps, write: object = write
            ) -> None:
                dies = next(steps) == at
                write(path, data[: len(data) // 2] if dies else data)  # type: ignore[operator]
                if dies:
                    raise KeyboardInterrupt

            def mv(*paths: str, at: int = at, steps: Iterator[int] = steps, move: object = move) -> None:
                if next(steps) == at:
                    raise KeyboardInterrupt
                move(*paths)  # type: ignore[operator]

            patch.setattr(store.fs, "pipe_file", pipe_file)
            patch.setattr(store.fs, "mv", mv)
            try:
                store.save(NAMES[3:], rows[3:])
                ended = True
            except KeyboardInterrupt:
                ended = False
        known, taken = read(VectorStore(url, store.key, 5))
        assert known in ([True] * 3 + [False] * 3, [True] * 6) and known[5] == ended
        np.testing.assert_array_equal(taken[known], rows[known])
        assert capsys.readouterr().err == "", "nothing was damaged"
        outcomes.append(ended)
    assert outcomes == [False] * 4 + [True]


def test_a_full_disk_is_a_storage_error(
    url: str, images: Images, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VectorStore(url, KEY, encoder.dim)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.fs, "pipe_file", full)
    with pytest.raises(StorageError, match=r"vectors in .* can't be read or written .*No space left"):
        embed_once(encoder, images, BATCH, CPU, store, "embed")


def test_a_remote_that_is_away_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("botocore.exceptions")
    store = VectorStore(str(tmp_path), KEY, 5)

    def away(*_: object, **__: object) -> None:
        raise exceptions.EndpointConnectionError(endpoint_url="http://store:8333")

    for name, call in (("exists", lambda: read(store)), ("makedirs", lambda: store.mark_used(32 * "c"))):
        monkeypatch.setattr(store.fs, name, away)
        with pytest.raises(StorageError, match="Could not connect to the endpoint"):
            call()


def test_writers_at_once_disturb_nobody(url: str) -> None:
    """Several writers store the same pictures and others while others read; all reads are right."""
    rows = unit_rows(6)

    def work(number: int) -> None:
        for turn in range(8):
            start = (number + turn) % 4
            VectorStore(url, KEY, 5).save(NAMES[start : start + 3], rows[start : start + 3])
            known, taken = read(VectorStore(url, KEY, 5))
            np.testing.assert_array_equal(taken[known], rows[known])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert read(VectorStore(url, KEY, 5))[0] == 6 * [True]
    assert not files(VectorStore(url, KEY, 5), "*.part")


def test_vectors_are_kept_on_s3(images: Images, encoder: Encoder, s3: object) -> None:
    store = VectorStore("s3://shop/remote", KEY, encoder.dim)
    store.mark_used(32 * "c")
    rows, counts = embed_once(encoder, images, BATCH, CPU, store, "embed")
    again, known = embed_once(
        encoder, images, BATCH, CPU, VectorStore("s3://shop/remote", KEY, encoder.dim), "embed"
    )
    assert (counts, known) == (VectorCounts(computed=11, known=0), VectorCounts(computed=0, known=11))
    np.testing.assert_array_equal(rows, again)
    names = sorted(path.rpartition(".")[2] for path in store.fs.find("shop"))
    assert names == ["json", "json", "safetensors"]


def test_a_key_names_all_that_decides_the_bits(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    key = partial(encoder_key, batch=BATCH, runtime=CPU, machine=MACHINE)
    first = key(encoder)
    assert first == key(encoder) and len(first) == 64
    torch.manual_seed(3)
    assert key(build(SPEC, None).eval()) == first, "the same weights, wherever they come from"
    named = build(SPEC, None).eval()
    named.load_state_dict(encoder.state_dict())
    named.spec = SPEC.model_copy(update={"weights": "elsewhere.safetensors"})
    assert key(named) == first, "a path decides nothing"
    others = [
        key(build(SPEC, None).eval()),
        key(encoder, batch=5),
        key(encoder, machine="Linux x86_64, Some CPU, 4 cores"),
        key(encoder, runtime=CPU.model_copy(update={"threads": 2})),
    ]
    named.preprocess = named.preprocess.model_copy(update={"resize": "crop"})
    others.append(key(named))
    monkeypatch.setattr(vector_store, "version", lambda name: "0.0.1")
    others.append(key(encoder))
    monkeypatch.undo()
    monkeypatch.setattr(vector_store, "CODE_VERSION", vector_store.CODE_VERSION + 1)
    others.append(key(encoder))
    assert len({first, *others}) == 8


def test_a_change_of_what_decides_a_vector_asks_for_a_new_code_version() -> None:
    assert max(CODE) == vector_store.CODE_VERSION
    assert CODE[vector_store.CODE_VERSION] == code_hash(DECIDES), (
        "Code that decides vectors was changed. If a vector's bits may change, raise CODE_VERSION in "
        f"skumatch/model/vector_store.py and add it here; else put the new hash here: {code_hash(DECIDES)}"
    )
