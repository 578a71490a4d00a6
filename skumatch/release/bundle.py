"""What is promoted: one folder with one hash. Encoder, preprocessing, labelled gallery and thresholds; no pickle anywhere."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skumatch.errors import BundleError
from skumatch.files import read_json, replacing, sha256, write_json
from skumatch.retrieval.thresholds import NO_COSINE, Scores, Thresholds

if TYPE_CHECKING:
    from PIL import Image

    from skumatch.model.encoder import Encoder

FORMAT: Final = "skumatch-bundle-1"
FAMILY = "skumatch-bundle-"
MANIFEST = "bundle.json"
ENCODER_PARTS = ("encoder/encoder.safetensors", "encoder/encoder.json")
PARTS = (*ENCODER_PARTS, "gallery.parquet", "labels.json", "thresholds.json", "training.parquet")
MAX_MANIFEST_BYTES = 1 << 20
BATCH = 64  # pictures encoded at a time
FIRST_K = 32  # gallery images looked at first; more only where they hold too few SKUs

Floats = NDArray[np.float32]
Hex = Field(pattern=r"^[0-9a-f]{64}$")


class Gallery(NamedTuple):
    """Labelled vectors: `embeddings` is float32 [n, dim], rows of length 1."""

    ids: list[str]
    skus: list[str]
    embeddings: Floats


class Match(NamedTuple):
    """One SKU a picture may show: cosine to its best gallery image. `unknown` is of the picture, alike for all its matches: whether by
    the bundle's thresholds it shows no product of the gallery."""

    sku: str
    similarity: float
    gallery_id: str
    unknown: bool


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Part(_Model):
    sha256: str = Hex
    size: int = Field(ge=0)


class Counts(_Model):
    gallery: int = Field(ge=1)
    skus: int = Field(ge=1)
    training: int = Field(ge=0)


class Manifest(_Model):
    """bundle.json: what the folder holds, and the hash of every part. Its own SHA-256 is the bundle's hash."""

    format: Literal["skumatch-bundle-1"]
    dim: int = Field(ge=1)
    counts: Counts
    parts: dict[str, Part]


def write_bundle(folder: Path, encoder_dir: Path, gallery: Gallery, thresholds: dict[str, Any], training_ids: Iterable[str]) -> str:
    """Write a bundle and return its hash; the same inputs give the same bytes, whatever their order.

    `encoder_dir` holds encoder.safetensors and encoder.json (model room). Raises StorageError if the disk refuses,
    BundleError if `folder` holds other files; bundle.json comes last, so a half-written bundle is never read.
    """
    ids, skus, embeddings = _by_id(gallery)
    training = sorted(set(training_ids))
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in ENCODER_PARTS:
        with replacing(folder / name) as aside:
            shutil.copyfile(encoder_dir / Path(name).name, aside)
    _write_parquet(folder / "gallery.parquet", pa.table({"id": ids, "sku": skus, "embedding": _vectors(embeddings)}))
    _write_parquet(folder / "training.parquet", pa.table({"id": pa.array(training, pa.string())}))
    write_json(folder / "labels.json", {"gallery_images": dict(Counter(skus))})
    write_json(folder / "thresholds.json", {"similarity": None} | thresholds)
    counts = Counts(gallery=len(ids), skus=len(set(skus)), training=len(training))
    parts = {name: Part(sha256=sha256(folder / name), size=(folder / name).stat().st_size) for name in PARTS}
    write_json(folder / MANIFEST, Manifest(format=FORMAT, dim=embeddings.shape[1], counts=counts, parts=parts).model_dump())
    _check_files(folder)
    return bundle_hash(folder)


def bundle_hash(folder: Path) -> str:
    """The hash a bundle is known by: SHA-256 of its bundle.json. Raises BundleError if there is none."""
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}; give a folder written by the bundle stage.")
    return sha256(path)


def verify_bundle(folder: Path, expected: str | None = None) -> Manifest:
    """Hash every part, parsing none, and return the manifest.

    Raises BundleError, naming the file, if one is missing, changed or too many, if the format is of another version, or
    if the bundle's hash isn't `expected`.
    """
    found = bundle_hash(folder)
    if expected is not None and found != expected:
        raise BundleError(f"The bundle in {folder} has hash {found[:12]}, not {expected[:12]} as recorded; fetch it again.")
    manifest = _read_manifest(folder)
    _check_files(folder)
    for name, part in manifest.parts.items():
        if (folder / name).stat().st_size != part.size or sha256(folder / name) != part.sha256:
            raise BundleError(f"{name} of the bundle in {folder} was changed after it was written; fetch the bundle again.")
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is too large to be a bundle's manifest; fetch the bundle again.")
    try:
        tree = read_json(path)
        kind = tree.get("format") if isinstance(tree, dict) else None
        if isinstance(kind, str) and kind.startswith(FAMILY) and kind != FORMAT:
            raise BundleError(f"The bundle in {folder} has format {kind[:40]}, this skumatch reads {FORMAT}; install a newer skumatch.")
        manifest = Manifest.model_validate(tree)
    except (ValidationError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} can't be read as a bundle's manifest; fetch the bundle again.") from error
    if set(manifest.parts) != set(PARTS):
        raise BundleError(f"{path} doesn't list the parts of a {FORMAT}; fetch the bundle again.")
    return manifest


