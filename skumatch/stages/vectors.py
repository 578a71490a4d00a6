"""Vectors of an encoder for a stage: read from the remote where they are known, else computed and stored."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skumatch.config import Settings
from skumatch.data.images import Images
from skumatch.files import md5, read_json, write_json
from skumatch.model.distributed import ALONE, World
from skumatch.model.encoder import Encoder
from skumatch.model.vector_store import VectorStore, embed_once, encoder_key
from skumatch.params import Params
from skumatch.stages.runner import VECTORS, machine


def stage_vectors(
    root: Path,
    encoder: Encoder,
    weights_file: Path,
    pictures: Images,
    params: Params,
    name: str,
    world: World = ALONE,
) -> NDArray[np.float32]:
    """Embed pictures, except those whose vectors are in the store (with SKUMATCH_VECTORS=off none are).

    Args:
        root: The stage's workspace; the counts of computed and known vectors go to its log folder.
        encoder: In evaluation mode.
        weights_file: File that names the encoder's weights; a clean-up keeps the vectors while it is needed.
        pictures: Pictures of a manifest, with their hashes.
        params: `embed.batch` and `runtime`.
        name: The encoder's part in the run, as progress and counts name it.
        world: The processes that share the work.

    Returns:
        float32 [len(pictures), encoder.dim], in their order; only the first process's rows count.

    Raises:
        DataError: A picture can't be decoded.
        StorageError: A picture can't be read, or the remote refuses.
        WeightsError: The encoder returns vectors that are not finite.
    """
    settings, batch, runtime = Settings(), params.embed.batch, params.runtime
    store = None
    if settings.vectors == "keep" and len(pictures):
        key = encoder_key(encoder, batch, runtime, machine())
        store = VectorStore(settings.remote_url, key, encoder.dim, runtime.checkpoint_seconds)
        if world.first:
            store.mark_used(md5(weights_file))
    rows, counts = embed_once(encoder, pictures, batch, runtime, store, f"embed {name}", world)
    if world.first:
        print(f"Vectors of {name}: {counts.computed:,} computed, {counts.known:,} known.")
        path = root / VECTORS
        recorded = read_json(path) if path.is_file() else {}
        write_json(path, recorded | {name: asdict(counts)})
    return rows
