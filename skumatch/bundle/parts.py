"""Write and read the parts of a bundle.

The same inputs give the same bytes. Files that are read are not trusted: anyone may have written them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skumatch.bundle.manifest import (
    ENCODER,
    FORMAT,
    GALLERY,
    LABELS,
    MANIFEST,
    PARTS,
    THRESHOLDS,
    TRAINING,
    WEIGHTS,
    BundleCounts,
    Manifest,
    Part,
    bundle_hash,
    check_files,
)  # fmt: skip
from skumatch.errors import BundleError
from skumatch.files import read_json, replacing, sha256, write_json

MADE_WITH: Final = b"skumatch.encoder"  # in a table's metadata: the SHA-256 of encoder.json
MADE_FOR = "gallery"  # in thresholds.json: the SHA-256 of gallery.parquet
BLOCK_BYTES, BLOCK_ROWS = 2**20, 2**14  # of vectors and of texts that are read at a time

Floats = NDArray[np.float32]


class LabelledVectors(NamedTuple):
    """Labelled vectors.

    Attributes:
        ids: id of each gallery picture.
        skus: SKU of each picture.
        embeddings: float32 [n, dim], rows of length 1.
    """

    ids: list[str]
    skus: list[str]
    embeddings: Floats


def write_bundle(
    folder: Path,
    encoder_dir: Path,
    gallery: LabelledVectors,
    thresholds: dict[str, Any],
    training_ids: Iterable[str],
) -> str:
    """Write a bundle. The same inputs give the same bytes, in any order.

    bundle.json is written last, so a half-written bundle is never read.

    Args:
        folder: the bundle's folder.
        encoder_dir: folder with encoder.safetensors and encoder.json, as the model room writes them.
        gallery: the labelled vectors.
        thresholds: the thresholds for unknown products.
        training_ids: ids of the training pictures.

    Returns:
        The bundle's hash.

    Raises:
        StorageError: the disk refuses.
        BundleError: `folder` holds other files.
    """
    ids, skus, embeddings = _by_id(gallery)
    training = sorted(set(training_ids))
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in (WEIGHTS, ENCODER):
        with replacing(folder / name) as aside:
            shutil.copyfile(encoder_dir / Path(name).name, aside)
    origin = {MADE_WITH: sha256(folder / ENCODER)}
    _write_parquet(
        folder / GALLERY,
        pa.table({"id": ids, "sku": skus, "embedding": _vectors(embeddings)}, metadata=origin),
    )
    _write_parquet(folder / TRAINING, pa.table({"id": pa.array(training, pa.string())}, metadata=origin))
    write_json(folder / LABELS, labels_of(skus))
    write_json(folder / THRESHOLDS, {"similarity": None} | thresholds | {MADE_FOR: sha256(folder / GALLERY)})
    counts = BundleCounts(gallery=len(ids), skus=len(set(skus)), training=len(training))
    parts = {name: Part(sha256=sha256(folder / name), size=(folder / name).stat().st_size) for name in PARTS}
    write_json(
        folder / MANIFEST,
        Manifest(format=FORMAT, dim=embeddings.shape[1], counts=counts, parts=parts).model_dump(),
    )
    check_files(folder)
    return bundle_hash(folder)


def read_gallery(path: Path, dim: int) -> LabelledVectors:
    """Read gallery.parquet, a few rows at a time, so that the vectors are in memory once.

    Raises:
        BundleError: the file holds no unit vectors of `dim` numbers.
    """
    with parsing(path):
        ids, names = list(read_texts(path, "id")), dict[str, str]()
        skus = [names.setdefault(sku, sku) for sku in read_texts(path, "sku")]  # each text once in memory
        embeddings, row = np.empty((len(ids), dim), np.float32), 0
        for lists in _blocks(path, "embedding", max(1, BLOCK_BYTES // (4 * dim))):
            part, numbers = embeddings[row : row + len(lists)], lists.flatten().to_numpy()
            if part.size != numbers.size:
                break
            part[:] = numbers.reshape(part.shape)
            if not np.allclose(np.linalg.norm(part, axis=1), 1, atol=1e-3):
                break
            row += len(part)
    if not row == len(ids) == len(skus):
        raise BundleError(
            f"{path} doesn't hold {len(ids)} unit vectors of {dim} numbers; make the bundle again."
        )
    return LabelledVectors(ids, skus, embeddings)


def read_texts(path: Path, column: str) -> Iterator[str]:
    """Yield the texts of a table's column, row by row."""
    for texts in _blocks(path, column, BLOCK_ROWS):
        yield from texts.to_pylist()


def _blocks(path: Path, column: str, rows: int) -> Iterator[pa.Array]:
    """Yield a column, at most `rows` rows at a time, without holding a row group in memory."""
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=BLOCK_BYTES) as file:
        for block in file.iter_batches(rows, columns=[column], use_threads=False):
            yield block.column(column)


def made_with(path: Path) -> str | None:
    """Return the hash of the encoder.json that a table was made with; None in format 1."""
    with parsing(path):
        digest = (pq.read_schema(path).metadata or {}).get(MADE_WITH)
        return None if digest is None else str(digest, "utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BundleError: the file is no JSON object.
    """
    with parsing(path):
        return dict(read_json(path))


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Turn errors of parsing a part into BundleError.

    Matching hashes don't make a part readable, since the same person may have written part and manifest.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BundleError(
            f"{path} can't be read as a part of a bundle ({why}); fetch the bundle again."
        ) from error


def labels_of(skus: Iterable[str]) -> dict[str, Any]:
    """Return the contents of labels.json: the number of gallery pictures of each SKU."""
    return {"gallery_images": dict(Counter(skus))}


def _by_id(gallery: LabelledVectors) -> LabelledVectors:
    ids, skus, embeddings = gallery
    assert (
        embeddings.dtype == np.float32
        and embeddings.ndim == 2
        and len(ids) == len(skus) == len(embeddings) > 0
    )
    assert len(set(ids)) == len(ids), "a gallery image is listed twice"
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return LabelledVectors([ids[i] for i in order], [skus[i] for i in order], embeddings[order])


def _vectors(embeddings: Floats) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])


def _write_parquet(path: Path, table: pa.Table) -> None:
    with replacing(path) as aside:  # every setting fixed: the same table gives the same bytes
        pq.write_table(
            table, aside, version="2.6", data_page_version="1.0", compression="none", use_dictionary=False,
            write_statistics=False, row_group_size=65536,
        )  # fmt: skip
