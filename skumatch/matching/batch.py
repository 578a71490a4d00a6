"""Match many pictures into one table, part by part; a call that was stopped goes on after the last part."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from skumatch.bundle import Assortment, Bundle, Match
from skumatch.data.images import Images
from skumatch.errors import DataError, ImageError, StorageError
from skumatch.files import canonical_json, replacing, store_refusals, write_text
from skumatch.matching.shop_lists import Assortments
from skumatch.matching.tables import CSV
from skumatch.model.embed import Batch, stream
from skumatch.params import RuntimeParams
from skumatch.progress import Advance, track
from skumatch.retrieval.thresholds import needed
from skumatch.version import VERSION

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("sha256", pa.string()),  # of the picture's bytes; null where they can't be read
        ("sku", pa.string()),  # the product; null where it is unknown, or the picture can't be read
        ("unknown", pa.bool_()),
        ("similarity", pa.float32()),  # to the nearest gallery image
        ("skus", pa.list_(pa.string())),  # the nearest, best first, of unknown pictures, too
        ("similarities", pa.list_(pa.float32())),
        ("gallery_ids", pa.list_(pa.string())),
        ("problem", pa.string()),  # the reason why the picture can't be read
    ]
)
PART = 2048  # pictures in a part, which is the most work that a kill may cost
KEY: Final = b"skumatch.match"


class MatchPlan(NamedTuple):
    """Pictures to match, the bundle to match them with, and the table to write.

    Attributes:
        bundle: The model and its gallery.
        images: The pictures.
        top_k: Number of nearest products per picture.
        out: Path of the table, in Parquet.
        assortments: The products that each of `images` is matched with; None for the whole gallery.
    """

    bundle: Bundle
    images: Images
    top_k: int
    out: Path
    assortments: Assortments | None = None

    @property
    def key(self) -> str:
        """SHA-256 of all that determines the table.

        Pictures enter by name, size and time, since reading their bytes is the work itself.
        """
        pictures = hashlib.sha256()
        for name, extent in zip(self.images.ids, self.images.extents, strict=True):
            pictures.update(canonical_json([name, extent.offset, extent.length, *extent.stamp()]).encode())
        facts = {"bundle": self.bundle.hash, "top_k": self.top_k, "pictures": pictures.hexdigest()}
        facts |= {"skumatch": VERSION} | self._products()
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()

    def _products(self) -> dict[str, Any]:
        if self.assortments is None:
            return {}
        kinds = [kind.skus if kind else None for kind in self.assortments.kinds]
        return {"assortments": kinds, "numbers": self.assortments.numbers.tolist()}

    @property
    def unknown_words(self) -> str:
        """A phrase that says which pictures are called unknown."""
        if not self.bundle.thresholds.fitted:
            return "can't be told, as the model has no thresholds"
        searched = "the gallery" if self.assortments is None else "the picture's assortment"
        return f"of no product in {searched}, by the model's thresholds"


def without_thresholds(bundle: Bundle) -> str:
    """Return what a model's answers mean if it has no thresholds, and how to get some; else an empty text."""
    thresholds = bundle.thresholds
    if thresholds.fitted:
        return ""
    least = needed(thresholds.target) if thresholds.target else "enough pictures"
    return (
        "The model has no thresholds, so every picture was given its nearest product, right or not. "
        "A retrain or a refresh fits some where SKUs that are never trained on (split.unseen_share) "
        f"or validation pictures (split.val_share) make {least}."
    )


@contextmanager
def matching(out: Path) -> Iterator[Path]:
    """Yield the folder of the table's parts, for one process at a time; it stays while it holds parts.

    Raises:
        StorageError: Another process writes the same table.
    """
    parts = out.with_name(f".{out.name}.parts")
    with store_refusals(f"{parts}, the folder of the unfinished table,", "give another --out"):
        parts.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(parts / "lock", timeout=0):
            try:
                yield parts
            finally:
                if not _parts(parts):
                    shutil.rmtree(parts, ignore_errors=True)
    except Timeout as error:
        raise StorageError(
            f"Another skumatch is writing {out}; wait for it, or give another --out."
        ) from error


def match_all(plan: MatchPlan, parts: Path, batch: int, runtime: RuntimeParams) -> tuple[int, int]:
    """Write the table `plan.out`; a picture that can't be decoded is a row with its `problem`.

    Args:
        plan: The pictures, the bundle and the table.
        parts: The folder of `matching`.
        batch: Pictures embedded at a time.
        runtime: Device and worker processes.

    Returns:
        Number of rows that were there before this call, and number of all rows.

    Raises:
        StorageError: The disk refuses; the finished parts stay.
    """
    key, total = plan.key, len(plan.images)
    if _key(plan.out) == key:
        return total, total
    _keep_only(parts, key)
    done = sum(pq.read_metadata(path).num_rows for path in _parts(parts))
    with track("match", total) as advance:
        advance(done)
        _match(plan, parts, done, batch, runtime, advance)
    _join(parts, plan, key)
    return done, total


def counts(out: Path) -> tuple[int, Counter[str], Counter[str]]:
    """Count a table's pictures of unknown products, those of each SKU, and unreadable ones by reason."""
    table = pq.read_table(out, columns=["sku", "unknown", "problem"])
    skus = Counter(value for value in table["sku"].to_pylist() if value is not None)
    problems = Counter(value for value in table["problem"].to_pylist() if value is not None)
    return sum(map(bool, table["unknown"].to_pylist())), skus, problems


