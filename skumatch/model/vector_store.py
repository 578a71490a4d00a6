"""The remote store of vectors by (encoder, picture), so that each is computed once (decision 0016)."""

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

if TYPE_CHECKING:  # not at run time: a caller with an encoder has loaded its libraries already
    from skumatch.model.encoder import Encoder

# Version of the code that decodes, preprocesses and encodes: raise it when a change alters a vector's bits.
CODE_VERSION = 1
PACKAGES = ("torch", "timm", "open_clip_torch", "numpy", "pillow", "simplejpeg")  # may alter the bits, too
# Size of a part's vectors: a damaged byte costs one part, and saving holds one part twice in memory.
PART_BYTES = 2**28
INDEX = re.compile(r"[0-9a-f]{64}\.json")
READERS = 16  # index files that are fetched at once
LENGTH_TOLERANCE = 1e-3  # how far the length of a unit vector in float32 may be from 1
Rows = NDArray[np.float32]


# Layers that compute the same bits for a row at any place in a batch. Other layers contain exp or tanh: for a
# block of fewer than 32 numbers a CPU computes these with different code.
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
class VectorCounts:
    """Counts of distinct pictures: vectors computed, and vectors taken from the store.

    Attributes:
        computed: Vectors that this run computed.
        known: Vectors that the store had.
        loose: How many of the known vectors might differ in their last bits if this run computed them.
    """

    computed: int
    known: int
    loose: int = 0


def order_free(encoder: Encoder) -> bool:
    """Return True if on a CPU a vector's bits don't depend on its picture's place in a batch of fixed size.

    This was measured on towers that consist of the layers in `ALIKE` only, such as efficientnet-lite0. With
    SiLU or GELU the last bit of some numbers depends on the place, a difference of about 2e-8 for a vector of
    length 1 (decision 0016).
    """
    return all(type(layer).__name__ in ALIKE for layer in encoder.modules() if not list(layer.children()))