def _check_files(folder: Path) -> None:
    """The folder holds the manifest and its parts as plain files, and nothing else."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    for name in sorted(found - {MANIFEST, *PARTS}):
        raise BundleError(f"The bundle in {folder} holds {name}, which is no part of it; remove that file.")
    for name in PARTS:
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise BundleError(f"The bundle in {folder} lacks {name}; fetch the bundle again.")


def _by_id(gallery: Gallery) -> Gallery:
    ids, skus, embeddings = gallery
    assert embeddings.dtype == np.float32 and embeddings.ndim == 2 and len(ids) == len(skus) == len(embeddings) > 0
    assert len(set(ids)) == len(ids), "a gallery image is listed twice"
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return Gallery([ids[i] for i in order], [skus[i] for i in order], embeddings[order])


def _vectors(embeddings: Floats) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])


def _write_parquet(path: Path, table: pa.Table) -> None:
    with replacing(path) as aside:  # every setting fixed: the same table gives the same bytes
        pq.write_table(
            table, aside, version="2.6", data_page_version="1.0", compression="none", use_dictionary=False, write_statistics=False,
            row_group_size=65536,
        )  # fmt: skip


def read_gallery(path: Path, dim: int) -> Gallery:
    """Read gallery.parquet. Raises BundleError if it holds no unit vectors of `dim` numbers."""
    try:
        table = pq.read_table(path, columns=["id", "sku", "embedding"])
        flat = np.array(table["embedding"].combine_chunks().flatten(), dtype=np.float32)  # a copy: Arrow's memory is read-only
    except (pa.ArrowException, KeyError) as error:
        raise BundleError(f"{path} is no gallery ({str(error).splitlines()[0]}); fetch the bundle again.") from error
    if len(flat) != table.num_rows * dim or not np.allclose(np.linalg.norm(flat.reshape(-1, dim), axis=1), 1, atol=1e-3):
        raise BundleError(f"{path} doesn't hold {table.num_rows} unit vectors of {dim} numbers; make the bundle again.")
    return Gallery(table["id"].to_pylist(), table["sku"].to_pylist(), flat.reshape(-1, dim))


def _read_thresholds(path: Path) -> Thresholds:
    try:
        return Thresholds.model_validate(read_json(path))
    except ValueError as error:
        raise BundleError(f"{path} holds no thresholds this skumatch can read; make the bundle again.") from error


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory, ready to match."""

    hash: str
    manifest: Manifest
    encoder: Encoder
    gallery: Gallery
    thresholds: Thresholds

    @classmethod
    def load(cls, folder: Path, expected: str | None = None) -> Bundle:
        """Verify, then read. Raises BundleError as verify_bundle does, or if encoder and gallery don't belong together."""
        manifest = verify_bundle(folder, expected)
        from skumatch.model.encoder import load  # torch takes seconds to import and is needed from here on only

        encoder = load(folder / "encoder")
        gallery = read_gallery(folder / "gallery.parquet", manifest.dim)
        if encoder.dim != manifest.dim or len(gallery.ids) != manifest.counts.gallery:
            raise BundleError(f"Encoder and gallery of the bundle in {folder} don't belong together; make the bundle again.")
        return cls(bundle_hash(folder), manifest, encoder, gallery, _read_thresholds(folder / "thresholds.json"))

    def match(self, images: Sequence[Image.Image], top_k: int = 5) -> list[list[Match]]:
        """For each picture the `top_k` most similar SKUs, best first, each by its nearest gallery image (exact search)."""
        assert top_k >= 1
        wanted = min(max(top_k, 2), self.manifest.counts.skus)  # the margin asks for a second SKU
        rows = [row for start in range(0, len(images), BATCH) for row in self._match(images[start : start + BATCH], wanted)]
        return [[match._replace(unknown=unknown) for match in row[:top_k]] for row, unknown in zip(rows, self._unknown(rows), strict=True)]

    def _unknown(self, rows: list[list[Match]]) -> list[bool]:
        """Whether each picture is called unknown, by its best match and by the margin to the second."""
        cosines = np.array([[*(match.similarity for match in row[:2]), NO_COSINE][:2] for row in rows], np.float64).reshape(-1, 2)
        found: list[bool] = self.thresholds.unknown(Scores(cosines[:, 0], cosines[:, 0] - cosines[:, 1])).tolist()
        return found

    def _match(self, images: Sequence[Image.Image], wanted: int) -> list[list[Match]]:
        from skumatch.retrieval.search import top_k

        vectors, k = self._embed(images), FIRST_K
        while True:
            similarities, rows = top_k(self.gallery.embeddings, vectors, k, "torch")
            found = [self._distinct(*pair) for pair in zip(similarities.tolist(), rows.tolist(), strict=True)]
            if all(len(row) >= wanted for row in found):
                return [row[:wanted] for row in found]
            k *= 4  # at the gallery's size every SKU is listed

    def _distinct(self, similarities: list[float], rows: list[int]) -> list[Match]:
        """The nearest image of each SKU, in order."""
        best: dict[str, Match] = {}
        for similarity, row in zip(similarities, rows, strict=True):
            sku = self.gallery.skus[row]
            best.setdefault(sku, Match(sku, similarity, self.gallery.ids[row], unknown=False))
        return list(best.values())

    def _embed(self, images: Sequence[Image.Image]) -> Floats:
        import torch

        see = self.encoder.preprocess
        with torch.inference_mode():
            vectors: Floats = self.encoder(see.normalise(torch.stack([see(image) for image in images]))).numpy()
        return vectors
