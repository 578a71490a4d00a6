"""The table of matches: one row a picture, whole or not there, and nothing done twice."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from skumatch.bundle import Bundle
from skumatch.data.images import decode
from skumatch.errors import DataError, StorageError
from skumatch.matching import batch as batches
from skumatch.matching.batch import MatchPlan, counts, match_all, matching
from skumatch.model import embed as embedding
from skumatch.model.encoder import Encoder
from tests.matching.conftest import CPU, opened


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PART", 4)


def run(bundle: Bundle, folder: Path, out: Path, top_k: int = 3) -> tuple[int, int]:
    with matching(out) as parts:
        return match_all(MatchPlan(bundle, opened([folder], parts), top_k, out), parts, 2, CPU)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each batch that went to the encoder had."""
    sizes: list[int] = []
    real = embedding.vectors_of_pixels

    def counted(encoder: Encoder, pixels: Tensor, device: torch.device, size: int) -> object:
        sizes.append(len(pixels))
        return real(encoder, pixels, device, size)

    monkeypatch.setattr(embedding, "vectors_of_pixels", counted)
    return sizes


def test_each_picture_has_a_row_that_says_what_the_bundle_says(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "matches.parquet"
    assert run(bundle, folder, out) == (0, 14)
    rows = {row["id"]: row for row in pq.read_table(out).to_pylist()}
    assert list(rows) == sorted(rows) and len(rows) == 14
    data = (folder / "night/3.png").read_bytes()
    matches = bundle.match([decode(data)], 3)[0]
    row = rows["night/3.png"]
    assert row["skus"] == [m.sku for m in matches] and row["gallery_ids"] == [m.gallery_id for m in matches]
    assert row["similarities"] == pytest.approx([m.similarity for m in matches], abs=1e-6)
    assert (row["sku"], row["unknown"], row["problem"], row["sha256"]) == (
        "sku 3",
        False,
        None,
        hashlib.sha256(data).hexdigest(),
    )
    assert (
        rows["other.png"]["unknown"] is True
        and rows["other.png"]["sku"] is None
        and len(rows["other.png"]["skus"]) == 3
    )
    broken = rows["broken.jpg"]
    assert broken["problem"] == "no-image" and all(
        broken[name] is None for name in ("sku", "unknown", "similarity", "skus")
    )
    assert pq.read_schema(out).metadata[b"skumatch.bundle"].decode() == bundle.hash
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_counts_are_those_of_the_table(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    run(bundle, folder, tmp_path / "m.parquet")
    unknown, skus, problems = counts(tmp_path / "m.parquet")
    assert (
        unknown == 1 and skus == {f"sku {number}": 2 for number in range(6)} and problems == {"no-image": 1}
    )


@pytest.mark.parametrize("after", range(1, 7))
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    run(bundle, folder, tmp_path / "whole.parquet")
    out, real, done = tmp_path / "m.parquet", embedding.vectors_of_pixels, list[int]()

    def dying(*words: object) -> object:
        done.append(1)
        if len(done) > after:
            raise KeyboardInterrupt
        return real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(embedding, "vectors_of_pixels", dying)
    with pytest.raises(KeyboardInterrupt):
        run(bundle, folder, out)
    assert not out.exists()
    done.clear()
    after = 100
    before, total = run(bundle, folder, out)
    assert total == 14 and len(done) <= 7 - before // 2
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not list(tmp_path.glob(".m.parquet*"))


def test_what_was_matched_is_not_matched_again(
    bundle: Bundle, folder: Path, tmp_path: Path, embedded: list[int]
) -> None:
    out = tmp_path / "m.parquet"
    run(bundle, folder, out)
    before, when = len(embedded), out.stat().st_mtime_ns
    assert run(bundle, folder, out) == (14, 14)
    assert len(embedded) == before and out.stat().st_mtime_ns == when


@pytest.mark.parametrize("change", ["picture", "new", "gone", "top_k"])
def test_another_question_gets_another_table(
    bundle: Bundle, folder: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "m.parquet"
    run(bundle, folder, out)
    if change == "picture":
        (folder / "other.png").write_bytes((folder / "night/0.png").read_bytes())
    elif change == "new":
        (folder / "new.png").write_bytes((folder / "night/0.png").read_bytes())
    elif change == "gone":
        (folder / "other.png").unlink()
    assert run(bundle, folder, out, 2 if change == "top_k" else 3)[0] == 0
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == {"new": 15, "gone": 13}.get(change, 14)
    assert sum(row["sku"] == "sku 0" for row in rows) == {"picture": 3, "new": 3}.get(change, 2)


def test_parts_of_another_question_are_not_taken(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.parquet"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batches, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(bundle, folder, out)
    (folder / "other.png").write_bytes((folder / "night/0.png").read_bytes())
    assert run(bundle, folder, out)[0] == 0
    assert {row["id"]: row["sku"] for row in pq.read_table(out).to_pylist()}["other.png"] == "sku 0"


def test_two_at_once_are_refused_and_harm_nothing(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    with matching(out) as parts:
        with pytest.raises(StorageError, match="Another skumatch is writing"):
            run(bundle, folder, out)
        match_all(MatchPlan(bundle, opened([folder], parts), 3, out), parts, 2, CPU)
    assert pq.read_metadata(out).num_rows == 14


def test_a_full_disk_costs_one_part(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, written = tmp_path / "m.parquet", pq.write_table, list[Path]()

    def full(table: pa.Table, where: Path, **named: object) -> None:
        written.append(where)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(table, where, **named)

    with monkeypatch.context() as patch:
        patch.setattr(batches.pq, "write_table", full)
        with pytest.raises(StorageError, match="free some space"):
            run(bundle, folder, out)
    assert not out.exists()
    assert run(bundle, folder, out) == (8, 14)


def test_a_file_that_is_no_table_of_ours_is_left_alone(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    pq.write_table(pa.table({"a": [1]}), out)
    before = out.read_bytes()
    with pytest.raises(DataError, match="is there and no table of matches"):
        run(bundle, folder, out)
    assert out.read_bytes() == before and not list(tmp_path.glob(".m.parquet*"))


def test_a_row_without_its_picture_keeps_its_place(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["gone.png", *(f"night/{number}.png" for number in range(6)), "later.png", None]
    table, out, real = folder / "t.parquet", tmp_path / "m.parquet", embedding.vectors_of_pixels
    pq.write_table(pa.table({"path": paths}), table)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batches, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(bundle, table, out)
    monkeypatch.setattr(
        embedding, "vectors_of_pixels", lambda *words: pytest.fail("it was matched before") or real(*words)
    )
    assert run(bundle, table, out) == (9, 9)
    rows = pq.read_table(out).to_pylist()
    assert [row["id"] for row in rows] == [*paths[:8], "8"]
    assert [row["problem"] for row in rows] == ["missing", *[None] * 6, "missing", "no-picture"]
    assert [row["sha256"] is None for row in rows] == [row["problem"] is not None for row in rows]
    monkeypatch.setattr(embedding, "vectors_of_pixels", real)
    (folder / "other.png").rename(folder / "later.png")
    assert run(bundle, table, out) == (0, 9)
    assert pq.read_table(out)["problem"].to_pylist().count("missing") == 1


def test_only_unreadable_pictures_make_a_table_too(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.png").write_bytes(b"")
    run(bundle, tmp_path / "p", tmp_path / "m.parquet")
    assert counts(tmp_path / "m.parquet") == (0, {}, {"empty": 1})