def encoder_key(encoder: Encoder, batch: int, runtime: RuntimeParams, machine: str) -> str:
    """Hash everything that decides the bits of an encoder's vectors, except the picture.

    Args:
        encoder: Its tensors are hashed, so one rule holds for base, random and trained weights.
        batch: Pictures in a forward pass; another shape may be computed in another order.
        runtime: Device and threads.
        machine: Processor, cores and GPU in words (`stages.runner.machine`); another machine may round
            differently.

    Returns:
        A SHA-256 in hex.

    Raises:
        ParameterError: `runtime` names a GPU and there is none.
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
    """The vectors of one encoder in `<url>/vectors/<key>/` on any fsspec file system (a path, s3://...).

    The vectors are stored in parts. A part is a safetensors file named by its SHA-256. It holds `vectors`,
    float32 [n, dim]; `pictures`, the SHA-256 of each picture file, uint8 [n, 32]; and `encoder`, the key. Its
    index is a JSON file of the same name that lists the pictures. The index is written last and commits the
    part. Parts never change, so several machines may write at the same time.

    Attributes:
        fs: The file system of the remote.
        key: `encoder_key` of the encoder.
        dim: Length of its vectors.
        seconds: Least time between two parts.
        folder: The store's folder on `fs`.
        shown: The folder as messages show it.
        saved: `time.monotonic()` at the end of the last save, or when the store was opened.
        took: Seconds that the last save took.
    """

    def __init__(self, url: str, key: str, dim: int, seconds: float = 60.0) -> None:
        """Open a store without reading or writing anything.

        Args:
            url: The remote.
            key: `encoder_key` of the encoder.
            dim: Length of its vectors.
            seconds: Least time between two parts, for `due`.
        """
        self.fs, root = file_system(url)
        self.key, self.dim, self.seconds = key, dim, seconds
        self.folder = f"{root.rstrip('/')}/vectors/{key}"
        self.shown = f"{shown(url).rstrip('/')}/vectors/{key}"
        self.saved, self.took = time.monotonic(), 0.0

    def mark_used(self, digest: str) -> None:
        """Record that a run uses these vectors now, so that no clean-up removes them.

        Args:
            digest: MD5 of the file that names the encoder's weights. The vectors are kept as long as a
                version or run needs that DVC object (cleanup/retention.py).

        Raises:
            StorageError: The remote refuses.
        """
        with self._storage():
            self.fs.makedirs(self.folder, exist_ok=True)
            note = canonical_json({"encoder": self.key, "rests_on": digest})
            self._put(f"used-{digest}.json", note.encode())

    def fill(self, pictures: Sequence[str], rows: Rows) -> NDArray[np.bool_]:
        """Copy the vectors that the store has into `rows`.

        Only parts that hold a wanted picture are fetched. A damaged part is reported on stderr and removed;
        its pictures stay unknown unless another part holds them.

        Args:
            pictures: SHA-256 of distinct picture files, hex.
            rows: float32 [len(pictures), dim]. Rows of unknown pictures keep their values.

        Returns:
            bool [len(pictures)], True for each known picture.

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
                    targets = [held[row] for row in wanted]
                    rows[targets], known[targets] = part[wanted], True
        return known

    def due(self, count: int) -> bool:
        """Return True if it is time to save `count` new vectors as a part.

        A part is due `seconds` after the last one, later if saving takes long (`COST`), or once the new
        vectors fill `PART_BYTES`.
        """
        late = time.monotonic() - self.saved >= max(self.seconds, self.took / COST)
        return late or count * self.dim * np.dtype(np.float32).itemsize >= PART_BYTES

    def save(self, pictures: Sequence[str], rows: Rows) -> None:
        """Commit a part.

        Args:
            pictures: SHA-256 of distinct picture files, hex, at least one.
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
        """Yield each part's name and pictures, sorted by name; remove a part whose index is damaged."""
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
            elif text is not None:  # None: another process removed it
                self._drop(name)

    def _part(self, name: str, listed: list[str]) -> Rows | None:
        """Return a part's vectors in the order of its index; remove a bad part and return None."""
        data = self._content(f"{name}.safetensors")
        rows = self._trusted(data, listed) if data is not None and _sha256(data) == name else None
        if rows is None:
            self._drop(name)
        return rows

    def _trusted(self, data: bytes, listed: list[str]) -> Rows | None:
        """Return a part's vectors if they belong to this encoder and the listed pictures and are sound."""
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
        problem = f"The vectors in {self.shown}/{name} are damaged or of another encoder"
        print(f"{problem}; they are removed and computed again.", file=sys.stderr)
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
    """Convert SHA-256s in hex to uint8 [n, 32]."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), 32)


def _listed(index: bytes | None) -> list[str] | None:
    """Return the pictures that an index lists, or None if these bytes are no valid index."""
    try:
        pictures = json.loads(index or b"")["pictures"]
        return pictures if pictures and len(_hash_bytes(pictures)) == len(set(pictures)) else None
    except (ValueError, TypeError, KeyError):
        return None


def _sound(rows: NDArray[np.generic], shape: tuple[int, int]) -> bool:
    """Return True if `rows` are finite float32 vectors of length 1, and have this shape."""
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
) -> tuple[Rows, VectorCounts]:
    """Embed pictures: take known vectors from the store, compute the others and save them there.

    New vectors are saved in parts, about one a minute. Every forward pass has `batch` pictures, and black
    pictures fill up the last one. So a vector doesn't depend on which vectors were known; with an
    `order_free` encoder not a single bit of it does (decision 0016).

    Args:
        encoder: In evaluation mode.
        images: Pictures with their hashes; several may be the same file.
        batch: Pictures in a forward pass.
        runtime: Device, threads, worker processes.
        store: The store to read and fill, or None to compute every vector.
        label: Name of the step in the progress line.
        world: The processes that share the work. Each saves the vectors that it computes; only the first one
            reads the store.

    Returns:
        float32 [len(images), dim] in the order of `images`, and the counts over all processes. Only the first
        process's rows have a meaning.

    Raises:
        DataError: A picture can't be decoded.
        StorageError: A picture can't be read, or the remote refuses.
        WeightsError: The encoder returned a vector that is not finite.
    """
    assert images.hashes is not None, "a picture without a hash can't be looked up"
    pictures = list(dict.fromkeys(images.hashes))
    row_of = {digest: row for row, digest in enumerate(pictures)}
    order = np.array([row_of[digest] for digest in images.hashes], np.int64)
    places = np.unique(order, return_index=True)[1]  # index in `images` of each picture's first occurrence
    rows = np.empty((len(pictures), encoder.dim), np.float32)
    known = np.zeros(len(pictures), np.bool_)
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
    counts = VectorCounts(len(missing), known_count, loose=0 if order_free(encoder) else known_count)
    return rows if len(pictures) == len(images) else rows[order], counts


def _computed(
    encoder: Encoder,
    images: Images,
    batch: int,
    runtime: RuntimeParams,
    store: VectorStore | None,
    advance: Advance,
) -> Rows:
    """Compute the vectors of distinct pictures, and save them to the store in parts along the way."""
    rows = np.empty((len(images), encoder.dim), np.float32)
    saved, done = 0, 0
    for embedded in stream(encoder, images, batch, runtime, full=True):
        rows[embedded.rows] = embedded.whole()
        done += len(embedded)
        advance(len(embedded))
        if store and images.hashes and (done == len(images) or store.due(done - saved)):
            store.save(images.hashes[saved:done], rows[saved:done])
            saved = done
    return rows
