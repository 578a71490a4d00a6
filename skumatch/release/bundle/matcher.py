"""A bundle in memory: pictures in, the most similar SKUs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skumatch.errors import BundleError
from skumatch.files import read_json
from skumatch.release.bundle.manifest import GALLERY, THRESHOLDS, Manifest, bundle_hash
from skumatch.release.bundle.parts import Floats, Gallery, read_gallery
from skumatch.release.bundle.verify import verify_bundle
from skumatch.retrieval.thresholds import NO_COSINE, Scores, Thresholds

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder
    from skumatch.model.preprocess import Picture
    from skumatch.retrieval.search import Index

BATCH = 64  # pictures encoded at a time
FIRST_K = 32  # gallery images looked at first; more only where they hold too few SKUs


class Match(NamedTuple):
    """One SKU a picture may show: cosine to its best gallery image. `unknown` is of the picture, alike for all its matches: whether by
    the bundle's thresholds it shows no product of the gallery."""

    sku: str
    similarity: float
    gallery_id: str
    unknown: bool


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
        gallery = read_gallery(folder / GALLERY, manifest.dim)
        if encoder.dim != manifest.dim:
            raise BundleError(f"Encoder and gallery of the bundle in {folder} don't belong together; make the bundle again.")
        return cls(bundle_hash(folder), manifest, encoder, gallery, _read_thresholds(folder / THRESHOLDS))

    def match(self, images: Sequence[Picture], top_k: int = 5) -> list[list[Match]]:
        """For each picture the `top_k` most similar SKUs, best first, each by its nearest gallery image (exact search).

        images: RGB, of Pillow or as arrays of uint8 [height, width, 3].
        """
        batches = (self._embed(images[start : start + BATCH]) for start in range(0, len(images), BATCH))
        return [row for vectors in batches for row in self.nearest(vectors, top_k)]

    def nearest(self, vectors: Floats, top_k: int) -> list[list[Match]]:
        """As `match`, for pictures' vectors [n, dim] of this bundle's encoder."""
        assert top_k >= 1
        wanted = min(max(top_k, 2), self.manifest.counts.skus)  # the margin asks for a second SKU
        rows = self._nearest(vectors, wanted)
        return [[match._replace(unknown=unknown) for match in row[:top_k]] for row, unknown in zip(rows, self._unknown(rows), strict=True)]

    @cached_property
    def index(self) -> Index:
        """The gallery, ready to be searched."""
        from skumatch.retrieval.search import Index

        return Index(self.gallery.embeddings, "torch")

    def _unknown(self, rows: list[list[Match]]) -> list[bool]:
        """Whether each picture is called unknown, by its best match and by the margin to the second."""
        cosines = np.array([[*(match.similarity for match in row[:2]), NO_COSINE][:2] for row in rows], np.float64).reshape(-1, 2)
        found: list[bool] = self.thresholds.unknown(Scores(cosines[:, 0], cosines[:, 0] - cosines[:, 1])).tolist()
        return found

    def _nearest(self, vectors: Floats, wanted: int) -> list[list[Match]]:
        k = FIRST_K
        while True:
            similarities, rows = self.index.nearest(vectors, k)
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

    def _embed(self, images: Sequence[Picture]) -> Floats:
        import torch

        see = self.encoder.preprocess
        with torch.inference_mode():
            vectors: Floats = self.encoder(see.normalise(torch.stack([see(image) for image in images]))).numpy()
        return vectors


def _read_thresholds(path: Path) -> Thresholds:
    try:
        return Thresholds.model_validate(read_json(path))
    except ValueError as error:
        raise BundleError(f"{path} holds no thresholds this skumatch can read; make the bundle again.") from error
