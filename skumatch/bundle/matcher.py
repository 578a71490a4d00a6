"""A bundle in memory, which matches pictures to the most similar SKUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from skumatch.bundle.assortment import Assortment, GalleryPart, Shelves
from skumatch.bundle.manifest import GALLERY, THRESHOLDS, Manifest, bundle_hash
from skumatch.bundle.parts import Floats, LabelledVectors, read_gallery
from skumatch.bundle.verify import verify_bundle
from skumatch.errors import BundleError
from skumatch.files import read_json
from skumatch.retrieval.thresholds import Thresholds, scores_of

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder
    from skumatch.model.preprocess import Picture
    from skumatch.retrieval.search import Nearest

BATCH = 64  # pictures encoded at a time


class Match(NamedTuple):
    """One SKU that a picture may show.

    Attributes:
        sku: the SKU.
        similarity: cosine of the picture to the SKU's best gallery image.
        gallery_id: id of that gallery image.
        unknown: whether the picture shows none of the products searched, by the bundle's thresholds; the same
            for all matches of a picture.
    """

    sku: str
    similarity: float
    gallery_id: str
    unknown: bool


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory, ready to match.

    Attributes:
        hash: the bundle's hash.
        manifest: its manifest.
        encoder: the encoder with its preprocessing.
        gallery: the labelled vectors.
        thresholds: the thresholds for unknown products.
    """

    hash: str
    manifest: Manifest
    encoder: Encoder
    gallery: LabelledVectors
    thresholds: Thresholds

    @classmethod
    def load(cls, folder: Path, expected: str | None = None) -> Bundle:
        """Verify a bundle's folder, then read it.

        Args:
            folder: the bundle's folder.
            expected: the hash that the bundle has to have; None for any.

        Raises:
            BundleError: as verify_bundle, or if encoder and gallery don't belong together.
        """
        manifest = verify_bundle(folder, expected)
        from skumatch.model.encoder import load  # torch takes seconds to import

        encoder = load(folder / "encoder")
        gallery = read_gallery(folder / GALLERY, manifest.dim)
        if encoder.dim != manifest.dim:
            parts = f"Encoder and gallery of the bundle in {folder}"
            raise BundleError(f"{parts} don't belong together; make the bundle again.")
        return cls(bundle_hash(folder), manifest, encoder, gallery, read_thresholds(folder / THRESHOLDS))

    def match(
        self,
        images: Sequence[Picture],
        top_k: int = 5,
        assortment: Assortment | None = None,
    ) -> list[list[Match]]:
        """Find the most similar SKUs of each picture, by exact search.

        Args:
            images: RGB, of Pillow or as arrays of uint8 [height, width, 3].
            top_k: number of SKUs; all where there are fewer.
            assortment: products to search alone; None for the whole gallery.

        Returns:
            For each picture its SKUs, best first, each by its nearest gallery image.
        """
        batches = (self._embed(images[start : start + BATCH]) for start in range(0, len(images), BATCH))
        return [row for vectors in batches for row in self.nearest(vectors, top_k, assortment)]

    def nearest(self, vectors: Floats, top_k: int, assortment: Assortment | None = None) -> list[list[Match]]:
        """Find the most similar SKUs of each picture by its vector.

        Args:
            vectors: the pictures' vectors [n, dim] by this bundle's encoder.
            top_k: number of SKUs, at least 1; all where there are fewer.
            assortment: products to search alone; None for the whole gallery.

        Returns:
            As `match`.
        """
        assert top_k >= 1
        part = self.shelves.part(assortment)
        lists = part.nearest(vectors, max(top_k, 2))  # the margin needs a second SKU
        called_unknown = self.thresholds.unknown(scores_of(lists)).tolist()
        pairs = zip(lists, called_unknown, strict=True)
        return [_matches(part, nearest[:top_k], unknown) for nearest, unknown in pairs]

    def assortment(self, names: Iterable[str], where: str = "the assortment") -> Assortment:
        """Look up a shop's products in the gallery, as `Shelves.resolve` does."""
        return self.shelves.resolve(names, where)

    @cached_property
    def shelves(self) -> Shelves:
        """The gallery with the cache of its parts."""
        return Shelves(self.gallery)

    def _embed(self, images: Sequence[Picture]) -> Floats:
        import torch

        see = self.encoder.preprocess
        with torch.inference_mode():
            pixels = torch.stack([see(image) for image in images])
            vectors: Floats = self.encoder(see.normalise(pixels)).numpy()
        return vectors


def _matches(part: GalleryPart, nearest: Nearest, unknown: bool) -> list[Match]:
    gallery = part.gallery
    return [Match(gallery.skus[row], cosine, gallery.ids[row], unknown) for row, cosine in nearest]


def read_thresholds(path: Path) -> Thresholds:
    """Read thresholds.json.

    Raises:
        BundleError: the file holds no thresholds that this skumatch can read.
    """
    try:
        return Thresholds.model_validate(read_json(path))
    except ValueError as error:
        sentence = f"{path} holds no thresholds this skumatch can read; make the bundle again."
        raise BundleError(sentence) from error
