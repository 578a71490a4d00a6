"""train: fine-tune the encoder on the split's `train` images, from the last checkpoint of the same inputs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skumatch.config import Settings
from skumatch.data.images import Images
from skumatch.files import canonical_json, sha256
from skumatch.model.checkpoint import Checkpoints
from skumatch.model.distributed import World, joined
from skumatch.model.embed import vectors_of
from skumatch.model.encoder import save
from skumatch.model.fetched import fetched_weights
from skumatch.model.train import train
from skumatch.params import Params, RuntimeParams
from skumatch.stages import artefacts
from skumatch.stages.artefacts import TrainedOn
from skumatch.stages.runner import LIVE
from skumatch.stages.selection import select

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder


# gallery pictures per SKU, and queries: enough to compare epochs, at a few percent of an epoch's time
EACH, QUERIES = 5, 2_000


class Validation:
    """Micro-averaged top-1 by nearest neighbour, on the same random sample at every call.

    The sample has up to `EACH` gallery pictures per SKU and up to `QUERIES` queries.

    Attributes:
        gallery: The sample of the gallery.
        queries: The sample of the queries.
        batch: Pictures in a forward pass.
        runtime: Device, threads, worker processes.
    """

    def __init__(
        self, gallery: Images, queries: Images, batch: int, runtime: RuntimeParams, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        ranks = pd.Series(rng.random(len(gallery))).groupby(pd.Series(gallery.skus, dtype=object)).rank()
        self.gallery = gallery.take(np.flatnonzero(ranks <= EACH).tolist())
        self.queries = queries.take(sorted(rng.permutation(len(queries))[:QUERIES].tolist()))
        self.batch, self.runtime = batch, runtime

    def __call__(self, encoder: Encoder) -> float:
        """Return the share of queries whose nearest gallery picture is of their SKU.

        The encoder is in evaluation mode afterwards.
        """
        return float(hits(encoder, self.gallery, self.queries, self.batch, self.runtime).mean())


def hits(
    encoder: Encoder, gallery: Images, queries: Images, batch: int, runtime: RuntimeParams
) -> NDArray[np.bool_]:
    """Find out for each query if its nearest gallery picture is of its SKU.

    Args:
        encoder: It is in evaluation mode afterwards.
        gallery: The pictures to search.
        queries: The pictures to search for.
        batch: Pictures in a forward pass.
        runtime: Device, threads, worker processes.

    Returns:
        bool [len(queries)].
    """
    gallery_vectors = vectors_of(encoder, gallery, batch, runtime)
    query_vectors = vectors_of(encoder, queries, batch, runtime)
    nearest = (query_vectors @ gallery_vectors.T).argmax(axis=1)
    correct: NDArray[np.bool_] = np.array(gallery.skus)[nearest] == np.array(queries.skus)
    return correct


CODE = (
    "skumatch/stages/train.py",
    "skumatch/stages/selection.py",
    "skumatch/data",
    "skumatch/model",
    "requirements/constraints.txt",
)


def run(root: Path, params: Params) -> None:
    """Write out/train: the encoder, its history, and the images that it was trained on."""
    with joined(params.runtime) as world:
        _train(root, params, world)


def _train(root: Path, params: Params, world: World) -> None:
    rows, pictures = select(root, "train")
    validation = select(root, "val")[1]
    key, weights = inputs_hash(root, params), fetched_weights(artefacts.WEIGHTS.at(root))
    checkpoints = judge = None
    if world.first:
        checkpoints = Checkpoints(Settings().remote_url, key, params.runtime.checkpoint_seconds)
    if len(validation):
        judge = Validation(pictures, validation, params.embed.batch, params.runtime, params.seed)
    encoder = train(
        images=pictures,
        classes=sorted(rows["sku"].unique()),
        spec=params.encoder,
        params=params.train,
        seed=params.seed,
        weights=weights,
        checkpoints=checkpoints,
        runtime=params.runtime,
        history=artefacts.HISTORY.at(root),
        judge=judge,
        world=world,
        live=root / LIVE,
    )
    if world.first:
        save(encoder, artefacts.ENCODER.at(root))
        artefacts.TRAINING_PIXELS.write(root, pd.DataFrame({"id": sorted(set(rows["pixels"]))}))
        base = artefacts.WEIGHTS_FACTS.read(root).model_dump(exclude_unset=True)
        facts = TrainedOn(images=len(rows), skus=int(rows["sku"].nunique()), weights=base)
        artefacts.TRAINING.write(root, facts)


def inputs_hash(root: Path, params: Params) -> str:
    """Return the SHA-256 over all that determines the trained weights.

    It names the checkpoints, so that only a training with the same inputs goes on from them.
    """
    inputs = ("data/manifest.parquet", artefacts.ROLES.path, artefacts.WEIGHTS_FACTS.path)
    names = [*inputs, *_code(root)]
    facts = {
        "files": {name: sha256(root / name) for name in names},
        "params": params.model_dump(mode="json", include={"seed", "encoder", "train"}),
    }
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def _code(root: Path) -> list[str]:
    """Return the paths of the files that CODE names, relative to `root`, sorted."""
    paths: list[Path] = []
    for name in CODE:
        path = root / name
        paths += path.rglob("*") if path.is_dir() else [path]
    files = [path for path in paths if path.is_file() and "__pycache__" not in path.parts]
    return sorted(path.relative_to(root).as_posix() for path in files)
