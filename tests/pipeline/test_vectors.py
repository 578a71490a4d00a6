"""Vectors in a run's message and in clean-up: counted, kept for needed encoders, deleted in a safe order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.audit.reproduce import _stage_environment
from skumatch.cleanup.retention import VECTORS, idle_vectors
from skumatch.cleanup.stores import File, ObjectStore
from skumatch.config import Settings
from skumatch.files import write_json
from skumatch.model.vector_store import VectorStore
from skumatch.pipeline.worker import _loosely, _vectors

NOW, OLD = 1_000_000_000.0, 500_000_000.0
KEY, ENCODER, STRANGER = 64 * "a", 32 * "c", 32 * "d"
PARTS = [letter * 64 for letter in "123"]


def kept(folder: Path, key: str = KEY, digest: str = ENCODER) -> ObjectStore:
    """A remote on a disk with two parts of an encoder's vectors."""
    store = VectorStore(str(folder), key, 4)
    store.mark_used(digest)
    for name in PARTS[:2]:
        store.save([name], np.eye(1, 4, dtype=np.float32))
    return ObjectStore(str(folder))


def aged(store: ObjectStore, at: float) -> dict[str, File]:
    return {name: File(file.size, at) for name, file in store.files().items()}


def test_vectors_of_an_encoder_that_nobody_needs_are_taken_when_idle(tmp_path: Path) -> None:
    store = kept(tmp_path)
    assert idle_vectors(aged(store, NOW), set(), NOW - 1) == [], "used not long ago"
    assert idle_vectors(aged(store, OLD), {ENCODER}, NOW - 1) == [], "a version or run rests on the encoder"
    items = idle_vectors(aged(store, OLD), {STRANGER}, NOW - 1)
    assert {item.name for item in items} == store.files().keys() and len(items) == 5
    names = [item.name.rpartition("/")[2] for item in items]
    assert [name.endswith(".json") for name in names] == [True, True, False, False, True] and names[
        4
    ].startswith("used-")
    store.remove(item.name for item in items)
    assert store.files() == {}


def test_an_encoder_that_a_run_uses_again_keeps_its_old_parts(tmp_path: Path) -> None:
    store = kept(tmp_path)
    files = aged(store, OLD) | {f"vectors/{KEY}/used-{ENCODER}.json": File(9, NOW)}
    assert idle_vectors(files, set(), NOW - 1) == []


def test_what_killed_runs_left_of_a_needed_encoder_is_taken(tmp_path: Path) -> None:
    store = kept(tmp_path)
    halves = [
        f"vectors/{KEY}/{PARTS[0]}.json.{32 * 'e'}.part",
        f"vectors/{KEY}/{PARTS[1]}.safetensors.{32 * 'e'}.part",
    ]
    orphan = f"vectors/{KEY}/{PARTS[2]}.safetensors"
    for name in (*halves, orphan):
        (tmp_path / name).write_bytes(b"x")
    assert sorted(item.name for item in idle_vectors(aged(store, OLD), {ENCODER}, NOW - 1)) == sorted(
        [*halves, orphan]
    )
    assert idle_vectors(aged(store, NOW), {ENCODER}, NOW - 1) == [], "they may be on their way"


@pytest.mark.parametrize("name", ["notes.txt", f"{PARTS[0]}.npy", "sub/x.json", "used-me.json"])
def test_a_folder_with_a_foreign_file_is_left_alone(tmp_path: Path, name: str) -> None:
    store = kept(tmp_path)
    path = tmp_path / "vectors" / KEY / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert idle_vectors(aged(store, OLD), set(), NOW - 1) == []


@given(
    st.sets(st.sampled_from([ENCODER, STRANGER])),
    st.lists(st.sampled_from([OLD, NOW]), min_size=2, max_size=2),
)
def test_each_encoder_is_judged_by_itself(needed: set[str], ages: list[float]) -> None:
    files = {}
    for key, digest, age in zip((KEY, 64 * "b"), (ENCODER, STRANGER), ages, strict=True):
        files |= {
            f"vectors/{key}/{name}": File(1, age)
            for name in (f"used-{digest}.json", f"{PARTS[0]}.json", f"{PARTS[0]}.safetensors")
        }
    taken = {item.name.split("/")[1] for item in idle_vectors(files, needed, NOW - 1)}
    digests = {KEY: (ENCODER, ages[0]), 64 * "b": (STRANGER, ages[1])}
    assert taken == {key for key, (digest, age) in digests.items() if digest not in needed and age == OLD}


def test_every_file_of_a_store_is_known_to_a_clean_up(tmp_path: Path) -> None:
    assert all(VECTORS.fullmatch(name) for name in kept(tmp_path).files())


def test_a_runs_message_tells_what_its_stage_noted(tmp_path: Path) -> None:
    noted = {"champion": {"computed": 5, "known": 7, "loose": 0}}
    assert _vectors(tmp_path / "vectors.json") == {}
    write_json(tmp_path / "vectors.json", noted)
    assert _vectors(tmp_path / "vectors.json") == noted


def test_an_audit_demands_no_equal_bits_of_loose_vectors() -> None:
    """`reproduce` demands equal bits only where a machine's description ends with its cores."""
    for loose, words in ((0, ""), (1, ", vectors of earlier runs")):
        assert _loosely({"champion": {"computed": 0, "known": 1, "loose": loose}}) == words


@pytest.mark.parametrize("force", [True, False])
def test_reproduce_computes_vectors_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    monkeypatch.delenv("SKUMATCH_VECTORS", raising=False)
    with _stage_environment(Settings(project=tmp_path, home=tmp_path), force):
        assert Settings().vectors == "off"
    assert Settings().vectors == "keep"