def _match(
    plan: MatchPlan, parts: Path, done: int, batch: int, runtime: RuntimeParams, advance: Advance
) -> None:
    """Match the pictures from place `done` on, and write a file for each part."""
    first, waiting = done, list[Batch]()
    left = plan.images.take(range(first, len(plan.images)))
    for embedded in stream(plan.bundle.encoder, left, batch, runtime):
        waiting.append(embedded)
        advance(len(embedded))
        count = sum(map(len, waiting))
        if count >= PART or done + count == len(plan.images):
            rows = _rows(plan, left, first, waiting)
            with replacing(parts / f"{done:010}.parquet") as aside:
                pq.write_table(pa.Table.from_pylist(rows, SCHEMA), aside, compression="zstd")
            done, waiting = done + count, []


def _rows(plan: MatchPlan, images: Images, first: int, batches: list[Batch]) -> list[dict[str, Any]]:
    """Return the table's rows of some batches of `images`, which are the plan's from `first` on."""
    matches = _matches(plan, first, batches)
    problems = {i: problem for batch in batches for i, problem in batch.problems.items()}
    answers = {i: _matched(match) for i, match in matches.items()}
    answers |= {i: {"problem": problem.reason} for i, problem in problems.items()}
    return [{"id": images.ids[i], "sha256": _digest(images, i)} | answers[i] for i in sorted(answers)]


def _matches(plan: MatchPlan, first: int, batches: list[Batch]) -> dict[int, list[Match]]:
    """Return each picture's matches; pictures with the same assortment are searched together."""
    rows = np.array([row for batch in batches for row in batch.rows], np.int64)
    vectors = np.concatenate([batch.vectors for batch in batches])
    matches: dict[int, list[Match]] = {}
    for assortment, places in _by_assortment(plan.assortments, first + rows):
        nearest = plan.bundle.nearest(vectors[places], plan.top_k, assortment)
        matches |= dict(zip(rows[places].tolist(), nearest, strict=True))
    return matches


def _by_assortment(
    assortments: Assortments | None,
    pictures: NDArray[np.int64],
) -> Iterator[tuple[Assortment | None, NDArray[np.int64]]]:
    """Yield the assortments of some of the plan's pictures [n], each with its places in `pictures`."""
    if assortments is None:
        yield None, np.arange(len(pictures))
        return
    numbers = assortments.numbers[pictures]
    for number in np.unique(numbers):
        yield assortments.kinds[number], np.flatnonzero(numbers == number)


def _digest(images: Images, index: int) -> str | None:
    try:
        return hashlib.sha256(images.read_bytes(index)).hexdigest()
    except ImageError:  # the row's problem says why there are no bytes
        return None


def _matched(row: list[Match]) -> dict[str, Any]:
    best = row[0]
    skus, similarities, gallery_ids, _ = zip(*row, strict=True)
    lists = {"skus": skus, "similarities": similarities, "gallery_ids": gallery_ids}
    return lists | {
        "sku": None if best.unknown else best.sku,
        "unknown": best.unknown,
        "similarity": best.similarity,
    }


def _parts(parts: Path) -> list[Path]:
    return sorted(parts.glob("[0-9]*.parquet"))


def _keep_only(parts: Path, key: str) -> None:
    """Remove parts of another table: those with another key."""
    path = parts / "key"
    if not path.is_file() or path.read_text("utf-8") != key:
        for old in _parts(parts):
            old.unlink()
        write_text(path, key)


def check_out(out: Path) -> None:
    """Raise DataError if there is a file at `out` that is no table of matches."""
    if out.suffix.lower() != CSV:
        _key(out)
    elif out.exists():
        with out.open("rb") as stream:
            if stream.readline(200).rstrip() != ",".join(SCHEMA.names).encode():
                raise _no_table(out)


def table_of(out: Path, parts: Path) -> Path:
    """Return the Parquet table that is written first: `out` itself, or for a CSV a file among its parts."""
    return parts / "table.parquet" if out.suffix.lower() == CSV else out


def write_csv(table: Path, out: Path) -> None:
    """Write a table of matches as CSV, atomically: UTF-8, lists as JSON, an empty cell where it has none."""
    with replacing(out) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(SCHEMA.names)
        with pq.ParquetFile(table) as rows:
            for batch in rows.iter_batches(PART):
                writer.writerows(map(_cell, row.values()) for row in batch.to_pylist())


def _cell(value: Any) -> Any:
    """Return a value as a cell of a CSV; a similarity has the digits that tell its 32 bits."""
    if isinstance(value, list):
        return json.dumps([_cell(item) for item in value], ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _key(out: Path) -> str | None:
    """Return the key of a complete table; None if there is no file.

    Raises:
        DataError: The file is no table of matches.
    """
    if not out.exists():
        return None
    try:
        return str((pq.read_schema(out).metadata or {})[KEY], "utf-8")
    except (pa.ArrowException, KeyError, OSError) as error:
        raise _no_table(out) from error


def _no_table(out: Path) -> DataError:
    return DataError(f"{out} is there and no table of matches; give another --out, or remove it.")


def _join(parts: Path, plan: MatchPlan, key: str) -> None:
    schema = SCHEMA.with_metadata({KEY: key, b"skumatch.bundle": plan.bundle.hash})
    with replacing(plan.out) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for path in _parts(parts):
            writer.write_table(pq.read_table(path).replace_schema_metadata(schema.metadata))
    for path in _parts(parts):
        path.unlink()
