"""bundle: write the bundles that may be released, and load and query each once in a clean process.

The challenger's bundle is in out/bundle/model, the refreshed one (the champion's encoder with today's
gallery) in out/bundle/refreshed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from skumatch.bundle import LabelledVectors, write_bundle
from skumatch.bundle.blessing import bless
from skumatch.data.split import GALLERY_ROLES
from skumatch.params import Params
from skumatch.stages import artefacts
from skumatch.stages.artefacts import VECTORS_OF, CandidateBundle
from skumatch.stages.selection import select


def run(root: Path, params: Params) -> None:
    """Write out/bundle: a bundle for each candidate, and facts.json."""
    items, held = artefacts.ITEMS.read(root), artefacts.HELD_BACK.read(root)
    gallery = items[items["role"].eq("gallery")]
    encoders = {
        "challenger": (artefacts.ENCODER, artefacts.TRAINING_PIXELS),
        "refreshed": (artefacts.CHAMPION_ENCODER, artefacts.CHAMPION_PIXELS),
    }
    facts: dict[str, CandidateBundle | None] = dict.fromkeys(encoders)
    for candidate, (encoder, pixels) in encoders.items():
        if encoder.exists(root):
            rows, trained = _without(gallery, held.get(candidate, {})), pixels.read(root)["id"].tolist()
            facts[candidate] = _bundle(root, params, candidate, rows, encoder.at(root), trained)
    artefacts.BUNDLES.write(root, facts)


def _without(gallery: pd.DataFrame, held: dict[str, str]) -> pd.DataFrame:
    """Return the gallery's rows without those of products that are held back."""
    return gallery[~gallery["sku"].isin(list(held))]


def _bundle(
    root: Path, params: Params, candidate: str, gallery: pd.DataFrame, encoder: Path, trained: Iterable[str]
) -> CandidateBundle:
    """Write a candidate's bundle and try it in a clean process.

    Args:
        root: The stage's workspace.
        params: The gate's limits that the bundle is tried against.
        candidate: `challenger` or `refreshed`.
        gallery: The items to serve with, one row each; the index gives their rows in the embeddings.
        encoder: The encoder's folder.
        trained: Hashes of the pixels that the encoder was trained on.

    Returns:
        The bundle's hash, its size in megabytes, and the results of the trial.
    """
    embeddings = artefacts.VECTORS.read(root, encoder=VECTORS_OF[candidate])[gallery.index]
    thresholds = artefacts.THRESHOLDS.read(root, candidate=candidate).model_dump(mode="json")
    folder = artefacts.BUNDLE[candidate].at(root)
    labelled = LabelledVectors(gallery["id"].tolist(), gallery["sku"].tolist(), embeddings)
    digest = write_bundle(folder, encoder, labelled, thresholds, trained)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    rows, pictures = select(root, *GALLERY_ROLES)
    served = rows.index[rows["sku"].isin(gallery["sku"])]
    blessing = bless(
        folder,
        rows.loc[served].reset_index(drop=True),
        pictures.take(served.tolist()),
        params.gate.max_p95_ms,
    )
    return CandidateBundle(
        bundle=digest, megabytes=round(size, 3), blessed=blessing.blessed, p95_ms=blessing.p95_ms
    )
