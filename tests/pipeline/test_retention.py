"""The rules of clean-up: objects to delete and to keep, on thousands of small stores in memory."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from datetime import UTC, datetime

from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.cleanup.references import Objects, closure, path_of
from skumatch.cleanup.retention import idle_checkpoints, stored, unneeded
from skumatch.cleanup.stores import File, ObjectStore
from skumatch.pipeline.repository import pointer
from tests.proving import count

NOW, OLD = 1_000_000_000.0, 500_000_000.0


class Made:
    """A random store of objects, folders, results and input sets, young or old, with references to some."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.store = ObjectStore(f"memory://{uuid.uuid4().hex}")
        self.age: dict[str, float] = {}
        self.reach: dict[str, set[str]] = {}
        self.results: dict[str, str] = {}
        blobs = [self.put(f"blob {number}".encode(), draw) for number in range(draw(st.integers(1, 6)))]
        folders = [
            self.folder(number, draw(st.sets(st.sampled_from(blobs), min_size=1)), draw)
            for number in range(draw(st.integers(0, 4)))
        ]
        self.archives = [
            self.archive(number, draw(st.sampled_from(blobs + folders)), draw)
            for number in range(draw(st.integers(0, 3)))
        ]
        for number in range(draw(st.integers(0, 4))):
            self.result(number, draw(st.sampled_from(blobs + folders)))
        self.roots = draw(st.sets(st.sampled_from(blobs + folders)))
        self.inputs = draw(st.sets(st.sampled_from(self.archives))) if self.archives else set()

    def put(self, data: bytes, draw: st.DrawFn, suffix: str = "", reach: set[str] | None = None) -> str:
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest() + suffix
        self.write(path_of(digest), data, draw(st.sampled_from([NOW, OLD])))
        self.age[digest], self.reach[digest] = self.touched(path_of(digest)), reach or set()
        return digest

    def write(self, name: str, data: bytes, at: float) -> None:
        self.store.fs.pipe_file(f"{self.store.root}/{name}", data)
        self.store.fs.store[f"{self.store.root}/{name}"].created = datetime.fromtimestamp(at, UTC)

    def touched(self, name: str) -> float:
        return float(self.store.fs.store[f"{self.store.root}/{name}"].created.timestamp())

    def folder(self, number: int, parts: set[str], draw: st.DrawFn) -> str:
        listed = [{"md5": part, "relpath": f"{number}/{part}"} for part in sorted(parts)]
        return self.put(json.dumps(listed).encode(), draw, ".dir", parts)

    def archive(self, number: int, data: str, draw: st.DrawFn) -> str:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, text in (("data.dvc", pointer(data, "data")), ("params.yaml", f"seed: {number}\n")):
                info = tarfile.TarInfo(name)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
        return self.put(buffer.getvalue(), draw, reach={data} | self.reach[data])

    def result(self, number: int, out: str) -> None:
        digits = hashlib.sha256(str(number).encode()).hexdigest()
        name = f"runs/{digits[:2]}/{digits}/{digits}"
        self.write(name, f"cmd: x\nouts:\n- path: out\n  md5: {out}\n".encode(), NOW)
        self.results[name] = out

    def reachable(self) -> set[str]:
        """Objects that must stay, computed in another way than by the code under test."""
        start = self.roots | self.inputs | {digest for digest, age in self.age.items() if age == NOW}
        young_archives = {
            archive for archive in self.archives if archive not in self.inputs
        }  # young, but nobody says that they are input sets
        return start | {part for archive in start - young_archives for part in self.reach[archive]}


@st.composite
def stores(draw: st.DrawFn) -> Made:
    return Made(draw)


@settings(max_examples=count(40, 3000))
@given(stores())
def test_nothing_reachable_is_taken_all_else_is_and_every_moment_on_the_way_is_sound(made: Made) -> None:
    files = made.store.files()
    kept = closure(made.roots | stored(files, NOW - 1), made.inputs, Objects([made.store]))
    results = made.store.read(name for name in files if name.startswith("runs/"))
    taken = unneeded(files, results, kept)
    must_stay = {path_of(digest) for digest in made.reachable()}
    offered = {name for name, out in made.results.items() if path_of(out) in must_stay}
    assert {item.name for item in taken} == files.keys() - must_stay - offered
    there = set(files)
    for item in taken:
        there -= {item.name}
        for digest, parts in made.reach.items():
            assert (
                not digest.endswith(".dir")
                or path_of(digest) not in there
                or {path_of(part) for part in parts} <= there
            )
        assert all(path_of(out) in there for name, out in made.results.items() if name in there)
    MemoryFileSystem.store.clear()


def test_a_name_that_isnt_ours_is_never_taken() -> None:
    object_path, halfway = "files/md5/ab/" + 30 * "c", f"gone/{32 * 'a'}/{64 * 'b'}"
    strange = (
        "files/md5/ab/readme",
        "files/md5/" + 32 * "c",
        f"{object_path}.part",
        "ab/" + 30 * "c",
        f"x/{object_path}",
        "runs/notes.txt",
        "photos/1.png",
    )
    files = dict.fromkeys((object_path, halfway, *strange), File(1, OLD))
    assert [item.name for item in unneeded(files, {}, set())] == [halfway, object_path]


def test_checkpoints_are_taken_folder_by_folder_the_commit_first() -> None:
    key, busy, odd = (f"checkpoints/{64 * letter}" for letter in "abc")
    names = (
        "00000001-0001.safetensors",
        "00000001-0001.json",
        "owner.json",
        f"00000002-0001.json.{32 * 'd'}.part",
    )
    files = {f"{folder}/{name}": File(5, OLD) for folder in (key, busy, odd) for name in names}
    files |= {f"{busy}/00000009-0001.json": File(5, NOW), f"{odd}/mine.txt": File(5, OLD)}
    order = [item.name.removeprefix(f"{key}/") for item in idle_checkpoints(files, NOW - 1)]
    assert order == ["00000001-0001.json", "00000001-0001.safetensors", names[3], "owner.json"]


def test_a_result_that_can_not_be_read_is_left_alone() -> None:
    name = f"runs/ab/{64 * 'a'}/{64 * 'b'}"
    for data in (b"{", b"\xff", b"[]", b"outs: 3"):
        assert unneeded({name: File(1, OLD)}, {name: data}, set()) == []
