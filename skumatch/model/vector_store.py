"""Vectors kept in the remote by (encoder, picture), so that each is computed once (decision 0016)."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from skumatch.config import shown
from skumatch.data.images import Images
from skumatch.files import canonical_json, file_system, put_whole, store_refusals
from skumatch.model.checkpoint import COST
from skumatch.model.distributed import ALONE, World
from skumatch.model.embed import stream
from skumatch.model.runtime import prepare
from skumatch.params import RuntimeParams
from skumatch.progress import Advance, silent, track

if TYPE_CHECKING:  # whoever has an encoder has loaded its libraries already
    from skumatch.model.encoder import Encoder

CODE_VERSION = 1  # of decoding, preprocessing and encoding: raise it when a vector's bits change with them
PACKAGES = ("torch", "timm", "open_clip_torch", "numpy", "pillow", "simplejpeg")  # their versions may, too
PART_BYTES = 2**28  # of vectors in one part: what a damaged byte costs, and what is held twice in memory
INDEX = re.compile(r"[0-9a-f]{64}\.json")
READERS = 16  # index files that are fetched at once
LENGTH_TOLERANCE = 1e-3  # of a unit vector in float32
Rows = NDArray[np.float32]


# Layers that compute a row alike wherever it stands in a batch. Others have exp or tanh in them, which a CPU
# computes by other code where a block of 32 numbers isn't full.
ALIKE = frozenset(
    {
        "AdaptiveAvgPool2d",
        "BatchNorm1d",
        "Conv2d",
        "Conv2dSame",
        "Flatten",
        "Identity",
        "Linear",
        "ReLU",
        "ReLU6",
        "Sequential",
    }
)


@dataclass(frozen=True)
class Counts:
    """Of different pictures: how many vectors were computed, and how many the store had.

    loose: Of those known, how many might have other last bits if they were computed in this run.
    """

    computed: int
    known: int
    loose: int = 0


def order_free(encoder: Encoder) -> bool:
    """Whether no bit of a vector depends on the picture's place in a batch of fixed size, on a CPU.

    Measured on towers of these layers alone, as efficientnet-lite0 is; with SiLU or GELU the last bit of some
    numbers depends on it, about 2e-8 of a vector of length 1 (decision 0016).
    """
    return all(type(layer).__name__ in ALIKE for layer in encoder.modules() if not list(layer.children()))


def encoder_key(encoder: Encoder, batch: int, runtime: RuntimeParams, machine: str) -> str:
    """Name all that decides the bits of an encoder's vectors, except the picture.

    Args:
        encoder: Its tensors are hashed, so one rule holds for base weights, random and trained ones.
        batch: Pictures in a forward pass: other shapes may be computed in another order.
        runtime: Its device and threads.
        machine: Processor, cores and GPU in words (`stages.runner.machine`): others may round otherwise.

    Returns:
        A SHA-256 in hex.
    """
    device = prepare(runtime)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    facts = {
        "code": CODE_VERSION,
        "packages": {name: version(name) for name in PACKAGES},
        "tensors": _sha256(safetensors.torch.save(tensors)),
        "spec": encoder.spec.model_dump(mode="json", exclude={"weights"}),
        "preprocess": encoder.preprocess.model_dump(mode="json"),
        "batch": batch,
        "device": device.type,
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "machine": machine,
    }
    return _sha256(canonical_json(facts).encode())


class VectorStore:
    """The vectors of one encoder: `<url>/vectors/<key>/` on any fsspec file system (a path, s3://...).

    A part is a safetensors file that is named by its SHA-256. It holds `vectors`, float32 [n, dim];
    `pictures`, the SHA-256 of each picture file, uint8 [n, 32]; and `encoder`, the key. Its index, a JSON of
    the same name, lists the pictures and appears last, which is the commit. No part is ever changed, so
    several machines may write at once.
    """

    def __init__(self, url: str, key: str, dim: int, seconds: float = 60.0) -> None:
        """Open a store; nothing is read or written.

        Args:
            url: The remote.
            key: `encoder_key` of the encoder.
            dim: Length of its vectors.
            seconds: Between parts, for `due`.
        """
        self.fs, root = file_system(url)
        self.key, self.dim, self.seconds = key, dim, seconds
        self.folder, self.shown = (f"{place.rstrip('/')}/vectors/{key}" for place in (root, shown(url)))
        self.saved, self.took = time.monotonic(), 0.0

    def mark_used(self, digest: str) -> None:
        """Note that a run uses these vectors now, which keeps a clean-up from them.

        Args:
            digest: MD5 of the file that names the encoder's weights. These vectors are kept as long as a
                version or run needs that object of DVC's (pipeline/retention.py).

        Raises:
            StorageError: The remote refuses.
        """
        with self._storage():
            self.fs.makedirs(self.folder, exist_ok=True)
            note = canonical_json({"encoder": self.key, "rests_on": digest})
            self._put(f"used-{digest}.json", note.encode())

    def fill(self, pictures: Sequence[str], rows: Rows) -> NDArray[np.bool_]:
        """Lay the vectors that are known into `rows`.

        Only parts that hold a wanted picture are fetched. A damaged part is named on stderr and removed; its
        pictures stay unknown unless another part has them.

        Args:
            pictures: SHA-256 of different picture files, hex.
            rows: float32 [len(pictures), dim]; rows of unknown pictures are left as they are.

        Returns:
            Which pictures are known, bool [len(pictures)].

        Raises:
            StorageError: The remote refuses or is away.
        """
        known = np.zeros(len(pictures), np.bool_)
        places = {digest: place for place, digest in enumerate(pictures)}
        with self._storage():
            for name, listed in self._indexes():
                held = {row: places[digest] for row, digest in enumerate(listed) if digest in places}
                wanted = [row for row, place in held.items() if not known[place]]
                part = self._part(name, listed) if wanted else None
                if part is not None:
                    there = [held[row] for row in wanted]
                    rows[there], known[there] = part[wanted], True
        return known

    def due(self, count: int) -> bool:
        """Whether `count` new vectors make a part: by time, later where saving takes long, or by size."""
        late = time.monotonic() - self.saved >= max(self.seconds, self.took / COST)
        return late or count * self.dim * np.dtype(np.float32).itemsize >= PART_BYTES

    def save(self, pictures: Sequence[str], rows: Rows) -> None:
        """Commit a part.

        Args:
            pictures: SHA-256 of different picture files, hex, at least one.
            rows: Their vectors, float32 [len(pictures), dim].

        Raises:
            StorageError: The remote refuses.
        """
        began = time.monotonic()
        tensors: dict[str, NDArray[Any]] = {
            "vectors": np.ascontiguousarray(rows),
            "pictures": _hash_bytes(list(pictures)),
            "encoder": _hash_bytes([self.key]),
        }
        data = safetensors.numpy.save(tensors)
        name = _sha256(data)
        index = {"encoder": self.key, "pictures": list(pictures)}
        with self._storage():
            self.fs.makedirs(self.folder, exist_ok=True)
            self._put(f"{name}.safetensors", data)
            self._put(f"{name}.json", canonical_json(index).encode())
        self.saved = time.monotonic()
        self.took = self.saved - began

    def _indexes(self) -> Iterator[tuple[str, list[str]]]:
        """Each part's name and pictures, in the order of names."""
        self.fs.invalidate_cache(self.folder)
        if not self.fs.exists(self.folder):
            return
        files = sorted(path.rsplit("/", 1)[-1] for path in self.fs.ls(self.folder, detail=False))
        indexes = [name for name in files if INDEX.fullmatch(name)]
        with ThreadPoolExecutor(READERS) as pool:
            texts = list(pool.map(self._content, indexes))
        for file, text in zip(indexes, texts, strict=True):
            name, listed = file.removesuffix(".json"), _listed(text)
            if listed is not None:
                yield name, listed
            elif text is not None:  # else another process removed it
                self._drop(name)

    def _part(self, name: str, listed: list[str]) -> Rows | None:
        """A part's vectors, in the order of its index; a part that can't be trusted is removed, and None."""
        data = self._content(f"{name}.safetensors")
        rows = self._trusted(data, listed) if data is not None and _sha256(data) == name else None
        if rows is None:
            self._drop(name)
        return rows

    def _trusted(self, data: bytes, listed: list[str]) -> Rows | None:
        """The vectors of a part's bytes if they are this encoder's, of the listed pictures and sound."""
        try:
            tensors = safetensors.numpy.load(data)
            rows, pictures, key = tensors["vectors"], tensors["pictures"], tensors["encoder"]
        except (SafetensorError, KeyError):
            return None
        if not np.array_equal(key, _hash_bytes([self.key])):
            return None
        if not np.array_equal(pictures, _hash_bytes(listed)):
            return None
        return rows if _sound(rows, (len(listed), self.dim)) else None

    def _drop(self, name: str) -> None:
        """Remove a part that can't be used, its index first."""
        what = f"The vectors in {self.shown}/{name} are damaged or of another encoder"
        print(f"{what}; they are removed and computed again.", file=sys.stderr)
        for suffix in (".json", ".safetensors"):
            try:
                self.fs.rm_file(self._path(f"{name}{suffix}"))
            except FileNotFoundError:  # another process removed it
                continue

    def _content(self, name: str) -> bytes | None:
        try:
            return bytes(self.fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def _put(self, name: str, data: bytes) -> None:
        put_whole(self.fs, self._path(name), data)

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _storage(self) -> AbstractContextManager[None]:
        return store_refusals(f"The vectors in {self.shown}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hash_bytes(hashes: list[str]) -> NDArray[np.uint8]:
    """SHA-256s in hex -> uint8 [n, 32]."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), 32)


def _listed(index: bytes | None) -> list[str] | None:
    """The pictures that an index lists; None for what is no index."""
    try:
        pictures = json.loads(index or b"")["pictures"]
        return pictures if pictures and len(_hash_bytes(pictures)) == len(set(pictures)) else None
    except (ValueError, TypeError, KeyError):
        return None


def _sound(rows: NDArray[np.generic], shape: tuple[int, int]) -> bool:
    """Whether these are finite vectors of length 1, float32 of that shape."""
    if rows.dtype != np.float32 or rows.shape != shape:
        return False
    lengths = np.linalg.norm(rows, axis=1)
    return bool((np.abs(lengths - 1) <= LENGTH_TOLERANCE).all())  # NaN compares as False


def embed_once(
    encoder: Encoder,
    images: Images,
    batch: int,
    runtime: RuntimeParams,
    store: VectorStore | None,
    label: str,
    world: World = ALONE,
) -> tuple[Rows, Counts]:
    """Embed pictures, computing only vectors that the store lacks; it gets them in parts, about one a minute.

    Every forward pass has `batch` pictures, the last one filled up with black ones, so that a vector doesn't
    depend on what was known: with an `order_free` encoder not in one bit (decision 0016).

    Args:
        encoder: In evaluation mode.
        images: With their hashes; several may be the same file.
        batch: Pictures in a forward pass.
        runtime: Device, threads, worker processes.
        store: None computes all of them.
        label: Names the step in progress.
        world: The processes that share the work. Each keeps what it computes; the first alone reads.

    Returns:
        float32 [len(images), dim] in the order of `images`, and how many were computed in all processes. The
        rows of other processes than the first mean nothing.

    Raises:
        DataError: A picture can't be decoded.
        StorageError: A picture can't be read, or the remote refuses.
        WeightsError: The encoder's answer is no number.
    """
    assert images.hashes is not None, "a picture without a hash can't be looked up"
    pictures = list(dict.fromkeys(images.hashes))
    number = {digest: row for row, digest in enumerate(pictures)}
    order = np.array([number[digest] for digest in images.hashes], np.int64)
    places = np.unique(order, return_index=True)[1]  # where each picture comes first
    rows, known = np.empty((len(pictures), encoder.dim), np.float32), np.zeros(len(pictures), np.bool_)
    if store and world.first:
        known = store.fill(pictures, rows)
    missing = np.flatnonzero(~np.frombuffer(world.shared(known.tobytes()), np.bool_))
    parts = world.parts(len(missing), batch)
    own = images.take(places[missing[parts[world.rank]]].tolist())
    with track(label, len(own)) if world.first else nullcontext(silent) as advance:
        computed = world.collected(_computed(encoder, own, batch, runtime, store, advance), parts)
    if world.first:
        rows[missing] = computed
    known_count = len(pictures) - len(missing)
    counts = Counts(len(missing), known_count, loose=0 if order_free(encoder) else known_count)
    return rows if len(pictures) == len(images) else rows[order], counts


def _computed(
    encoder: Encoder,
    images: Images,
    batch: int,
    runtime: RuntimeParams,
    store: VectorStore | None,
    advance: Advance,
) -> Rows:
    """The vectors of different pictures, kept in the store as they are made."""
    rows, kept, done = np.empty((len(images), encoder.dim), np.float32), 0, 0
    for made in stream(encoder, images, batch, runtime, full=True):
        rows[made.rows] = made.whole()
        done += len(made)
        advance(len(made))
        if store and images.hashes and (done == len(images) or store.due(done - kept)):
            store.save(images.hashes[kept:done], rows[kept:done])
            kept = done
    return rows
